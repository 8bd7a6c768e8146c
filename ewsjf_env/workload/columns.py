"""Checked columns of a trace file; an error names the row of the fault.

The readers of all formats append rows to `ColumnBuilder`; the checks are here, once.  Rows are
numbered as lines of the (uncompressed) file, the first line being 1.
"""

from __future__ import annotations

import dataclasses
import difflib
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ewsjf_env.config import ConfigError
from ewsjf_env.workload.trace import (
    BLOCK_TOKENS,
    MAX_TOKENS,
    BlockIds,
    Floats,
    Ints,
    blocks_of,
    first_true,
)

MAX_TIME_S = 1e12
MAX_PRIORITY = 2**31 - 1


@dataclass(frozen=True, eq=False)
class TraceTable:
    """The content of one trace file, as it was recorded.

    Attributes:
        path: the file.
        format: the reader that understood it.
        arrival_s: float64 (n,), ascending, in seconds; None when the source has no times.
        prompt_tokens, output_tokens: int64 (n,), in [1, MAX_TOKENS].
        priority: int64 (n,) or None.
        block_ids: prefix block ids per request, or None.
        skipped_failed: requests left out because the source marks them as failed.
    """

    path: Path
    format: str
    arrival_s: Floats | None
    prompt_tokens: Ints
    output_tokens: Ints
    priority: Ints | None = None
    block_ids: BlockIds | None = None
    skipped_failed: int = 0

    def __len__(self) -> int:
        return len(self.prompt_tokens)

    def part(self, start: float, end: float) -> TraceTable:
        """The rows of a fraction [start, end) of the recording, in time or else in rows.

        Raises:
            ConfigError: fewer than two requests are left.
        """
        n = len(self)
        if self.arrival_s is None:
            rows = slice(round(start * n), round(end * n))
        else:
            first, span = float(self.arrival_s[0]), float(self.arrival_s[-1] - self.arrival_s[0])
            limits = [first + start * span, first + end * span]
            low, high = np.searchsorted(self.arrival_s, limits).tolist()
            rows = slice(low, n if end >= 1.0 else high)
        if len(range(n)[rows]) < 2:
            raise ConfigError(f"{self.path}: part [{start:g}, {end:g}] holds fewer than 2 requests")
        return dataclasses.replace(
            self,
            arrival_s=None if self.arrival_s is None else self.arrival_s[rows],
            prompt_tokens=self.prompt_tokens[rows],
            output_tokens=self.output_tokens[rows],
            priority=None if self.priority is None else self.priority[rows],
            block_ids=None if self.block_ids is None else self.block_ids[rows],
        )


@dataclass(frozen=True)
class ColumnNames:
    """What the columns are called in a format, so that errors use the file's own words.

    `time_scale` seconds is one unit of the time column.
    """

    time: str
    prompt: str
    output: str
    time_scale: float = 1.0


CSV_NAMES = ColumnNames("arrival_s", "prompt_tokens", "output_tokens")
"""Our own words for the columns, in CSV and in JSON lines."""


