"""The fit of the policy that ships as the default.

It comes from the synthetic workload `training_mix`, which no published comparison is judged on: its
partition by Refine-and-Prune over one drawn sample, its score by the offline scan of
`static_search` at loads below, around and above capacity.  Many points are equally good by the
objective J, so ties (within `TIE` of the best) go to the point whose long requests wait least;
then k, the knob between short and long, is lowered in small steps as far as the tie lasts.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from agents.core.progress import Progress
from agents.experiments.engines import cached_engine
from agents.experiments.source import Source
from agents.experiments.static_search import ScanPlan, ScanResult, scan
from ewsjf_env.engine.simulated.config import SimulatedConfig
from ewsjf_env.policy.policy import Policy
from ewsjf_env.scheduling.orders.registry import ORDERS
from ewsjf_env.scheduling.partition.partition import Partition, PartitionSettings, refine_and_prune
from ewsjf_env.seeds import TRAINING
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
    backlog = workload.draw_backlog(TRAINING.start, SAMPLE, max_prompt_tokens)
    return refine_and_prune(backlog.prompt_tokens, settings=settings)


def choose(results: Sequence[ScanResult]) -> ScanResult:
    """Of the points within `TIE` of the best J, the one whose long requests wait least."""
    best = max(r.objective for r in results)
    tied = [r for r in results if r.objective >= best - TIE]
    return min(tied, key=lambda r: fmean(m["ttft_long_p95_s"] for m in r.metrics))


def fit(out: Path, folder: Path, points: int, jobs: int, progress: Progress) -> list[str]:
    """Scan, choose and write the policy; lines about the best points.

    Args:
        out: policy file to write.
        folder: of the runs; what is there is not run again.
        points: Sobol points of the first scan.
        jobs: worker processes, >= 1.
        progress: wraps the runs as they end, with their number.
    """
    workload, config = load_workload(WORKLOAD), SimulatedConfig()
    capacity = cached_engine(config).measure_capacity(
        workload.draw_backlog(TRAINING.start + 1, 800)
    )
    rates = tuple(round(load * capacity, 4) for load in LOADS)
    plan = ScanPlan(NAMES, points, rates, seeds=2, duration_s=150.0)
    base = Policy("ewsjf", "ewsjf", partition=training_partition(workload))
    source = Source(WORKLOAD)
    results = scan(base, source, config, plan, folder, jobs, progress)
    first = choose(results)
    finer = [{**first.values, "k": factor * float(first.values["k"])} for factor in FINER_K]
    results += scan(base, source, config, plan, folder, jobs, progress, finer)
    results.sort(key=lambda result: -result.objective)
    chosen = choose(results)
    policy = Policy(
        name="ewsjf",
        order="ewsjf",
        parameters={**base.parameters, **chosen.values},
        partition=base.partition,
        provenance={
            "made_by": "ewsjf fit-default-policy",
            "training_workload": WORKLOAD,
            "training_rates_per_s": list(rates),
            "engine": config.latency,
            "points": len(results),
            "objective": chosen.objective,
            "best_objective": results[0].objective,
        },
    )
    policy.save(out)
    lines = []
    for result in results[:10]:
        mark = "*" if result is chosen else " "
        values = ", ".join(f"{name} {float(result.values[name]):.3g}" for name in NAMES)
        lines.append(f"{mark} J {result.objective:.3f}  {values}")
    return lines
