"""The offline scan: which fixed parameters of one order serve a training traffic best.

The scan plays the same drawn traces under Sobol points of a parameter space and scores each by
the mean objective J against FCFS on the same trace (`ewsjf_env.measure.objective`).  So the
default policy was made.  The traffic scanned must not be the traffic judged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from scipy.stats import qmc

from agents.core.progress import Progress, silent
from agents.experiments.grid import Plan, make_runs
from agents.experiments.objectives import canonical, fcfs, objectives, unique
from agents.experiments.policy_runs import run_every
from agents.experiments.source import Source
from ewsjf_env.config import check_range
from ewsjf_env.engine.simulated.config import SimulatedConfig
from ewsjf_env.parameters import Value
from ewsjf_env.policy.policy import Policy
from ewsjf_env.seeds import TRAINING


@dataclass(frozen=True)
class ScanPlan:
    """What is scanned.

    Attributes:
        names: parameters that move; the others stay as in the base policy.
        points: Sobol points beside the base policy, >= 1.
        rates_per_s: arrival rates of the training traffic.
        seeds: traces a rate, >= 1.
        duration_s: window length in virtual seconds.
    """

    names: tuple[str, ...]
    points: int
    rates_per_s: tuple[float, ...]
    seeds: int = 2
    duration_s: float = 120.0

    def __post_init__(self) -> None:
        check_range("points", self.points, 1)
        check_range("seeds", self.seeds, 1)
        check_range("duration_s", self.duration_s, 0.0, low_open=True)
        for rate in self.rates_per_s:
            check_range("rates_per_s", rate, 0.0, low_open=True)


@dataclass(frozen=True)
class ScanResult:
    """One point: its values, J over all traces, and the metrics of its windows."""

    values: dict[str, Value]
    objective: float
    metrics: tuple[dict[str, Any], ...]


def candidates(base: Policy, plan: ScanPlan) -> list[dict[str, Value]]:
    """The base policy's own values first, then scrambled Sobol points; always the same ones."""
    space = base.space.subset(plan.names)
    sobol = qmc.Sobol(len(space), seed=0)
    cube = sobol.random_base2((max(2, plan.points) - 1).bit_length())[: plan.points]
    own = {name: base.parameters[name] for name in space.names}
    return [own, *(space.from_unit(point) for point in cube)]


def scan(
    base: Policy,
    source: Source,
    engine: SimulatedConfig,
    plan: ScanPlan,
    out: Path,
    workers: int = 1,
    progress: Progress = silent,
    points: Sequence[dict[str, Value]] | None = None,
) -> list[ScanResult]:
    """Run the plan, and sort its points by J, the best first.

    Args:
        base: the policy whose parameters move.
        source: of the training traffic.
        engine: what is simulated.
        plan: what is scanned.
        out: folder of the runs: what is finished there is not run again.
        workers: processes.
        progress: wraps the runs as they end.
        points: instead of the plan's own.

    Raises:
        ConfigError: traffic that cannot be drawn or served.
        EngineError: runs failed; the others are kept.
    """
    served = candidates(base, plan) if points is None else points
    policies = [canonical(base.with_parameters(values)) for values in served]
    grid = Plan(
        policies=unique([fcfs(), *policies]),
        sources=(source,),
        loads=(),
        rates_per_s=plan.rates_per_s,
        seeds=plan.seeds,
        duration_s=plan.duration_s,
        engine=engine,
        first_seed=TRAINING.start,
    )
    records = run_every(make_runs(grid, {}), out, workers, progress)
    scores = objectives(records)
    found = []
    for values, policy in zip(served, policies, strict=True):
        by_rate = [fmean(of_rate[policy.name].values()) for of_rate in scores.values()]
        metrics = tuple(r["metrics"] for r in records if r["policy"] == policy.name)
        found.append(ScanResult(values, fmean(by_rate), metrics))
    return sorted(found, key=lambda result: -result.objective)
