"""Dominance: one policy beats another in everything that a user of the queue feels.

A policy is dominated when another is at least as good in mean, p99, and longest TTFT, and in the
p95 of long prompts, and better in one.  J leaves the mean out: its best point can be dominated.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from statistics import fmean

from agents.experiments.objectives import Cell
from agents.experiments.policy_runs import Record

METRICS = ("ttft_mean_s", "ttft_p99_s", "wait_max_s", "ttft_long_p95_s")
"""What an arm must be no worse in to dominate another."""
SURE_SHARE = 0.01  # a smaller relative difference is none, however sure it is


def metric(record: Record, name: str) -> float:
    """Of a run, nan where it is not known."""
    value = record["metrics"][name]
    return math.nan if value is None else float(value)


def dominated(
    records: Sequence[Record], judges: Mapping[str, Collection[str]]
) -> dict[Cell, frozenset[str]]:
    """Policies that one of others dominates by its means.

    Args:
        records: runs; two policies are compared over the traces that the first one met, when the
            other met all of these.
        judges: workload -> names of the policies that may dominate.
    """
    found: dict[Cell, dict[str, dict[int, Record]]] = {}
    for r in records:
        cell = found.setdefault((r["workload"], r["load"]), {})
        cell.setdefault(r["policy"], {})[r["seed"]] = r
    return {
        cell: frozenset(
            name
            for name, runs in policies.items()
            if any(
                other != name
                and runs.keys() <= policies[other].keys()
                and _dominates([policies[other][seed] for seed in runs], list(runs.values()))
                for other in judges.get(cell[0], ())
                if other in policies
            )
        )
        for cell, policies in found.items()
    }


def _dominates(judge: Sequence[Record], subject: Sequence[Record]) -> bool:
    better = False
    for name in METRICS:
        a, b = _mean(judge, name), _mean(subject, name)
        if math.isnan(a) or math.isnan(b):  # without long prompts there is nothing to compare
            continue
        if a > b:
            return False
        better |= a < b * (1.0 - SURE_SHARE)
    return better


def _mean(records: Sequence[Record], name: str) -> float:
    known = [v for v in (metric(r, name) for r in records) if not math.isnan(v)]
    return fmean(known) if known else math.nan
