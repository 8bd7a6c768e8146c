"""The studies of hints and tenants: their runs, what they say, and their report.

Arms differ in the engine's settings, which is why `ewsjf evaluate` does not run them; all meet the
same traces, and intervals are paired over seeds.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from agents.analysis.statistics import Estimate, mean, ratio
from agents.analysis.tables import doubts, interval, table
from agents.core.files import write_json, write_text
from agents.core.progress import Progress
from agents.experiments.grid import key_of_run
from agents.experiments.policy_runs import Record, run_every
from agents.experiments.source import Source
from agents.experiments.tenants_and_hints.arms import Arm, ArmStudy
from agents.experiments.tenants_and_hints.serving import ArmRun, serve_arm
from ewsjf_env.config import check_range
from ewsjf_env.policy.policy import parse_policy
from ewsjf_env.seeds import JUDGED, TRAINING
from ewsjf_env.workload import load_workload

TRAINING_TRACES = 3
MAX_DURATION_S = 1e5  # a day of virtual time
LARGE = 1000


def run_study(
    study: ArmStudy, seeds: int, duration_s: float, out: Path, workers: int, progress: Progress
) -> dict[str, Any]:
    """Run what has no result yet, and write `study.json` and `study.md` to `out`.

    Raises:
        ConfigError: a value out of its range, or traffic that an arm cannot serve.
        EngineError: some runs failed: their reasons are beside the results.
    """
    check_range("--seeds", seeds, 1, JUDGED.stop)
    check_range("--duration", duration_s, 0.0, MAX_DURATION_S, low_open=True)
    check_range("--jobs", workers, 1)
    study = _with_choices(study, duration_s, out, workers, progress)
    runs = [_run(study, arm, seed, duration_s) for seed in range(seeds) for arm in study.arms]
    records = run_every(runs, out, workers, progress, serve_arm)
    found = summary(study, records, seeds, duration_s)
    write_json(out / "study.json", found)
    write_text(out / "study.md", markdown(study, found))
    return found


def _with_choices(
    study: ArmStudy, duration_s: float, out: Path, workers: int, progress: Progress
) -> ArmStudy:
    """The same study with an arm for each choice, the value taken on training traces."""
    seeds = range(TRAINING.start, TRAINING.start + TRAINING_TRACES)
    arms = [choice.arm(value) for choice in study.choices for value in choice.values]
    runs = [_run(study, arm, seed, duration_s) for arm in arms for seed in seeds]
    found: dict[str, list[float]] = {}
    for record in run_every(runs, out, workers, progress, serve_arm):
        found.setdefault(record["policy"], []).append(record["metrics"]["ttft_mean_s"])
    chosen = [
        min((c.arm(value) for value in c.values), key=lambda arm: fmean(found[arm.label]))
        for c in study.choices
    ]
    return dataclasses.replace(study, arms=(*study.arms, *chosen), choices=())


def _run(study: ArmStudy, arm: Arm, seed: int, duration_s: float) -> ArmRun:
    engine = dataclasses.replace(study.engine, **arm.engine, hint_seed=seed)
    policy = dataclasses.replace(parse_policy(arm.policy), name=arm.label)
    source, rate = Source(study.workload), study.rate_per_s
    content = [load_workload(study.workload), duration_s, arm.alone]
    name = Path(study.workload).stem
    key = key_of_run(policy, name, None, rate, seed, content, engine)
    return ArmRun(key, policy, source, name, None, rate, seed, duration_s, engine, arm.alone)


def summary(
    study: ArmStudy, records: Sequence[Record], seeds: int, duration_s: float
) -> dict[str, Any]:
    """Means over seeds and ratios to the first arm, with 95 % intervals."""
    first = study.arms[0].label
    arms = {}
    for arm in study.arms:
        row = {}
        for metric in study.metrics.values():
            ours, theirs = (
                [
                    np.nan if r["metrics"][metric] is None else r["metrics"][metric]
                    for r in sorted(records, key=lambda r: int(r["seed"]))
                    if r["policy"] == label
                ]
                for label in (arm.label, first)
            )
            row[metric] = {"mean": _plain(mean(ours)), "ratio": _plain(ratio(ours, theirs))}
        arms[arm.label] = row
    bounds = [r["metrics"]["bound"] for r in records if "bound" in r["metrics"]]
    return {
        "workload": study.workload,
        "rate_per_s": study.rate_per_s,
        "duration_s": duration_s,
        "seeds": seeds,
        "engine": f"{study.engine.latency}, at most {study.engine.max_num_seqs} running",
        "compared_with": first,
        **({"bound": min(bounds)} if bounds else {}),
        "arms": arms,
    }


def markdown(study: ArmStudy, found: Mapping[str, Any]) -> str:
    """Two tables: means, and ratios to the first arm."""
    lines = [
        f"Workload {found['workload']} at {found['rate_per_s']:g} requests/s, {found['engine']}, "
        f"{found['duration_s']:g} s, {found['seeds']} seeds; 95 % intervals, paired over seeds.",
        *doubts(found["seeds"]),
        "",
    ]
    if "bound" in found:
        lines += [f"Bound of the difference of service, 2 U: {found['bound']:,.0f}.", ""]
    for kind in ("mean", "ratio"):
        if kind == "ratio":
            lines += ["", f"Ratio to *{found['compared_with']}*:", ""]
        rows = [["arm", *study.metrics]]
        for label, row in found["arms"].items():
            rows.append([label, *(_shown(row[metric][kind]) for metric in study.metrics.values())])
        lines += table(rows)
    return "\n".join(lines) + "\n"


def _plain(estimate: Estimate) -> list[float | None]:
    values = (estimate.value, estimate.low, estimate.high)
    return [None if value != value else float(value) for value in values]


def _shown(values: Sequence[float | None]) -> str:
    """Large values are counts: what their interval adds is not worth its width."""
    value = values[0]
    return f"{value:,.0f}" if value is not None and value >= LARGE else interval(values)
