"""The comparison of the compiled engine with AISimulate: agreement of requests, and speeds."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from agents.analysis.statistics import Estimate
from agents.experiments.benchmark import median
from agents.experiments.simulators.aisimulate import (
    STEP_S,
    answer,
    ask,
    specification,
    start,
    trace_of,
)
from ewsjf_env.config import ConfigError, check_range
from ewsjf_env.engine.compiled.engine import CompiledEngine
from ewsjf_env.engine.simulated.config import SimulatedConfig
from ewsjf_env.engine.simulated.latency import Coefficients, LatencyModel
from ewsjf_env.measure.requests import RequestRecord
from ewsjf_env.workload import Trace, load_workload

BACKLOG_REQUESTS = 2000
TOLERANCE_S = 1e-6


@dataclass(frozen=True)
class SimulatorPlan:
    """What is played.

    Attributes:
        workload: a built-in name or a file.
        loads: of the FCFS capacity under the fixed step law, > 0.
        duration_s: virtual seconds of arrivals, > 0; all that arrived is served.
        turns: of each simulator, >= 2.
        seed: of the traffic.
    """

    workload: str = "paper_mix"
    loads: tuple[float, ...] = (0.7, 1.3)
    duration_s: float = 600.0
    turns: int = 9
    seed: int = 0

    def __post_init__(self) -> None:
        for load in self.loads:
            check_range("loads", load, 0.0, low_open=True)
        if not self.loads:
            raise ConfigError("loads: expected at least one")
        check_range("duration_s", self.duration_s, 0.0, low_open=True)
        check_range("turns", self.turns, 2)
        check_range("seed", self.seed, 0)


@dataclass(frozen=True)
class Speeds:
    """Virtual seconds a CPU second: medians of the turns, with 95 % intervals.

    Attributes:
        compiled, aisimulate: of each simulator.
        ratio: median of the ratios within turns.
    """

    compiled: Estimate
    aisimulate: Estimate
    ratio: Estimate


@dataclass(frozen=True)
class SimulatorCase:
    """Result of one load.

    Attributes:
        load, rate_per_s: of the traffic.
        requests: that arrived; all are served.
        virtual_s: from 0 to the last finish.
        steps: of the compiled engine.
        first_tokens_equal, finishes_equal: requests on whose moment both agree within 1e-6 s.
        largest_difference_s: of either moment; None where a request is not served by both.
        preemptions, preemptions_aisimulate: in all.
        preemptions_equal: requests that both preempted as often.
        call: speeds of a whole call, from the requests to a report: AISimulate's reads its
            specification and reports summaries of latencies, ours builds the state and measures
            one window.
        scheduling: speeds of what remains without preparation and report: of AISimulate a call
            less one that ends after a virtual millisecond (its report stays in), of ours
            `CompiledCore.advance`.
        aisimulate_cpu_share: CPU time of AISimulate's call over its wall time, the largest of the
            turns: above 1 it had used more than one thread.
    """

    load: float
    rate_per_s: float
    requests: int
    virtual_s: float
    steps: int
    first_tokens_equal: int
    finishes_equal: int
    largest_difference_s: float | None
    preemptions: int
    preemptions_aisimulate: int
    preemptions_equal: int
    call: Speeds
    scheduling: Speeds
    aisimulate_cpu_share: float


@dataclass(frozen=True)
class SimulatorComparison:
    """All cases, the capacity in requests/s that loads refer to, and AISimulate's versions."""

    capacity_per_s: float
    cases: tuple[SimulatorCase, ...]
    aisimulate_versions: dict[str, str] = field(default_factory=dict)


def compare_simulators(python: Path, plan: SimulatorPlan, folder: Path) -> SimulatorComparison:
    """Play the plan in both simulators.

    Args:
        python: interpreter of an environment with `aisimulate`; only its compiled module is used.
        plan: the traffic.
        folder: for the files that both read, one a load.

    Raises:
        ConfigError: no AISimulate behind `python`, or it refuses the file.
    """
    engine = fixed_engine()
    workload = load_workload(plan.workload)
    capacity_per_s = engine.measure_capacity(workload.draw_backlog(plan.seed, BACKLOG_REQUESTS))
    cases = []
    with start(python) as player:
        versions = answer(player)
        for load in plan.loads:
            trace = workload.draw(plan.seed, plan.duration_s, load * capacity_per_s)
            path = folder / f"load_{load:g}.json"
            path.write_text(json.dumps(specification(engine, trace)), encoding="utf-8")
            cases.append(_compare(player, engine, path, load, plan))
    return SimulatorComparison(capacity_per_s, tuple(cases), versions)


def fixed_engine() -> CompiledEngine:
    """The compiled engine under the settings that both can follow; every step takes `STEP_S`."""
    config = SimulatedConfig(scheduler="stock", async_scheduling=False)
    steps = Coefficients(
        overhead_s=STEP_S,
        weights_s=0.0,
        linear_s_per_token=0.0,
        attention_s_per_pair=0.0,
        kv_read_s_per_token=0.0,
    )
    return CompiledEngine(config, replace(LatencyModel.load(config.latency), measured=steps))


