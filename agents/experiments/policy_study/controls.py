"""Controls: other engine settings, or something of ours with another order, beside a gain.

An estimate is a list [value, low, high], see `summary`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from statistics import fmean
from typing import Any

from agents.analysis.statistics import Estimate, difference, mean
from agents.experiments.objectives import fcfs
from agents.experiments.policy_runs import Record
from agents.experiments.policy_study.families import CONTROL
from agents.experiments.policy_study.study import SUBJECT, PolicyStudy
from ewsjf_env.measure.objective import relative_objective
from ewsjf_env.measure.records import WindowMetrics


def engine_controls(study: PolicyStudy) -> list[dict[str, Any]]:
    """What other settings of the engine do to J without reordering, and with it."""
    rows = []
    for cell, engines in study.control_runs.items():
        base = study.runs[cell][fcfs().name]
        subject = study.arms[cell][SUBJECT].name
        here = plain(mean(list(study.objective(cell, SUBJECT).values())))
        for label, runs in engines.items():
            alone, ordered = runs[fcfs().name], runs[subject]
            row = {"workload": cell[0], "load": cell[1], "engine": label}
            rows.append(
                {
                    **row,
                    "fcfs_over_fcfs": plain(_objective(alone, base)),
                    "ewsjf_over_fcfs": plain(_objective(ordered, base)),
                    "ewsjf_over_fcfs_there": plain(_objective(ordered, alone)),
                    "ewsjf_without_it": here,
                }
            )
    return rows


def _objective(runs: Mapping[int, Record], reference: Mapping[int, Record]) -> Estimate:
    """J of runs against others on the same traces."""
    return mean(
        [
            relative_objective(
                WindowMetrics.from_dict(runs[seed]["metrics"]),
                WindowMetrics.from_dict(reference[seed]["metrics"]),
            ).total
            for seed in sorted(set(runs) & set(reference))
        ]
    )


def policy_controls(study: PolicyStudy) -> list[dict[str, Any]]:
    """Each control beside the family of the same order, and the subject against it: over all."""
    rows = []
    for label, family in study.config.families.items():
        if family.role != CONTROL:
            continue
        without, control = study.single_arm(family.order), study.single_arm(label)
        rows.append(
            {
                "control": control,
                "plain": without,
                "plain_objective": plain(mean(study.overall(without))),
                "control_objective": plain(mean(study.overall(control))),
                "gain": gained(study, control, without)["gain"],
                "subject": SUBJECT,
                "subject_over_control": gained(study, SUBJECT, control),
            }
        )
    return rows


def gained(study: PolicyStudy, ours: str, theirs: str) -> dict[str, Any]:
    """By how much the J of an arm over everything exceeds another's: paired, and as a share."""
    a, b = study.overall(ours), study.overall(theirs)
    share = fmean(a) / fmean(b) - 1.0 if fmean(b) > 0 else None
    return {"gain": plain(difference(a, b)), "share": share}


def plain(estimate: Estimate) -> list[float | None]:
    """An estimate for `study.json`."""
    return [rounded(v) for v in dataclasses.astuple(estimate)]


def rounded(value: float) -> float | None:
    """Four digits; None for NaN."""
    return None if math.isnan(value) else float(f"{value:.4g}")
