"""What are hints about outputs, and fair shares of tenants, worth?  Two small studies.

    hints    output hints of rank correlation 0, 0.3, 0.6 and 1 with the truth, between an arm
             without information and an oracle
    tenants  one tenant floods, a quiet one sends a little: with shares, without, and alone

Arms differ in the engine's settings, too, which is why `ewsjf evaluate` does not run them; all meet
the same traces, runs resume (`runs.py`), and intervals are paired over seeds (`statistics.py`).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from agents.analysis.statistics import Estimate, mean, ratio
from agents.core.files import write_json, write_text
from agents.experiments.jobs import Progress, Source, run_jobs
from agents.experiments.work_runs import ArmJob, Record, simulate_arm
from ewsjf_env import __version__
from ewsjf_env.config import ConfigError, check_range, to_dict
from ewsjf_env.engine.simulated.config import SimulatedConfig
from ewsjf_env.policy.policy import parse_policy
from ewsjf_env.scheduling.tenants import TenantSettings
from ewsjf_env.seeds import TRAINING_SEEDS
from ewsjf_env.workload import load_workload

HINTS = "ewsjf(w_output={weight:g})"
TRAINING_TRACES = 3
MAX_DURATION_S = 1e5  # a day of virtual time


@dataclass(frozen=True)
class Arm:
    """A policy on an engine.

    Attributes:
        label: in tables.
        policy: as in `parse_policy`.
        engine: settings that differ from the study's.
        alone: only the quiet tenant's requests are sent.
    """

    label: str
    policy: str
    engine: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    alone: bool = False


@dataclass(frozen=True)
class Choice:
    """A rival with one parameter, whose value other traces of the same traffic choose.

    Attributes:
        policy: with `{:g}` where the value goes.
        values: of which the one of the least mean TTFT is taken.
    """

    policy: str
    values: tuple[float, ...]

    def arm(self, value: float) -> Arm:
        """With one of the values."""
        policy = self.policy.format(value)
        return Arm(f"{policy}, tuned", policy)


RIVALS = (
    Choice("hrrn(exponent={:g})", (0.5, 1, 1.5, 2, 3)),
    Choice("linear_aging(r={:g})", (5, 20, 50, 100, 300)),
)


@dataclass(frozen=True)
class Study:
    """Arms on one workload.

    Attributes:
        workload: file of the traffic.
        rate_per_s: its mean rate.
        arms: the first one is what the others are compared with.
        metrics: shown, by title.
        engine: of all arms, but for what an arm changes.
        choices: more arms, of which other traces choose the value.
    """

    workload: str
    rate_per_s: float
    arms: tuple[Arm, ...]
    metrics: Mapping[str, str]
    engine: SimulatedConfig = dataclasses.field(default_factory=SimulatedConfig)
    choices: tuple[Choice, ...] = RIVALS


def hint_study(rate_per_s: float = 1.7, weight: float = 1.0) -> Study:
    """Hints of several qualities; the oracle is a policy that reads the true output.

    At most 16 requests run: where a batch has room for all, no order matters.
    """
    weighed = HINTS.format(weight=weight)
    hinted = [
        Arm(f"hints, rank correlation {c:g}", weighed, {"hint_correlation": c})
        for c in (0.0, 0.3, 0.6, 1.0)
    ]
    return Study(
        "configs/workloads/long_outputs.yaml",
        rate_per_s,
        (
            Arm("ewsjf, by length", "ewsjf"),
            Arm("fcfs", "fcfs"),
            Arm("random", "random"),
            Arm("no hints, learned", weighed),
            *hinted,
            Arm("sjf_total (oracle)", f"sjf_total(beta={weight:g})"),
        ),
        {
            "TTFT mean s": "ttft_mean_s",
            "TTFT p95 s": "ttft_p95_s",
            "E2E mean s": "e2e_mean_s",
            "max wait s": "wait_max_s",
            "out tok/s": "output_tokens_per_s",
        },
        SimulatedConfig(max_num_seqs=16),
    )


def tenant_study(rate_per_s: float = 8.0) -> Study:
    """A flood beside a quiet tenant."""
    shares = {"tenants": TenantSettings(by="priority")}
    return Study(
        "configs/workloads/two_tenants.yaml",
        rate_per_s,
        (
            Arm("ewsjf, quiet tenant alone", "ewsjf", alone=True),
            Arm("fcfs", "fcfs"),
            Arm("random", "random"),
            Arm("ewsjf", "ewsjf"),
            Arm("fcfs, shares", "fcfs", shares),
            Arm("ewsjf, shares", "ewsjf", shares),
        ),
        {
            "quiet TTFT p50 s": "quiet_ttft_p50_s",
            "quiet TTFT p95 s": "quiet_ttft_p95_s",
            "flood TTFT p50 s": "flood_ttft_p50_s",
            "flood TTFT p95 s": "flood_ttft_p95_s",
            "quiet service, tokens/s": "quiet_service_per_s",
            "largest difference of service": "service_difference",
            "out tok/s": "output_tokens_per_s",
        },
    )


STUDIES = {"hints": hint_study, "tenants": tenant_study}


def run_study(
    study: Study, seeds: int, duration_s: float, out: Path, workers: int, progress: Progress
) -> dict[str, Any]:
    """Run what has no result yet, and write `study.json` and `study.md` to `out`.

    Raises:
        ConfigError: a value out of its range, or some runs failed: their reasons are beside the
            results.
    """
    check_range("--seeds", seeds, 1, TRAINING_SEEDS)
    check_range("--duration", duration_s, 0.0, MAX_DURATION_S, low_open=True)
    check_range("--jobs", workers, 1)
    study = _with_choices(study, duration_s, out, workers, progress)
    jobs = [_job(study, arm, seed, duration_s) for seed in range(seeds) for arm in study.arms]
    records = _played(jobs, out, workers, progress)
    found = summary(study, records, seeds, duration_s)
    write_json(out / "study.json", found)
    write_text(out / "study.md", markdown(study, found))
    return found


def _with_choices(
    study: Study, duration_s: float, out: Path, workers: int, progress: Progress
) -> Study:
    """The same study with an arm for each choice, the value taken on training traces."""
    seeds = range(TRAINING_SEEDS, TRAINING_SEEDS + TRAINING_TRACES)
    arms = [choice.arm(value) for choice in study.choices for value in choice.values]
    jobs = [_job(study, arm, seed, duration_s) for arm in arms for seed in seeds]
    found: dict[str, list[float]] = {}
    for record in _played(jobs, out, workers, progress):
        found.setdefault(record["policy"], []).append(record["metrics"]["ttft_mean_s"])
    chosen = [
        min((c.arm(value) for value in c.values), key=lambda arm: fmean(found[arm.label]))
        for c in study.choices
    ]
    return dataclasses.replace(study, arms=(*study.arms, *chosen), choices=())


def _played(jobs: Sequence[ArmJob], out: Path, workers: int, progress: Progress) -> list[Record]:
    records, failures = run_jobs(list(jobs), out, workers, progress, simulate=simulate_arm)
    for key, reason in failures.items():
        raise ConfigError(f"run {key} failed: {reason}")
    return records


def _job(study: Study, arm: Arm, seed: int, duration_s: float) -> ArmJob:
    engine = dataclasses.replace(study.engine, **arm.engine, hint_seed=seed)
    policy = dataclasses.replace(parse_policy(arm.policy), name=arm.label)
    workload = to_dict(load_workload(study.workload))
    content = [
        {k: v for k, v in policy.to_dict().items() if k != "provenance"},
        to_dict(engine),
        workload,
        study.rate_per_s,
        duration_s,
        seed,
        arm.alone,
        __version__,
    ]
    text = json.dumps(content, sort_keys=True, default=str)
    slug = "".join(c if c.isalnum() or c == "." else "_" for c in arm.label)
    key = f"{slug}__seed{seed}__{hashlib.sha256(text.encode()).hexdigest()[:10]}"
    return ArmJob(
        key,
        policy,
        Source(study.workload),
        Path(study.workload).stem,
        None,
        study.rate_per_s,
        seed,
        duration_s,
        engine,
        arm.alone,
    )


def summary(
    study: Study, records: Sequence[Record], seeds: int, duration_s: float
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


def markdown(study: Study, found: Mapping[str, Any]) -> str:
    """Two tables: means, and ratios to the first arm."""
    head = ["arm", *study.metrics]
    lines = [
        f"Workload {found['workload']} at {found['rate_per_s']:g} requests/s, {found['engine']}, "
        f"{found['duration_s']:g} s, {found['seeds']} seeds; 95 % intervals, paired over seeds.",
        "",
    ]
    if "bound" in found:
        lines += [f"Bound of the difference of service, 2 U: {found['bound']:,.0f}.", ""]
    for kind in ("mean", "ratio"):
        if kind == "ratio":
            lines += ["", f"Ratio to *{found['compared_with']}*:", ""]
        lines += ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
        for label, row in found["arms"].items():
            cells = [_shown(row[metric][kind]) for metric in study.metrics.values()]
            lines.append("| " + " | ".join([label, *cells]) + " |")
    return "\n".join(lines) + "\n"


def _plain(estimate: Estimate) -> list[float | None]:
    values = (estimate.value, estimate.low, estimate.high)
    return [None if value != value else float(value) for value in values]


def _shown(values: Sequence[float | None]) -> str:
    value, low, high = values
    if value is None:
        return "-"
    interval = "" if low is None or high is None else f" [{low:.3g}, {high:.3g}]"
    return f"{value:.3g}{interval}" if value < 1000 else f"{value:,.0f}"