def _compare(
    player: subprocess.Popen[str],
    engine: CompiledEngine,
    path: Path,
    load: float,
    plan: SimulatorPlan,
) -> SimulatorCase:
    trace = trace_of(path)
    engine.reset(trace)
    engine.core.advance(np.inf, until_idle=True)  # compiles where nothing is cached
    records, totals = engine.records(), engine.core.totals()
    virtual_s = engine.now()
    ours: list[tuple[float, float]] = []
    theirs: list[tuple[float, float]] = []
    shares = []
    for turn in range(plan.turns):
        for mine in (True, False) if turn % 2 == 0 else (False, True):
            if mine:
                ours.append(_play_compiled(engine, trace, virtual_s))
                continue
            cpu_s, wall_s, _ = ask(player, path, {})
            ready_s, _, _ = ask(player, path, {"max_sim_time_ms": 1.0})
            theirs.append((cpu_s, cpu_s - ready_s))
            shares.append(cpu_s / wall_s)
    _, _, rows = ask(player, path, {"record_per_request": True})
    found = {int(index): (first / 1000, last / 1000, count) for index, first, last, count in rows}
    call, scheduling = (
        _speeds(virtual_s, [row[part] for row in ours], [row[part] for row in theirs])
        for part in (0, 1)
    )
    return SimulatorCase(
        load=load,
        rate_per_s=len(trace) / plan.duration_s,
        requests=len(trace),
        virtual_s=virtual_s,
        steps=totals.steps,
        preemptions=totals.preemptions,
        **agreement(records, found),
        call=call,
        scheduling=scheduling,
        aisimulate_cpu_share=max(shares),
    )


def agreement(
    records: Sequence[RequestRecord], found: Mapping[int, tuple[float, float, int]]
) -> dict[str, Any]:
    """How far AISimulate agrees with served requests.

    Args:
        records: of our engine, all finished.
        found: by the place of a request in the trace: first token and last token in seconds, and
            preemptions, as AISimulate reports them; requests that it did not serve lack.

    Returns:
        The attributes of `SimulatorCase` of these names.
    """
    first_s, last_s, same = [], [], 0
    for place, record in enumerate(records):
        first, last, preemptions = found.get(place, (np.inf, np.inf, -1))
        first_s.append(abs(first - _known(record.first_token_s)))
        last_s.append(abs(last - _known(record.finish_s)))
        same += preemptions == record.preemptions
    largest_s = max([*first_s, *last_s])
    return {
        "first_tokens_equal": sum(s <= TOLERANCE_S for s in first_s),
        "finishes_equal": sum(s <= TOLERANCE_S for s in last_s),
        "largest_difference_s": largest_s if np.isfinite(largest_s) else None,
        "preemptions_aisimulate": sum(preemptions for _, _, preemptions in found.values()),
        "preemptions_equal": same,
    }


def _known(moment_s: float | None) -> float:
    assert moment_s is not None
    return moment_s


def _play_compiled(engine: CompiledEngine, trace: Trace, virtual_s: float) -> tuple[float, float]:
    """CPU seconds of a whole call, and of the scheduling alone."""
    end_s = float(np.nextafter(virtual_s, np.inf))  # windows are half-open: the last finish counts
    started_s = time.process_time()
    engine.reset(trace)
    engine.run_window(end_s)
    whole_s = time.process_time() - started_s
    engine.reset(trace)
    started_s = time.process_time()
    engine.core.advance(end_s)
    return whole_s, time.process_time() - started_s


def _speeds(virtual_s: float, ours_s: Sequence[float], theirs_s: Sequence[float]) -> Speeds:
    ours, theirs = virtual_s / np.array(ours_s), virtual_s / np.array(theirs_s)
    return Speeds(median(ours), median(theirs), median(ours / theirs))


def to_dict(comparison: SimulatorComparison, plan: SimulatorPlan) -> dict[str, Any]:
    """Plain values, for JSON."""
    engine = fixed_engine()
    law = {
        "step_s": STEP_S,
        "async_scheduling": engine.config.async_scheduling,
        "max_num_seqs": engine.config.max_num_seqs,
        "max_num_batched_tokens": engine.config.max_num_batched_tokens,
        "block_tokens": engine.config.block_tokens,
        "kv_blocks": engine.kv_blocks,
    }
    return {
        "plan": asdict(plan),
        "engine": law,
        "python": ".".join(map(str, sys.version_info[:3])),
        "aisimulate": comparison.aisimulate_versions,
        "tolerance_s": TOLERANCE_S,
        "capacity_per_s": comparison.capacity_per_s,
        "cases": [asdict(case) for case in comparison.cases],
    }
