"""The mark of a value that loses to fcfs: not below one percent, and only where it is sure."""

from __future__ import annotations

from typing import Any

import pytest

from agents.experiments.policies.report import WORSE, console_table
from tests.agents.experiments.evaluations import run_record


def runs(**waits: tuple[float, float]) -> list[dict[str, Any]]:
    """Five seeds a policy; on each everything waits a tenth longer than on the one before."""
    return [
        run_record(policy, seed, (short * (1 + seed / 10), long * (1 + seed / 10)))
        for policy, (short, long) in waits.items()
        for seed in range(5)
    ]


def row(records: list[dict[str, Any]], policy: str) -> str:
    lines = console_table(records).splitlines()
    return next(line for line in lines if line.startswith(policy))


@pytest.mark.parametrize(("long_s", "marked"), [(5.045, False), (5.055, True)])
def test_a_sure_difference_below_one_percent_is_not_marked(long_s: float, marked: bool) -> None:
    # the policy differs from fcfs in the long prompt alone
    assert (WORSE in row(runs(fcfs=(4.0, 5.0), sjf=(4.0, long_s)), "sjf")) is marked


def test_a_large_difference_that_is_not_sure_is_not_marked() -> None:
    mixed = [run_record("sjf", seed, (4.0, 9.0 if seed % 2 else 4.4)) for seed in range(5)]
    assert WORSE not in row([*runs(fcfs=(4.0, 5.0)), *mixed], "sjf")


def test_where_fcfs_has_none_any_sure_difference_is_marked() -> None:
    records = runs(fcfs=(4.0, 5.0), sjf=(4.0, 5.0))
    for record in records:
        left = 3 if record["policy"] == "sjf" else 0
        record["metrics"] = {**record["metrics"], "outstanding": left}
    assert row(records, "sjf").endswith(f"3{WORSE}")


def test_the_terminal_marks_the_best_with_a_star_and_explains_both() -> None:
    records = runs(fcfs=(4.0, 5.0), sjf=(1.0, 9.0))
    assert "1.20*" in row(records, "sjf")
    assert f"10.80{WORSE}" in row(records, "sjf")
    legend = console_table(records).splitlines()[-1]
    assert WORSE in legend
    assert "1%" in legend


def test_a_policy_whose_runs_failed_is_marked_by_the_seeds_that_it_has() -> None:
    records = runs(fcfs=(4.0, 5.0), sjf=(1.0, 9.0), hrrn=(1.0, 9.0))
    left = [r for r in records if r["policy"] != "hrrn" or r["seed"] < 4]
    assert WORSE in row(left, "sjf")
    assert WORSE not in row(left, "hrrn")


def test_long_names_and_large_numbers_fit_160_columns() -> None:
    names = ["fcfs", "ewsjf_normalised", "sjf_total", "linear_aging(r=200)"]
    table = console_table(runs(**dict.fromkeys(names, (123.456, 1234.567))))
    assert max(map(len, table.splitlines())) <= 160
