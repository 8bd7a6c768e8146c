"""Which fixed parameters serve a training traffic best? An offline scan of one order.

The scan plays the same drawn traces under Sobol points of a parameter space and scores each by
the mean objective J against FCFS on the same trace (`ewsjf_env.measure.objective`).  It is how the
default policy was made, and the honest "best static" arm of a comparison, provided that the
traffic scanned is not the traffic judged.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from joblib import Parallel, delayed
from scipy.stats import qmc

from ewsjf_env.config import ConfigError, check_range
from ewsjf_env.engine.simulated.config import SimulatedConfig
from ewsjf_env.engine.simulated.engine import SimulatedEngine
from ewsjf_env.measure.objective import relative_objective
from ewsjf_env.measure.records import WindowMetrics
from ewsjf_env.parameters import Value
from ewsjf_env.policy.policy import Policy, parse_policy
from ewsjf_env.seeds import TRAINING_SEEDS
from ewsjf_env.workload import Workload


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
    """One point: its values, and J by rate (mean over seeds) and overall."""

    values: dict[str, Value]
    objective: float
    by_rate: tuple[float, ...]
    metrics: tuple[dict[str, Any], ...]


def _silent(results: Iterable[Any], total: int) -> Iterable[Any]:
    return results


def candidates(base: Policy, plan: ScanPlan) -> list[dict[str, Value]]:
    """The base policy's own values first, then scrambled Sobol points; always the same ones."""
    space = base.space.subset(plan.names)
    sobol = qmc.Sobol(len(space), seed=0)
    cube = sobol.random_base2((max(2, plan.points) - 1).bit_length())[: plan.points]
    own = {name: base.parameters[name] for name in space.names}
    return [own, *(space.from_unit(point) for point in cube)]


def scan(
    base: Policy,
    workload: Workload,
    config: SimulatedConfig,
    plan: ScanPlan,
    path: Path,
    jobs: int = 1,
    progress: Callable[[Iterable[Any], int], Iterable[Any]] = _silent,
    points: Sequence[dict[str, Value]] | None = None,
) -> list[ScanResult]:
    """Run the plan; finished points are kept in the file `path` and not run again.

    `points` names further points to run instead of the plan's own; all results come back.

    Raises:
        ConfigError: `path` holds results of another plan, policy or workload.
    """
    header = {
        "plan": repr(plan),
        "base": base.to_dict(),
        "workload": workload.name,
        "config": repr(config),
    }
    done = _read(path, header)
    wanted = candidates(base, plan) if points is None else points
    todo = [v for v in wanted if json.dumps(v, sort_keys=True) not in done]
    references = _references(workload, config, plan) if todo else []
    tasks = (delayed(_evaluate)(base, v, workload, config, plan, references) for v in todo)
    with path.open("a", encoding="utf-8") as file:
        results = Parallel(n_jobs=jobs, return_as="generator_unordered")(tasks)
        for result in progress(results, len(todo)):
            file.write(json.dumps(vars(result)) + "\n")
            file.flush()
            done[json.dumps(result.values, sort_keys=True)] = result
    return sorted(done.values(), key=lambda r: -r.objective)


def _references(
    workload: Workload, config: SimulatedConfig, plan: ScanPlan
) -> list[list[WindowMetrics]]:
    engine = SimulatedEngine(config)
    fcfs = parse_policy("fcfs")
    return [_windows(engine, fcfs, workload, plan, rate) for rate in plan.rates_per_s]


def _windows(
    engine: SimulatedEngine, policy: Policy, workload: Workload, plan: ScanPlan, rate: float
) -> list[WindowMetrics]:
    metrics = []
    for seed in range(TRAINING_SEEDS, TRAINING_SEEDS + plan.seeds):
        engine.reset(workload.draw(seed, plan.duration_s, rate))
        engine.install(policy)
        metrics.append(engine.run_window(plan.duration_s))
    return metrics


def _evaluate(
    base: Policy,
    values: dict[str, Value],
    workload: Workload,
    config: SimulatedConfig,
    plan: ScanPlan,
    references: list[list[WindowMetrics]],
) -> ScanResult:
    engine = SimulatedEngine(config)
    policy = base.with_parameters(values)
    by_rate, metrics = [], []
    for rate, reference in zip(plan.rates_per_s, references, strict=True):
        windows = _windows(engine, policy, workload, plan, rate)
        rewards = [relative_objective(m, r).total for m, r in zip(windows, reference, strict=True)]
        by_rate.append(fmean(rewards))
        metrics += [m.to_dict() for m in windows]
    return ScanResult(values, fmean(by_rate), tuple(by_rate), tuple(metrics))


def _read(path: Path, header: dict[str, Any]) -> dict[str, ScanResult]:
    if not path.exists():
        path.write_text(json.dumps(header) + "\n", encoding="utf-8")
        return {}
    first, *lines = path.read_text(encoding="utf-8").splitlines()
    if json.loads(first) != json.loads(json.dumps(header)):
        raise ConfigError(f"{path}: holds results of another scan; remove it or name another file")
    results = {}
    for line in lines:
        data = json.loads(line)
        result = ScanResult(
            data["values"], data["objective"], tuple(data["by_rate"]), tuple(data["metrics"])
        )
        results[json.dumps(result.values, sort_keys=True)] = result
    return results
