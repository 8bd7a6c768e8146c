"""Readers of the trace formats in use, into one table.

| format   | columns                                                                      |
|----------|------------------------------------------------------------------------------|
| csv      | arrival_s, prompt_tokens, output_tokens [, priority]; others are ignored      |
| lengths  | prompt_tokens, output_tokens; arrival_s absent, empty or ignored              |
| azure    | TIMESTAMP, ContextTokens, GeneratedTokens (Azure LLM inference 2023 and 2024) |
| burstgpt | Timestamp (s), Request tokens, Response tokens; 0 response tokens = failed    |
| mooncake | JSON lines: timestamp (ms), input_length, output_length, hash_ids             |
|          | or arrival_s (s), prompt_tokens, output_tokens, hash_ids                      |

Files may be gzip compressed.  Sources: Azure/AzurePublicDataset, HPMLL/BurstGPT and
kvcache-ai/Mooncake on GitHub.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path

from ewsjf_env.config import ConfigError, nearest
from ewsjf_env.workload.columns import (
    CSV_NAMES,
    ColumnBuilder,
    ColumnNames,
    TraceTable,
    is_like,
    likeness,
    missing_column,
)
from ewsjf_env.workload.mooncake import read_mooncake
from ewsjf_env.workload.source import read_lines

AZURE_NAMES = ColumnNames("TIMESTAMP", "ContextTokens", "GeneratedTokens")
BURSTGPT_NAMES = ColumnNames("Timestamp", "Request tokens", "Response tokens")

OPTIONAL_COLUMNS = {
    "csv": ("client_id", "priority"),
    "lengths": ("arrival_s", "client_id", "priority"),
    "azure": (),
    "burstgpt": ("Model", "Total tokens", "Log Type"),
}

Row = tuple[int, list[str]]


def read_trace_file(path: str | Path, file_format: str | None = None) -> TraceTable:
    """Read a trace file.

    Args:
        path: the file, plain or gzip.
        file_format: one of `FORMATS`; None recognises it by the file's first line.

    Raises:
        ConfigError: naming the file, the row (line number), the field, its value and what is
            allowed.
    """
    path = Path(path)
    if file_format is not None and file_format not in FORMATS:
        raise ConfigError(f"format: unknown format {file_format!r}{nearest(file_format, FORMATS)}")
    lines = read_lines(path)
    first = next(lines)
    lines = chain([first], lines)
    if file_format is None:
        file_format = sniff(path, first)
    return FORMATS[file_format](path, lines)


def sniff(path: Path, first_line: str) -> str:
    """The format whose field names are nearest to those of the first line."""
    if first_line.lstrip().startswith("{"):
        return "mooncake"
    header = _header(path, first_line)
    candidates = {"csv": CSV_NAMES, "azure": AZURE_NAMES, "burstgpt": BURSTGPT_NAMES}
    best = max(candidates, key=lambda name: likeness(candidates[name], header))
    if best == "csv" and not is_like(CSV_NAMES.time, header):
        return "lengths"
    return best


def _read_csv(path: Path, lines: Iterator[str]) -> TraceTable:
    """Our CSV; a time column that is empty in every row makes it a `lengths` file."""
    header, rows = _csv_rows(path, lines)
    time, prompt, output = _locate(path, "csv", CSV_NAMES, header)
    priority = header.index("priority") if "priority" in header else None
    table = ColumnBuilder(path, "csv", CSV_NAMES)
    timed: bool | None = None
    for row, cells in rows:
        has_time = bool(cells[time].strip())
        if timed is None:
            timed = has_time
            table.format = "csv" if timed else "lengths"
        elif timed is not has_time:
            raise table.fail(
                row, CSV_NAMES.time, cells[time], "a time in every row, or in none of them"
            )
        moment = table.number(row, CSV_NAMES.time, cells[time]) if has_time else None
        table.add(row, moment, cells[prompt], cells[output])
        if priority is not None:
            table.add_priority(row, cells[priority])
    return table.build()


def _read_lengths(path: Path, lines: Iterator[str]) -> TraceTable:
    header, rows = _csv_rows(path, lines)
    prompt, output = _locate(path, "lengths", CSV_NAMES, header)
    priority = header.index("priority") if "priority" in header else None
    table = ColumnBuilder(path, "lengths", CSV_NAMES)
    for row, cells in rows:
        table.add(row, None, cells[prompt], cells[output])
        if priority is not None:
            table.add_priority(row, cells[priority])
    return table.build()


def _read_azure(path: Path, lines: Iterator[str]) -> TraceTable:
    """Wall-clock times become seconds since the first row; a missing zone means UTC."""
    header, rows = _csv_rows(path, lines)
    time, prompt, output = _locate(path, "azure", AZURE_NAMES, header)
    table = ColumnBuilder(path, "azure", AZURE_NAMES)
    start: datetime | None = None
    latest = 0.0
    for row, cells in rows:
        try:
            moment = datetime.fromisoformat(cells[time].strip())
        except ValueError:
            raise table.fail(
                row, AZURE_NAMES.time, cells[time], "a time such as 2024-05-10 00:00:00.009930"
            ) from None
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        start = start or moment
        elapsed_s = (moment - start).total_seconds()
        if elapsed_s < latest:
            raise table.fail(
                row, AZURE_NAMES.time, cells[time], "a time not before the row above: sorted rows"
            )
        latest = elapsed_s
        table.add(row, elapsed_s, cells[prompt], cells[output])
    return table.build()


def _read_burstgpt(path: Path, lines: Iterator[str]) -> TraceTable:
    header, rows = _csv_rows(path, lines)
    time, prompt, output = _locate(path, "burstgpt", BURSTGPT_NAMES, header)
    table = ColumnBuilder(path, "burstgpt", BURSTGPT_NAMES)
    for row, cells in rows:
        moment = table.number(row, BURSTGPT_NAMES.time, cells[time])
        if table.number(row, BURSTGPT_NAMES.output, cells[output]) == 0:
            table.skipped_failed += 1
        else:
            table.add(row, moment, cells[prompt], cells[output])
    return table.build()


FORMATS: dict[str, Callable[[Path, Iterator[str]], TraceTable]] = {
    "csv": _read_csv,
    "lengths": _read_lengths,
    "azure": _read_azure,
    "burstgpt": _read_burstgpt,
    "mooncake": read_mooncake,
}


def _csv_rows(path: Path, lines: Iterator[str]) -> tuple[list[str], Iterator[Row]]:
    """The header, and the (line number, cells) of each row that is not blank."""
    reader = csv.reader(lines)

    def cells() -> Iterator[Row]:
        try:
            for values in reader:
                yield reader.line_num, values
        except csv.Error as error:
            raise ConfigError(f"{path}: row {reader.line_num}: not valid CSV: {error}") from None

    everything = cells()
    header = [name.strip() for name in next(everything, (1, [""]))[1]]

    def data() -> Iterator[Row]:
        for row, values in everything:
            if not any(value.strip() for value in values):
                continue
            if len(values) != len(header):
                raise ConfigError(
                    f"{path}: row {row}: {len(values)} fields, expected {len(header)} as in the "
                    f"header ({', '.join(header)})"
                )
            yield row, values

    return header, data()


def _locate(path: Path, file_format: str, names: ColumnNames, header: list[str]) -> list[int]:
    """Positions of the needed columns; ConfigError with the nearest names when one is missing."""
    needed = [names.time, names.prompt, names.output]
    if file_format == "lengths":
        needed = needed[1:]
    for name in needed:
        if header.count(name) > 1:
            raise ConfigError(f"{path}: row 1: column {name!r} appears {header.count(name)} times")
        if name not in header:
            raise missing_column(path, 1, name, header, [*needed, *OPTIONAL_COLUMNS[file_format]])
    return [header.index(name) for name in needed]


def _header(path: Path, line: str) -> list[str]:
    try:
        return [name.strip() for name in next(csv.reader([line]), [])]
    except csv.Error as error:
        raise ConfigError(f"{path}: row 1: not valid CSV: {error}") from None
