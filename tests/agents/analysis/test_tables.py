"""Tables say no more than is known, and warn where that is little."""

from __future__ import annotations

import math

import pytest

from agents.analysis.statistics import UNKNOWN, Estimate
from agents.analysis.tables import (
    best,
    doubts,
    interval,
    known_columns,
    number,
    supports_claims,
    table,
    text_table,
    token_range,
    value_of,
)

ROWS = [["policy", "TTFT mean s", "p"], ["fcfs", "10.50", "-"], ["ewsjf", "**2.25** ▲", "-"]]


def test_a_markdown_table() -> None:
    assert table(ROWS) == [
        "| policy | TTFT mean s | p |",
        "|---|---|---|",
        "| fcfs | 10.50 | - |",
        "| ewsjf | **2.25** ▲ | - |",
    ]


def test_a_text_table_is_aligned_and_needs_no_markdown() -> None:
    assert text_table(ROWS) == [
        "        TTFT mean   ",
        "policy          s  p",
        "fcfs        10.50  -",
        "ewsjf      2.25▲*  -",
    ]


def test_columns_that_say_nothing_are_left_out() -> None:
    assert known_columns(ROWS) == [["policy", "TTFT mean s"], *([r[0], r[1]] for r in ROWS[1:])]


@pytest.mark.parametrize(
    ("estimate", "form", "text"),
    [
        (Estimate(1.2345, 1.0, 1.5), ".3g", "1.23 [1, 1.5]"),
        (Estimate(1.2345, math.nan, math.nan), "+.2f", "+1.23"),
        (UNKNOWN, ".3g", "-"),
        (None, ".3g", "-"),
        ([0.5, None, None], ".0%", "50%"),
        ([None, None, None], ".0%", "-"),
        ({"value": -0.25, "low": -0.5, "high": 0.0}, "+.2f", "-0.25 [-0.50, +0.00]"),
        (["never", 4.0, "never"], ".0f", "never [4, never]"),
    ],
)
def test_intervals(estimate: object, form: str, text: str) -> None:
    assert interval(estimate, form) == text  # type: ignore[arg-type]


def test_numbers_and_values() -> None:
    assert [number(x, ".1f") for x in (1.26, None, math.nan)] == ["1.3", "-", "-"]
    assert value_of(Estimate(2.0, 1.0, 3.0)) == value_of([2.0, None, None]) == 2.0
    assert math.isnan(value_of(None))


def test_the_best_is_one_at_the_digits_shown() -> None:
    assert best({"a": 1.0, "b": 2.0, "c": math.nan}, larger=True) == "b"
    assert best({"a": 1.0, "b": 2.0}, larger=False) == "a"
    assert best({"a": 2.001, "b": 2.0}, larger=True, form=".2f") is None
    assert best({"a": 2.001, "b": 2.0}, larger=True, form=".3f") == "a"
    assert best({"a": math.nan}, larger=True) is None


@pytest.mark.parametrize("seeds", [1, 2, 4])
def test_few_seeds_are_warned_of(seeds: int) -> None:
    blank, line = doubts(seeds)
    assert blank == ""
    assert line.startswith(f"**Warning: {seeds} seed")
    assert ("no interval is to be trusted" in line) == (seeds > 1)
    assert not supports_claims(seeds)


def test_five_seeds_are_enough() -> None:
    assert doubts(5) == []
    assert supports_claims(5)


def test_no_number_of_seeds_makes_up_for_a_recording_that_is_repeated() -> None:
    assert not supports_claims(100, repeats=2)
    _, line = doubts(100, repeats=3)
    assert "repeated up to 3 times" in line
    assert "not independent" in line
    assert len(doubts(2, repeats=3)) == 4  # one paragraph a reason


def test_ranges_of_prompt_lengths() -> None:
    assert token_range(0, 128) == "1-128"
    assert token_range(128, None) == token_range(128, math.inf) == "> 128"
