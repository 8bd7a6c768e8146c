"""The reader of Mooncake's JSON lines, with the prefix blocks that only this format has.

One object per line: `timestamp` (ms), `input_length`, `output_length` and `hash_ids`, as in
the release of kvcache-ai/Mooncake; or the same in our words: `arrival_s` (s),
`prompt_tokens`, `output_tokens`, `hash_ids`.  `hash_ids` may be absent from all rows.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from ewsjf_env.config import ConfigError
from ewsjf_env.workload.columns import (
    CSV_NAMES,
    ColumnBuilder,
    ColumnNames,
    TraceTable,
    likeness,
    missing_column,
    short,
)

HASH_IDS = "hash_ids"
RELEASED_NAMES = ColumnNames("timestamp", "input_length", "output_length", time_scale=1e-3)


def read_mooncake(path: Path, lines: Iterator[str]) -> TraceTable:
    """Read JSON lines; the first object decides which of the two sets of names holds.

    Raises:
        ConfigError: naming the file, row, field, value and what is allowed.
    """
    objects = _objects(path, lines)
    first_row, first = next(objects, (0, None))
    if first is None:
        raise ConfigError(f"{path}: no request in the file")
    fits_released = likeness(RELEASED_NAMES, [*first]) > likeness(CSV_NAMES, [*first])
    names = RELEASED_NAMES if fits_released else CSV_NAMES
    has_ids = HASH_IDS in first
    table = ColumnBuilder(path, "mooncake", names)
    needed = (names.time, names.prompt, names.output)
    for row, item in chain([(first_row, first)], objects):
        for name in needed:
            if name not in item:
                raise missing_column(path, row, name, [*item], [*needed, HASH_IDS])
        if (HASH_IDS in item) is not has_ids:
            found = "present" if HASH_IDS in item else "missing"
            raise ConfigError(
                f"{path}: row {row}: {HASH_IDS}: {found}, unlike row {first_row}; expected in "
                "every row or in none"
            )
        moment = table.number(row, names.time, item[names.time])
        table.add(row, moment, item[names.prompt], item[names.output])
        if has_ids:
            table.add_block_ids(row, HASH_IDS, item[HASH_IDS])
    return table.build()


def _objects(path: Path, lines: Iterator[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number, object) of each line that is not blank."""
    for row, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            item = json.loads(line)
        except (ValueError, RecursionError) as error:
            reason = getattr(error, "msg", "not a plain value")
            shown = short(line.strip())
            raise ConfigError(f"{path}: row {row}: not valid JSON ({reason}): {shown}") from None
        if not isinstance(item, dict):
            raise ConfigError(f"{path}: row {row}: expected a JSON object, got {short(item)}")
        yield row, item
