"""The policy that ships as the default, and how it is chosen.

It comes from the synthetic workload `training_mix`, which no published comparison is judged on: its
partition by Refine-and-Prune over one drawn sample, its score by the offline scan of
`static_search` at loads below, around and above capacity.  Many points are equally good by the
objective J, so ties (within `TIE` of the best) go to the point whose long requests wait least;
then k, the knob between short and long, is lowered in small steps as far as the tie lasts.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from agents.core.progress import bar
from agents.experiments.engines import cached_engine
from agents.experiments.source import Source
from agents.experiments.static_search import ScanPlan, ScanResult, scan
from ewsjf_env.config import ConfigError, check_range
from ewsjf_env.engine.base import EngineError
from ewsjf_env.engine.simulated.config import SimulatedConfig
from ewsjf_env.policy.policy import DEFAULT_PATH, Policy
from ewsjf_env.scheduling.orders.registry import ORDERS
from ewsjf_env.scheduling.partition.partition import Partition, PartitionSettings, refine_and_prune
from ewsjf_env.seeds import TRAINING_SEEDS
from ewsjf_env.workload import Workload, load_workload

WORKLOAD = "training_mix"
NAMES = ("lambda", "mu", "k")
LOADS = (0.9, 1.2, 1.7)
POINTS = 64
SAMPLE = 4096  # requests whose lengths make the partition
FIXED_COST_TOKENS = 100.0  # of the default engine: its weights' read over its cost of a token
TIE = 0.02
FINER_K = (0.4, 0.5, 0.6, 0.7, 0.85)  # factors of the chosen k


def training_partition(
    workload: Workload,
    fixed_cost_tokens: float = FIXED_COST_TOKENS,
    max_prompt_tokens: int | None = None,
) -> Partition:
    """Queues for the lengths of one training sample.

    Args:
        workload: of which it is drawn.
        fixed_cost_tokens: what a prefill costs at any length, in tokens, > 0.
        max_prompt_tokens: longer prompts are capped, as the engine will.
    """
    values = ORDERS["ewsjf"].space.defaults
    settings = PartitionSettings(
        alpha=float(values["alpha"]),
        max_queues=int(values["q_max"]),
        homogeneous_ratio=float(values["homogeneity"]),
        fixed_cost_tokens=fixed_cost_tokens,
        prune="delay",
    )
    backlog = workload.draw_backlog(TRAINING_SEEDS, SAMPLE, max_prompt_tokens)
    return refine_and_prune(backlog.prompt_tokens, settings=settings)


def choose(results: Sequence[ScanResult]) -> ScanResult:
    """Of the points within `TIE` of the best J, the one whose long requests wait least."""
    best = max(r.objective for r in results)
    tied = [r for r in results if r.objective >= best - TIE]
    return min(tied, key=lambda r: fmean(m["ttft_long_p95_s"] for m in r.metrics))


def main(argv: Sequence[str] | None = None) -> int:
    """Scan, choose, write the policy; exit code 1 failed, 2 bad input, 130 for Ctrl-C."""
    parser = argparse.ArgumentParser(prog="fit_default_policy.py", description=__doc__)
    parser.add_argument("--out", default=str(DEFAULT_PATH), help="policy file to write")
    parser.add_argument("--scan", default="runs/default_policy", help="folder of results")
    parser.add_argument("--points", type=int, default=POINTS, help=f"Sobol points ({POINTS})")
    parser.add_argument("--jobs", type=int, default=1, help="worker processes (1)")
    arguments = parser.parse_args(argv)
    try:
        check_range("jobs", arguments.jobs, 1)
        _fit(Path(arguments.out), Path(arguments.scan), arguments.points, arguments.jobs)
    except (ConfigError, EngineError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, ConfigError) else 1
    except KeyboardInterrupt:
        print("interrupted: the same command goes on from the finished points", file=sys.stderr)
        return 130
    return 0


def _fit(out: Path, scanned: Path, points: int, jobs: int) -> None:
    workload, config = load_workload(WORKLOAD), SimulatedConfig()
    capacity = cached_engine(config).measure_capacity(
        workload.draw_backlog(TRAINING_SEEDS + 1, 800)
    )
    rates = tuple(round(load * capacity, 4) for load in LOADS)
    plan = ScanPlan(NAMES, points, rates, seeds=2, duration_s=150.0)
    base = Policy("ewsjf", "ewsjf", partition=training_partition(workload))
    source, progress = Source(WORKLOAD), bar("run")
    results = scan(base, source, config, plan, scanned, jobs, progress)
    first = choose(results)
    finer = [{**first.values, "k": factor * float(first.values["k"])} for factor in FINER_K]
    results += scan(base, source, config, plan, scanned, jobs, progress, finer)
    results.sort(key=lambda result: -result.objective)
    chosen = choose(results)
    policy = Policy(
        name="ewsjf",
        order="ewsjf",
        parameters={**base.parameters, **chosen.values},
        partition=base.partition,
        provenance={
            "made_by": "scripts/fit_default_policy.py",
            "training_workload": WORKLOAD,
            "training_rates_per_s": list(rates),
            "engine": config.latency,
            "points": len(results),
            "objective": chosen.objective,
            "best_objective": results[0].objective,
        },
    )
    policy.save(out)
    for result in results[:10]:
        mark = "*" if result is chosen else " "
        values = ", ".join(f"{name} {float(result.values[name]):.3g}" for name in NAMES)
        print(f"{mark} J {result.objective:.3f}  {values}")
    print(out)
