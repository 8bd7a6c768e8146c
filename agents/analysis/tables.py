"""Tables for readers: Markdown and text from rows, numbers with intervals, and marks.

A table says no more than it knows: what is unknown is a dash, a value has its interval where there
is one, and the one best value of a column is bold.  `supports_claims` decides for all tables
whether anything may be called sure, and `doubts` says why it may not.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from agents.analysis.statistics import Estimate
from agents.core.words import counted

UNKNOWN = "-"
WORSE = "▲"
ENOUGH_SEEDS = 5
TITLE_WIDTH = 8  # characters; a longer title of a text table takes two lines
Rows = Sequence[Sequence[str]]
Interval = Estimate | Mapping[str, Any] | Sequence[float | None] | None
"""A value with its limits, also as plain values: {value, low, high}, or [value, low, high]."""


def table(rows: Rows) -> list[str]:
    """Lines of a Markdown table; the first row has the titles."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    lines.insert(1, "|" + "---|" * len(rows[0]))
    return lines


def text_table(rows: Rows) -> list[str]:
    """Lines of the same table for a terminal: numbers to the right, `*` instead of bold."""
    first = [title.rsplit(" ", 1) if len(title) > TITLE_WIDTH else [title] for title in rows[0]]
    lines = [
        [parts[0] if len(parts) > 1 else "" for parts in first],
        [parts[-1] for parts in first],
        *([_plain(cell) for cell in row] for row in rows[1:]),
    ]
    widths = [max(len(row[i]) for row in lines) for i in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in lines
    ]


def _plain(cell: str) -> str:
    text = cell.replace("**", "") + ("*" if "**" in cell else "")
    return text.replace(f" {WORSE}", WORSE)


def known_columns(rows: Rows) -> list[list[str]]:
    """The rows without the columns, below the titles, that say nothing."""
    kept = [i for i, (_, *cells) in enumerate(zip(*rows, strict=True)) if set(cells) != {UNKNOWN}]
    return [[row[i] for i in kept] for row in rows]


def number(value: float | str | None, form: str = ".3g") -> str:
    """A number in a format; a dash for None and NaN, and what is already told as it is."""
    if value is None or value != value:
        return UNKNOWN
    return value if isinstance(value, str) else format(value, form)


def interval(estimate: Interval, form: str = ".3g") -> str:
    """`value [low, high]`; the value alone where there is no interval."""
    value, low, high = _limits(estimate)
    if number(low) == UNKNOWN or number(high) == UNKNOWN:
        return number(value, form)
    return f"{number(value, form)} [{number(low, form)}, {number(high, form)}]"


def _limits(estimate: Interval) -> Sequence[float | None]:
    if estimate is None:
        return (None, None, None)
    if isinstance(estimate, Estimate):
        return (estimate.value, estimate.low, estimate.high)
    if isinstance(estimate, Mapping):
        return [estimate[name] for name in ("value", "low", "high")]
    return estimate


def value_of(estimate: Interval) -> float:
    """The value alone; NaN where it is unknown."""
    value = _limits(estimate)[0]
    return math.nan if value is None else float(value)


def best(values: Mapping[str, float], larger: bool, form: str = ".3g") -> str | None:
    """The name of the one best value at the digits shown; None where it is shared or unknown.

    Args:
        values: by name; NaN is left out.
        larger: is better.
        form: in which the values are shown.
    """
    known = {name: value for name, value in values.items() if not math.isnan(value)}
    if not known:
        return None
    first = (max if larger else min)(known, key=lambda name: known[name])
    shared = [n for n in known if format(known[n], form) == format(known[first], form)]
    return first if shared == [first] else None


def bold(text: str) -> str:
    """In Markdown."""
    return f"**{text}**"


def token_range(low: int, high: float | None) -> str:
    """Prompt lengths above `low` up to `high`, for a title; None and infinity: no limit."""
    return f"> {low}" if high is None or math.isinf(high) else f"{low + 1}-{high:.0f}"


def supports_claims(seeds: int, repeats: int = 1) -> bool:
    """Whether a difference may be called sure, marked, or given a probability.

    Args:
        seeds: that are compared, >= 0.
        repeats: how often a trace goes through its recording, >= 1; above 1 the seeds serve the
            same requests, and an interval over seeds says nothing.
    """
    return seeds >= ENOUGH_SEEDS and repeats <= 1


def doubts(seeds: int, repeats: int = 1) -> list[str]:
    """Paragraphs of warning, to be appended, where `supports_claims` is false; else nothing."""
    found = []
    if seeds < ENOUGH_SEEDS:
        said = "there is no interval" if seeds < 2 else "no interval is to be trusted"
        found.append(
            f"{counted(seeds, 'seed')} only: {said}, and nothing is called sure; use "
            f"{ENOUGH_SEEDS} or more"
        )
    if repeats > 1:
        found.append(
            f"a recording is shorter than a run and was repeated up to {repeats} times: the seeds "
            "serve the same requests and are not independent, so no interval is to be trusted and "
            "nothing is called sure; use a longer recording or a shorter run"
        )
    return [line for said in found for line in ("", f"**Warning: {said}.**")]