class ColumnBuilder:
    """Collects rows and turns them into a `TraceTable`, or into one ConfigError."""

    def __init__(self, path: Path, file_format: str, names: ColumnNames) -> None:
        self.path, self.format, self.names = path, file_format, names
        self.skipped_failed = 0
        self._rows = array("q")
        self._times, self._prompts, self._outputs = array("d"), array("d"), array("d")
        self._priorities: list[float] = []
        self._block_ids: list[tuple[int, ...]] = []

    def fail(self, row: int, field: str, value: Any, allowed: str) -> ConfigError:
        """The error for one cell (to be raised by the caller)."""
        return ConfigError(f"{self.path}: row {row}: {field}: {short(value)}, expected {allowed}")

    def number(self, row: int, field: str, value: Any) -> float:
        """A cell as a number; integers beyond 2^53 lose digits but are refused later anyway."""
        try:
            if isinstance(value, bool) or value is None:
                raise ValueError
            return float(value)
        except (TypeError, ValueError, OverflowError):
            raise self.fail(row, field, value, "a number") from None

    def add(self, row: int, time: float | None, prompt: Any, output: Any) -> None:
        """Append a request; `time` is in units of the time column, None for none."""
        self._rows.append(row)
        if time is not None:
            self._times.append(time)
        self._prompts.append(self.number(row, self.names.prompt, prompt))
        self._outputs.append(self.number(row, self.names.output, output))

    def add_priority(self, row: int, value: Any) -> None:
        """Append the priority of the request added last."""
        self._priorities.append(self.number(row, "priority", value))

    def add_block_ids(self, row: int, field: str, ids: Any) -> None:
        """Append the prefix block ids of the request added last."""
        allowed = "a list of whole numbers >= 0"
        if not isinstance(ids, Sequence) or isinstance(ids, str):
            raise self.fail(row, field, ids, allowed)
        for value in ids:
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise self.fail(row, field, value, allowed)
        prompt = self._prompts[-1]
        if 1 <= prompt <= MAX_TOKENS and len(ids) != blocks_of(int(prompt)):
            raise ConfigError(
                f"{self.path}: row {row}: {field}: {len(ids)} ids, expected "
                f"{blocks_of(int(prompt))} for {prompt:.0f} prompt tokens "
                f"({BLOCK_TOKENS} per id)"
            )
        self._block_ids.append(tuple(ids))

    def build(self) -> TraceTable:
        """Check all columns.

        Raises:
            ConfigError: no request, or the first value that is not allowed.
        """
        if not self._rows:
            failed = f" ({self.skipped_failed} failed ones skipped)" if self.skipped_failed else ""
            raise ConfigError(f"{self.path}: no request in the file{failed}")
        names = self.names
        return TraceTable(
            path=self.path,
            format=self.format,
            arrival_s=self._check_times() if self._times else None,
            prompt_tokens=self._whole(self._prompts, names.prompt, 1, MAX_TOKENS),
            output_tokens=self._whole(self._outputs, names.output, 1, MAX_TOKENS),
            priority=self._whole(self._priorities, "priority", -MAX_PRIORITY, MAX_PRIORITY)
            if self._priorities
            else None,
            block_ids=tuple(self._block_ids) if self._block_ids else None,
            skipped_failed=self.skipped_failed,
        )

    def _check_times(self) -> Floats:
        times = np.frombuffer(self._times, dtype=np.float64)
        limit = MAX_TIME_S / self.names.time_scale
        bad = first_true(~((times >= 0) & (times <= limit)))  # True for NaN
        if bad is not None:
            raise self.fail(self._rows[bad], self.names.time, float(times[bad]), f"[0, {limit:g}]")
        bad = first_true(np.diff(times) < 0)
        if bad is not None:
            raise self.fail(
                self._rows[bad + 1],
                self.names.time,
                float(times[bad + 1]),
                f"at least {float(times[bad])!r} of the request before: rows must be sorted",
            )
        return times * self.names.time_scale

    def _whole(self, cells: Sequence[float], field: str, low: int, high: int) -> Ints:
        values = np.array(cells, dtype=np.float64)
        bad = first_true(~((values >= low) & (values <= high) & (values == np.floor(values))))
        if bad is not None:
            value = float(values[bad])
            shown = int(value) if value.is_integer() and abs(value) < 1e15 else value
            raise self.fail(self._rows[bad], field, shown, f"a whole number in [{low}, {high}]")
        return values.astype(np.int64)


def short(value: Any) -> str:
    """`repr` of a value, cut to a length that fits into one line of an error."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an integer of thousands of digits, deep nesting
        text = f"<{type(value).__name__}>"
    return text if len(text) <= 60 else text[:57] + "..."


def likeness(names: ColumnNames, found: Sequence[str]) -> float:
    """How well the field names of a file fit a format: 2 per equal name, 1 per similar one."""
    wanted = (names.time, names.prompt, names.output)
    return sum(2.0 if name in found else float(is_like(name, found)) for name in wanted)


def is_like(name: str, found: Sequence[str]) -> bool:
    """Whether a field name, or one that a typing error made of it, is among `found`."""
    return bool(difflib.get_close_matches(name, found, n=1, cutoff=0.6))


def missing_column(
    path: Path, row: int, missing: str, found: Sequence[str], valid: Sequence[str]
) -> ConfigError:
    """The error for a field that a file lacks, naming the misspelt one if there is one."""
    unknown = [name for name in found if name not in valid]
    text = f"{path}: row {row}: missing column {missing!r}"
    for wrong in difflib.get_close_matches(missing, unknown, n=1, cutoff=0.4):
        return ConfigError(f"{text}; found {wrong!r}; nearest valid name: {missing!r}")
    return ConfigError(f"{text}; found {short(', '.join(found))}; valid: {', '.join(valid)}")
