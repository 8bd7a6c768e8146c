"""Does theory rank a score's weights as the simulated engine does, and what is its point worth?

At every workload and load, Sobol points of the weights serve one drawn trace on the simulated
engine.  Theory (`starting_point.py`) knows the training draw of the workload, not that trace, and
starts from HRRN's weights, which know nothing.  Shown are, by J against the shipped policy on the
same trace (0 is as good):

    rank  Spearman's correlation of predicted and simulated J over all points
    J     simulated, of theory's point, of HRRN's, of the best of the points (the luckiest of some
          two dozen on this one trace)

Where no order makes a difference, a rank tells nothing: `spread` is the standard deviation of the
simulated J.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

from scipy.stats import spearmanr

from agents.core.files import write_json, write_text
from agents.core.provenance import git_state
from agents.experiments.jobs import Job, Progress, Source, cached_engine, run_jobs
from agents.experiments.static_search import ScanPlan, candidates
from agents.theory.start import WINDOWS_AHEAD, TaskPrior, starting_point
from ewsjf_env import __version__
from ewsjf_env.config import ConfigError, check_range, to_dict
from ewsjf_env.engine.simulated.config import SimulatedConfig
from ewsjf_env.env.task import TuningConfig
from ewsjf_env.measure.objective import relative_objective
from ewsjf_env.measure.records import WindowMetrics
from ewsjf_env.parameters import Value
from ewsjf_env.policy.policy import default_policy
from ewsjf_env.seeds import TRAINING_SEEDS
from ewsjf_env.workload import load_workload

HRRN: Mapping[str, Value] = {"lambda": 0.0, "mu": 0.0, "k": 1.0}
SHIPPED, HRRN_POINT, THEORY = "shipped", "hrrn", "theory"


@dataclass(frozen=True)
class PriorStudy:
    """What is compared.

    Attributes:
        workloads: built-in names or files.
        loads: of the measured capacity of first come first served, > 0.
        points: Sobol points, >= 2.
        seed: of the trace.
        warmup_s: served before the window.
        window_s: measured.
        backlog: requests that measure the capacity.
    """

    workloads: tuple[str, ...] = ("paper_mix", "mixed", "bursty")
    loads: tuple[float, ...] = (0.7, 0.95, 1.3)
    points: int = 24
    seed: int = 0
    warmup_s: float = 20.0
    window_s: float = 120.0
    backlog: int = 800

    def __post_init__(self) -> None:
        check_range("points", self.points, 2)
        check_range("seed", self.seed, 0)
        check_range("warmup_s", self.warmup_s, 0.0, low_open=True)
        check_range("window_s", self.window_s, 0.0, low_open=True)
        for load in self.loads:
            check_range("loads", load, 0.0, low_open=True)


@dataclass(frozen=True)
class WindowJob(Job):
    """A run whose first `warmup_s` are not measured."""

    warmup_s: float = 0.0


def run_study(study: PriorStudy, out: Path, workers: int, progress: Progress) -> dict[str, Any]:
    """Run what has no result yet, and write `study.json` and `study.md` to `out`.

    Raises:
        ConfigError: some runs failed.
    """
    out.mkdir(parents=True, exist_ok=True)
    capacities = _capacities(study, out / "capacity.json")
    cases = [_Case(study, w, load, capacities[w]) for w in study.workloads for load in study.loads]
    jobs: list[Job] = [job for case in cases for job in case.jobs]
    records, failures = run_jobs(jobs, out, workers, progress, simulate=simulate_window)
    for key, reason in failures.items():
        raise ConfigError(f"run {key} failed: {reason}")
    by_key = dict(zip([job.key for job in jobs], records, strict=True))
    found = {
        "study": to_dict(study),
        "engine": SimulatedConfig().latency,
        "git": git_state(),
        "cases": [case.summary(by_key) for case in cases],
    }
    write_json(out / "study.json", found)
    write_text(out / "study.md", markdown(found))
    return found


def simulate_window(job: Job) -> dict[str, Any]:
    """Play a job; plain values."""
    assert isinstance(job, WindowJob)
    engine = cached_engine(job.engine)
    trace = job.source.load().draw(job.seed, job.warmup_s + job.duration_s, job.rate_per_s)
    engine.install(job.policy)
    engine.reset(trace)
    engine.run_window(job.warmup_s)
    return {"metrics": engine.run_window(job.duration_s).to_dict()}


class _Case:
    """One workload at one load: theory's predictions, and the runs that judge them."""

    def __init__(self, study: PriorStudy, workload: str, load: float, capacity: float) -> None:
        self.workload, self.load, self.capacity = workload, load, capacity
        self.rate_per_s = round(load * capacity, 4)
        own = ",".join(f"{name}={value}" for name, value in HRRN.items())
        task = TuningConfig(
            workload=workload,
            rates_per_s=(self.rate_per_s,),
            policy=f"ewsjf({own})",
            warmup_s=study.warmup_s,
            settle_s=0.0,
            window_s=study.window_s / WINDOWS_AHEAD,
        )
        started_s = time.process_time()
        self.point = starting_point(task)
        self.theory_s = time.process_time() - started_s
        self._prior = TaskPrior(task)
        names = tuple(HRRN)
        drawn = candidates(default_policy(), ScanPlan(names, study.points, (self.rate_per_s,)))
        values = [*drawn, HRRN, {n: self.point.values[n] for n in names}]
        labels = [SHIPPED, *(f"sobol {i}" for i in range(study.points)), HRRN_POINT, THEORY]
        self.values = dict(zip(labels, values, strict=True))
        self.jobs = [self._job(study, label, v) for label, v in self.values.items()]

    def _job(self, study: PriorStudy, label: str, values: Mapping[str, Value]) -> WindowJob:
        policy = default_policy().with_parameters(values, name=label)
        content = [
            {k: v for k, v in policy.to_dict().items() if k not in ("provenance", "name")},
            to_dict(load_workload(self.workload)),
            [self.rate_per_s, study.seed, study.warmup_s, study.window_s],
            to_dict(SimulatedConfig()),
            __version__,
        ]
        text = json.dumps(content, sort_keys=True, default=str)
        digest = hashlib.sha256(text.encode()).hexdigest()[:10]
        name = Path(self.workload).stem
        return WindowJob(
            f"{name}__{self.load:g}__{label.replace(' ', '_')}__{digest}",
            policy,
            Source(self.workload),
            name,
            self.load,
            self.rate_per_s,
            study.seed,
            study.window_s,
            SimulatedConfig(),
            study.warmup_s,
        )

    def summary(self, records: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        windows = [WindowMetrics.from_dict(records[job.key]["metrics"]) for job in self.jobs]
        simulated = {
            label: relative_objective(window, windows[0]).total
            for label, window in zip(self.values, windows, strict=True)
        }
        predicted = {label: self._prior.judge(v)[0] for label, v in self.values.items()}
        compared = [label for label in self.values if label != THEORY]
        spread = pstdev([simulated[label] for label in compared])
        differ = len({round(predicted[label], 9) for label in compared}) > 1 and spread > 0
        pair = [predicted[x] for x in compared], [simulated[x] for x in compared]
        return {
            "workload": Path(self.workload).stem,
            "load": self.load,
            "rate_per_s": self.rate_per_s,
            "capacity_per_s": self.capacity,
            "theory_load": self.point.loads[0],
            "theory_s": round(self.theory_s, 2),
            "theory_values": {name: self.point.values[name] for name in HRRN},
            "rank": float(spearmanr(*pair)[0]) if differ else None,
            "spread": spread,
            "best": max(simulated[label] for label in compared),
            "theory": simulated[THEORY],
            "hrrn": simulated[HRRN_POINT],
            "points": [
                {
                    "label": label,
                    "values": dict(v),
                    "predicted": predicted[label],
                    "simulated": simulated[label],
                }
                for label, v in self.values.items()
            ],
        }


def markdown(found: Mapping[str, Any]) -> str:
    """The table of all cases."""
    study = found["study"]
    lines = [
        "J against the shipped policy (0 is as good) on one trace of "
        f"{study['window_s']:g} s after {study['warmup_s']:g} s, seed {study['seed']}, simulated "
        f"engine {found['engine']}; rank: "
        f"Spearman's correlation of predicted and simulated J over {study['points'] + 2} points.",
        "",
        "| workload | load | by theory | rank | spread of J | J of theory's point | J of HRRN | "
        "best J of the points | lambda, mu, k of theory |",
        "|" + "---|" * 9,
    ]
    for case in found["cases"]:
        rank = "-" if case["rank"] is None else f"{case['rank']:.2f}"
        values = ", ".join(f"{float(v):.3g}" for v in case["theory_values"].values())
        lines.append(
            f"| {case['workload']} | {case['load']:g} | {case['theory_load']:.2f} | {rank} | "
            f"{case['spread']:.2f} | {case['theory']:+.2f} | {case['hrrn']:+.2f} | "
            f"{case['best']:+.2f} | {values} |"
        )
    cases: Sequence[Mapping[str, Any]] = found["cases"]
    means = [fmean(case[key] for case in cases) for key in ("theory", "hrrn", "best")]
    lines.append("| mean | | | | | " + " | ".join(f"{m:+.2f}" for m in means) + " | |")
    return "\n".join(lines) + "\n"


def _capacities(study: PriorStudy, path: Path) -> dict[str, float]:
    """FCFS capacity of every workload, measured once."""
    known: dict[str, float] = json.loads(path.read_text("utf-8")) if path.exists() else {}
    engine = cached_engine(SimulatedConfig())
    for workload in study.workloads:
        if workload not in known:
            backlog = load_workload(workload).draw_backlog(TRAINING_SEEDS + 1, study.backlog)
            known[workload] = engine.measure_capacity(backlog)
            write_json(path, known)
    return known
