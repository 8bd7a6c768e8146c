"""The summary of a study of policies: plain values for `study.json`, from which all is told.

An estimate is a list [value, low, high], the limits of its 95 % interval null where there is
none.  Everything is paired: J of a run is against first come first served on the same trace,
and two arms are compared seed by seed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from agents.analysis.statistics import Estimate, difference, mean, ratio
from agents.core.files import write_text
from agents.experiments.objectives import REFERENCE, Cell, fcfs
from agents.experiments.policy_runs import Record
from agents.experiments.policy_study.config import described
from agents.experiments.policy_study.controls import (
    engine_controls,
    gained,
    plain,
    policy_controls,
    rounded,
)
from agents.experiments.policy_study.families import MAIN, OUR
from agents.experiments.policy_study.frontier import METRICS, SURE_SHARE, metric
from agents.experiments.policy_study.study import (
    PER_LOAD,
    SMALLEST_AIM,
    SUBJECT,
    TUNED,
    PolicyStudy,
)
from ewsjf_env.policy.policy import Policy

MORE_METRICS = (
    "ttft_short_mean_s",
    "ttft_short_p95_s",
    "output_tokens_per_s",
    "overdue_share",
    "tpot_p95_s",
)
LEAST_HELP = 0.05  # of J: an arm that gains less helps nobody


def summarise(study: PolicyStudy) -> dict[str, Any]:
    """The content of `study.json`; `meta` is added by the command."""
    single, chosen = study.single_rival(), study.chosen_rival()
    wanted = dict.fromkeys(("ewsjf", SUBJECT, "ewsjf" + PER_LOAD, single))
    told = [label for label in wanted if label in study.labels()]
    return {
        "config": described(study.config),
        "capacity_requests_per_s": study.capacities,
        "arms": _arms(study),
        "overall": {label: plain(mean(study.overall(label))) for label in study.labels()},
        "by_workload": _by_workload(study),
        "single_rival": single,
        "rival_chosen_in_training": chosen,
        "comparisons": _comparisons(study, single, chosen),
        "against_single_rival": [_duel(study, cell, single) for cell in study.arms],
        "dominated": _dominated(study),
        "lengths": [row for label in told for row in _lengths(study, label)],
        "nothing_helps": _nothing_helps(study),
        "controls": engine_controls(study),
        "policy_controls": policy_controls(study),
        "tuned": _tuned(study),
        "cells": [_cell(study, cell) for cell in study.arms],
    }


def write_summary(path: Path, summary: Mapping[str, Any]) -> None:
    """Write JSON with a line for each item of a list, whole or not at all."""
    parts = []
    for key, value in summary.items():
        if isinstance(value, list) and value:
            rows = ",\n".join(json.dumps(row, allow_nan=False) for row in value)
            parts.append(f"{json.dumps(key)}: [\n{rows}\n]")
        else:
            parts.append(f"{json.dumps(key)}: {json.dumps(value, allow_nan=False)}")
    write_text(path, "{\n" + ",\n".join(parts) + "\n}\n")


def _arms(study: PolicyStudy) -> list[dict[str, Any]]:
    first = next(iter(study.arms.values()))
    return [
        {
            "arm": label,
            "order": p.order,
            "role": study.family(label).role,
            "ours": study.family(label).role == OUR,
            "oracle": p.oracle,
        }
        for label, p in first.items()
    ]


def _by_workload(study: PolicyStudy) -> dict[str, dict[str, Any]]:
    """Mean J over the loads of each workload."""
    found: dict[str, dict[str, Any]] = {}
    for name in study.config.workloads:
        cells = [cell for cell in study.arms if cell[0] == name]
        for label in study.labels():
            values = [
                fmean(study.objective(cell, label)[seed] for cell in cells)
                for seed in study.judged(name)
            ]
            found.setdefault(name, {})[label] = plain(mean(values))
    return found


def _comparisons(study: PolicyStudy, single: str, chosen: str) -> list[dict[str, Any]]:
    """Ours against rivals over everything; who of them is the strongest is told in hindsight."""
    rivals = study.rivals()
    default = study.best_rival([r for r in rivals if not r.endswith((TUNED, PER_LOAD))])
    per_load = study.best_rival(rivals)
    pairs: tuple[tuple[str, str, str], ...] = (
        ("ewsjf", default, "defaults: best rival at its defaults, in hindsight"),
        ("ewsjf", single, "default EWSJF against the best single rival"),
        (SUBJECT, single, "best single rival, defaults or tuned, in hindsight"),
        (SUBJECT, chosen, "the rival that training traffic would have chosen"),
        (SUBJECT, "ewsjf", "what tuning is worth"),
        ("ewsjf" + PER_LOAD, per_load, "best rival of all, one policy a load included"),
        ("ewsjf" + PER_LOAD, SUBJECT, "what a policy for each load is worth"),
    )
    # The order of the subject with other parameters tuned: what the order alone does.
    for label, family in study.config.families.items():
        if family.order == MAIN and family.role == OUR and label != MAIN:
            other = study.single_arm(label)
            pairs += (
                (SUBJECT, other, "the same order, tuned otherwise"),
                (other, single, "the order tuned otherwise against the best single rival"),
            )
    rows = []
    for ours, theirs, why in pairs:
        if ours not in study.labels():
            continue
        rows.append({"ours": ours, "theirs": theirs, "why": why, **gained(study, ours, theirs)})
    return rows


def _duel(study: PolicyStudy, cell: Cell, single: str) -> dict[str, Any]:
    """Tuned EWSJF against the best single rival, and against whoever is best in this place."""
    means = {r: fmean(study.common(cell, r)) for r in study.rivals()}
    local = max(means, key=lambda r: means[r])
    gain, aim = study.gain(cell, SUBJECT, single), study.aim(cell, single)
    verdict = "undecided"
    if gain.bounded and gain.low >= aim:
        verdict = "better by the aim"
    elif gain.bounded and gain.low > -SMALLEST_AIM and gain.high < SMALLEST_AIM:
        verdict = "no difference that matters"
    elif gain.bounded and gain.low > 0:
        verdict = "better"
    elif gain.bounded and gain.high < 0:
        verdict = "worse"
    elif gain.bounded and gain.high < aim:
        verdict = "less than the aim"
    return {
        "workload": cell[0],
        "load": cell[1],
        "seeds": len(study.objective(cell, SUBJECT)),
        "gain": plain(gain),
        "aim": round(aim, 4),
        "verdict": verdict,
        "best_rival_here": local,
        "gain_over_it": plain(study.gain(cell, SUBJECT, local)),
    }


def _dominated(study: PolicyStudy) -> list[dict[str, Any]]:
    """Which arms of another order are at least as good as ours in all of `METRICS`.

    `surely`: with the whole interval of each difference.  One metric must surely be better.
    """
    rows = []
    for cell, arms in study.arms.items():
        for subject in study.main_arms():
            seen: set[str] = set()
            for label, policy in arms.items():
                if policy.oracle or policy.order == "ewsjf":
                    continue
                if policy.name in seen:  # an arm whose tuning came back to another's values
                    continue
                seen.add(policy.name)
                gaps = [_gap(study, cell, label, subject, m) for m in METRICS]
                known = [g for g in gaps if g[0].known]
                better = any(
                    d.bounded and d.high < 0 and abs(share - 1.0) >= SURE_SHARE
                    for d, share in known
                )
                if not better or any(d.value > 0 for d, _ in known):
                    continue
                surely = all(d.bounded and d.high <= 0 for d, _ in known)
                row = {"workload": cell[0], "load": cell[1], "arm": subject, "by": label}
                rows.append({**row, "by_role": study.family(label).role, "surely": surely})
    return rows


def _gap(
    study: PolicyStudy, cell: Cell, label: str, other: str, name: str
) -> tuple[Estimate, float]:
    """Difference of a metric between two arms, and the ratio of its means."""
    a, b = study.records(cell, label), study.records(cell, other)
    seeds = sorted(set(a) & set(b))
    ours = [metric(a[s], name) for s in seeds]
    theirs = [metric(b[s], name) for s in seeds]
    return difference(ours, theirs), ratio(ours, theirs).value


def _lengths(study: PolicyStudy, label: str) -> list[dict[str, Any]]:
    """Mean TTFT by prompt length over that of first come first served."""
    rows = []
    for cell in study.arms:
        ours, theirs = study.records(cell, label), study.runs[cell][fcfs().name]
        seeds = sorted(set(ours) & set(theirs))
        for i, bucket in enumerate(ours[seeds[0]]["buckets"]):
            a = [_bucket(ours[s], i) for s in seeds]
            b = [_bucket(theirs[s], i) for s in seeds]
            share = ratio(a, b)
            if share.known:
                row = {"arm": label, "workload": cell[0], "load": cell[1]}
                limits = {"above": bucket["low_tokens"], "up_to": bucket["high_tokens"]}
                rows.append({**row, **limits, "ratio": plain(share)})
    return rows


def _nothing_helps(study: PolicyStudy) -> list[dict[str, Any]]:
    """Cells where no arm without an oracle gains `LEAST_HELP` or more, and surely anything."""
    rows = []
    for cell, arms in study.arms.items():
        fair = [label for label, policy in arms.items() if not policy.oracle]
        gains = {label: mean(study.common(cell, label)) for label in fair}
        if not any(g.value >= LEAST_HELP and (not g.bounded or g.low > 0) for g in gains.values()):
            best = max(fair, key=lambda label: gains[label].value)
            row = {"workload": cell[0], "load": cell[1], "best": best}
            rows.append({**row, "objective": plain(gains[best])})
    return rows


def _tuned(study: PolicyStudy) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for name, families in study.tuned.items():
        for label, tuned in families.items():
            family = study.config.families[label]
            moved = tuple(family.grid) or family.parameters
            row: dict[str, Any] = {
                "training_objective": round(tuned.objective, 4),
                "of_the_defaults": round(tuned.default_objective, 4),
            }
            if family.tuned:
                row["points"] = tuned.points
                row["static"] = _values(tuned.static, moved)
                row["by_load"] = {f"{x:g}": _values(p, moved) for x, p in tuned.by_load.items()}
                if family.partition:
                    row["cuts"] = list(tuned.static.partition.cuts)
            found.setdefault(name, {})[label] = row
    return found


def _values(policy: Policy, names: Sequence[str]) -> dict[str, Any]:
    values = {n: policy.parameters[n] for n in names}
    return {n: float(f"{v:.4g}") if isinstance(v, float) else v for n, v in values.items()}


def _cell(study: PolicyStudy, cell: Cell) -> dict[str, Any]:
    """All arms in one place: J, and means of the metrics in the order of `metrics`."""
    arms: dict[str, Any] = {}
    for label in study.arms[cell]:
        runs = [study.records(cell, label)[seed] for seed in study.judged(cell[0])]
        values = [rounded(_known_mean([metric(r, m) for r in runs])) for m in _all_metrics()]
        found = [study.objective(cell, label)[seed] for seed in study.judged(cell[0])]
        arms[label] = [plain(mean(found)), values]
    some = study.records(cell, REFERENCE)
    return {
        "workload": cell[0],
        "load": cell[1],
        "arrived_per_s": rounded(
            fmean(float(r["notes"]["achieved_rate_per_s"]) for r in some.values())
        ),
        "requests_a_window": rounded(fmean(r["metrics"]["arrivals"] for r in some.values())),
        "metrics": list(_all_metrics()),
        "arms": arms,
    }


def _all_metrics() -> tuple[str, ...]:
    return METRICS + MORE_METRICS


def _bucket(record: Record, index: int) -> float:
    value = record["buckets"][index]["ttft_mean_s"]
    return math.nan if value is None else float(value)


def _known_mean(values: Sequence[float]) -> float:
    known = [v for v in values if not math.isnan(v)]
    return fmean(known) if known else math.nan
