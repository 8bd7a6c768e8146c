"""The summary of an evaluation: means with intervals, and each policy against FCFS."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from agents.analysis.statistics import UNKNOWN, Estimate, difference, mean, ratio
from agents.experiments.objectives import REFERENCE
from agents.experiments.policy_runs import Record

SKIPPED = ("exact", "scheduler_us_per_step")
Run = Record
Group = tuple[str, float | None, float]


def groups(runs: Sequence[Run]) -> dict[Group, dict[str, list[Run]]]:
    """Runs by (workload, load, rate) and policy, each list in order of seed."""
    found: dict[Group, dict[str, list[Run]]] = {}
    for run in sorted(runs, key=lambda r: int(r["seed"])):
        key = (run["workload"], run["load"], run["rate_per_s"])
        found.setdefault(key, {}).setdefault(run["policy"], []).append(run)
    return found


def values(runs: Sequence[Run], metric: str, part: str = "metrics") -> dict[int, float]:
    """Seed -> value of a metric; NaN where it is null."""
    return {
        int(run["seed"]): math.nan if run[part][metric] is None else float(run[part][metric])
        for run in runs
    }


def against(
    arm: Sequence[Run], reference: Sequence[Run], metric: str, part: str = "metrics"
) -> tuple[Estimate, Estimate]:
    """Ratio and difference to the reference over the seeds that both have."""
    ours, theirs = values(arm, metric, part), values(reference, metric, part)
    seeds = sorted(set(ours) & set(theirs))
    a, b = [ours[s] for s in seeds], [theirs[s] for s in seeds]
    if not seeds:
        return UNKNOWN, UNKNOWN
    return ratio(a, b), difference(a, b)


def summarise(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """One entry a (workload, load, policy, metric), fixed window and drained apart.

    Keys: workload, load, rate_per_s, policy, part (`metrics` or `drained`), metric, seeds, mean,
    ci95, ratio_to_fcfs, ratio_ci95, difference_to_fcfs, difference_ci95; null where unknown.  A
    single seed has no interval.
    """
    entries = []
    for (workload, load, rate), arms in groups(runs).items():
        reference = arms.get(REFERENCE)
        for policy, arm in arms.items():
            for part in ("metrics", "drained"):
                for metric in arm[0][part]:
                    if metric in SKIPPED:
                        continue
                    known = UNKNOWN, UNKNOWN
                    if reference is not None:
                        known = against(arm, reference, metric, part)
                    entry = {
                        "workload": workload,
                        "load": load,
                        "rate_per_s": rate,
                        "policy": policy,
                        "part": part,
                        "metric": metric,
                        "seeds": len(arm),
                        **_fields("mean", "ci95", mean(list(values(arm, metric, part).values()))),
                        **_fields("ratio_to_fcfs", "ratio_ci95", known[0]),
                        **_fields("difference_to_fcfs", "difference_ci95", known[1]),
                    }
                    entries.append(entry)
    return entries


def _fields(value: str, interval: str, estimate: Estimate) -> dict[str, Any]:
    if not estimate.known:
        return {value: None, interval: None}
    limits = [estimate.low, estimate.high] if estimate.bounded else None
    return {value: estimate.value, interval: limits}
