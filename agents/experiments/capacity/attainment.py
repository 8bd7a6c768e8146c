"""Attainment of a service level: which share of the requests keeps it, by policy and rate.

A policy meets the same draws as every other one.  Rates are steps of `STEP` on one ladder that
hangs on the rate that FCFS drains, so that policies share draws, too.  For each share that is
asked for, the ladder is searched by bisection, and the rungs around what was found are played as
well: intervals need them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from agents.core.progress import Progress
from agents.core.store import Key, Result, Store, key_of
from agents.experiments.engines import cached_engine, engine_content
from agents.experiments.source import Source, drawn
from ewsjf_env.config import ConfigError, to_dict
from ewsjf_env.engine.play import play
from ewsjf_env.engine.simulated.config import SimulatedConfig
from ewsjf_env.measure.records import MetricSettings
from ewsjf_env.measure.requests import Requests
from ewsjf_env.measure.service import ServiceLevel
from ewsjf_env.policy.policy import Policy

STEP = 1.03  # between two rates
LOWEST, HIGHEST = -180, 40  # rungs: 0.5 % to 3.3 times what FCFS drains
AROUND = 5  # rungs that are played on either side of what was found
EDGE = 0.1  # of the window at its start and at its end, in which nobody is judged
LEAST_REQUESTS = 250  # that arrive in a window, which is longer where the rate is low
CLASSES = ("short", "middle", "long")
ALL, EACH = "all", "each"


@dataclass(frozen=True)
class CapacityPlan:
    """What is asked: shares of requests that keep a level, under policies, on traffics.

    Attributes:
        policies, sources: as in `grid.Plan`.
        shares: of requests that keep the level, in (0, 1).
        level: the service level.
        seeds: draws.
        duration_s: of a window.
        engine: that plays.
        price_per_hour: of the GPU; None: no cost is told.
    """

    policies: tuple[Policy, ...]
    sources: tuple[Source, ...]
    shares: tuple[float, ...]
    level: ServiceLevel
    seeds: int
    duration_s: float
    engine: SimulatedConfig
    price_per_hour: float | None = None


def play_ladders(
    plan: CapacityPlan,
    limits: dict[str, float],
    names: dict[str, Source],
    out: Path,
    workers: int,
    progress: Progress,
) -> list[Result]:
    """The ladder of every policy on every traffic, kept in `out/ladders`.

    Args:
        plan: what is asked.
        limits: requests/s that FCFS drains, by traffic.
        names: sources by traffic.
        out: folder of the results.
        workers: processes.
        progress: wraps the ladders as they are done.
    """
    tasks: dict[Key, Callable[[], Result]] = {}
    for name, source in names.items():
        digest = drawn(source, 0, plan.duration_s, limits[name]).digest()
        for policy in plan.policies:
            content = [digest, policy.to_dict(), plan.shares, to_dict(plan.level), plan.seeds]
            content += [plan.duration_s, limits[name], *engine_content(plan.engine)]
            key = key_of(content, name, policy.name)
            tasks[key] = functools.partial(_climb, plan, policy, source, name, limits[name])
    return Store(out / "ladders").every(tasks, workers, progress)


def _climb(
    plan: CapacityPlan, policy: Policy, source: Source, name: str, limit_per_s: float
) -> Result:
    """Search the ladder for each share, over all requests and in each class."""
    rungs: dict[int, dict[str, Any]] = {}

    def rung(index: int) -> dict[str, Any]:
        if index not in rungs:
            rungs[index] = _rung(plan, policy, source, limit_per_s * STEP**index)
        return rungs[index]

    for share in plan.shares:
        for judged in (ALL, EACH):
            low, high = LOWEST, HIGHEST
            while high - low > 1:
                middle = (low + high) // 2
                if attained(rung(middle), judged) >= share:
                    low = middle
                else:
                    high = middle
            for index in range(max(LOWEST, low - AROUND), min(HIGHEST, high + AROUND) + 1):
                rung(index)
    return {
        "policy": policy.name,
        "oracle": policy.oracle,
        "workload": name,
        "limit_requests_per_s": limit_per_s,
        "rungs": [rungs[index] for index in sorted(rungs)],
    }


def _rung(plan: CapacityPlan, policy: Policy, source: Source, rate_per_s: float) -> dict[str, Any]:
    """Counts of judged requests, and of those that keep the level, by draw."""
    engine, settings = cached_engine(plan.engine), plan.engine.metrics
    duration_s = max(plan.duration_s, LEAST_REQUESTS / rate_per_s)
    counted: dict[str, list[int]] = {name: [] for name in (ALL, *CLASSES)}
    kept: dict[str, list[int]] = {name: [] for name in (ALL, *CLASSES)}
    for seed in range(plan.seeds):
        try:
            trace = drawn(source, seed, duration_s, rate_per_s)
        except ConfigError as error:
            raise ConfigError(f"{source.path}: at {rate_per_s:.3g} requests/s: {error}") from None
        for _ in play(engine, policy, trace, [duration_s]):
            pass
        requests = engine.requests(0.0, duration_s)
        edge_s = EDGE * duration_s
        inside = (requests.arrival_s >= edge_s) & (requests.arrival_s < duration_s - edge_s)
        requests = requests.take(inside)
        good = plan.level.kept(requests, duration_s)
        for name, members in _classes(requests, settings).items():
            counted[name].append(int(members.sum()))
            kept[name].append(int((members & good).sum()))
    return {"rate_per_s": rate_per_s, "counted": counted, "kept": kept}


def _classes(requests: Requests, settings: MetricSettings) -> dict[str, Any]:
    short = requests.prompt_tokens <= settings.short_max_tokens
    long = requests.prompt_tokens > settings.long_min_tokens
    everybody = np.ones(len(requests), np.bool_)
    return {ALL: everybody, "short": short, "middle": ~short & ~long, "long": long}


def attained(rung: dict[str, Any], judged: str, weights: Sequence[float] | None = None) -> float:
    """The share of requests that keep the level; with `each` that of the class with the least.

    Args:
        rung: of a ladder.
        judged: `all`, `each`, or a class.
        weights: of the draws; None: all the same.
    """
    if judged == EACH:
        return min(attained(rung, name, weights) for name in CLASSES)
    kept, counted = np.array(rung["kept"][judged]), np.array(rung["counted"][judged])
    share = np.ones(len(kept)) if weights is None else np.asarray(weights)
    total = float(counted @ share)
    return float(kept @ share) / total if total > 0.0 else 1.0
