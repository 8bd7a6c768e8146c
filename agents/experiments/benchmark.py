"""The cost of our scheduler, next to vLLM's own and next to the time that it simulates.

`measure_steps`: CPU time of a step (`add_request` of its arrivals, `schedule`,
`update_from_output`) under our class over that under vLLM's, at a given number of waiting
requests.  Three things make the comparison fair:

* All arms do the same work.  Every request has one output length and 17 to 32 prompt tokens, two
  KV blocks, so that whoever is picked, the next step runs as many requests, admits as many and
  finishes as many; a step's arrivals are as many as finish.  The order still has all of its own
  work: the policy gets one queue for each of the sixteen lengths, and all hold requests.  That
  running, waiting and finished requests agree between the arms is checked.
* The arms take turns every few steps, each as often first and last, and the ratio is taken
  within a repeat of many turns.  A machine that slows down slows all of them.
* The first steps of a turn are not timed: they find caches, and the interpreter's own inline
  caches, filled by the arm before.
* `control` is a second copy of vLLM's scheduler: how far its ratio is from 1 is the error.
* `random` runs the same code as `fcfs`.  What it costs more is not the scheduler's work but memory:
  requests picked out of turn lie far apart, and vLLM walks over the running ones in every step.
  It shows in `update_from_output`, too, where none of our code runs.
* Only CPU time of the process counts, so that other processes do not; garbage collection is on.

A repeat is long enough for the work that we do now and then (the prefill-cost model is solved
every 32 samples, a sample every fourth step) and begins after the dense samples of a young server.

`measure_simulation`: virtual seconds per CPU second of the simulated engine on ordinary traffic.
"""

from __future__ import annotations

import cProfile
import dataclasses
import gc
import pstats
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import bootstrap

import ewsjf_env
from agents.analysis.statistics import Estimate
from ewsjf_env.config import ConfigError, check_range
from ewsjf_env.engine.base import EngineError
from ewsjf_env.engine.play import play
from ewsjf_env.engine.simulated.config import SimulatedConfig
from ewsjf_env.engine.simulated.engine import SimulatedEngine
from ewsjf_env.engine.simulated.trace_requests import TraceRequests
from ewsjf_env.engine.simulated.virtual_core import VirtualCore
from ewsjf_env.engine.simulated.vllm_config import (
    VllmSettings,
    build_scheduler,
    build_setup,
    ewsjf_scheduler_class,
    stock_scheduler_class,
)
from ewsjf_env.policy.policy import parse_policies
from ewsjf_env.scheduling.partition.partition import Partition
from ewsjf_env.workload import Trace, load_workload

STOCK = "stock"
CONTROL = "control"  # stock once more
PACKAGE = str(Path(ewsjf_env.__file__).parent)
STEP_S = 0.0625  # virtual; a power of two, so that sums of steps are exact
LENGTHS = range(17, 33)  # prompt tokens: two blocks of 16, all of them
STEPS_A_REQUEST = 128  # a request decodes for so long, or as many steps as requests run
DENSE_STEPS = 512  # at first our scheduler learns from every step with prefill
TIMED = ("add_request", "schedule", "update_from_output")


@dataclass(frozen=True)
class StepPlan:
    """What is measured.

    Attributes:
        waiting: numbers of waiting requests, >= 1 each.
        running: running requests, >= 1; a 128th of them, at least one, is replaced in a step.
        arms: names of orders to compare with vLLM's own scheduler, or `control`.
        repeats: ratios taken, >= 2.
        turns: of each arm in a repeat, >= 1.
        turn_steps: timed steps of a turn, >= 1.
        settle_steps: steps before them, >= 0.
    """

    waiting: tuple[int, ...] = (100, 1_000, 10_000)
    running: int = 256
    arms: tuple[str, ...] = (CONTROL, "fcfs", "random", "ewsjf")
    repeats: int = 12
    turns: int = 15
    turn_steps: int = 8
    settle_steps: int = 3

    def __post_init__(self) -> None:
        for waiting in self.waiting:
            check_range("waiting", waiting, 1)
        check_range("running", self.running, 1)
        check_range("repeats", self.repeats, 2)
        check_range("turns", self.turns, 1)
        check_range("turn_steps", self.turn_steps, 1)
        check_range("settle_steps", self.settle_steps, 0)
        if not self.waiting or not self.arms:
            raise ConfigError("waiting, arms: expected at least one of each")

    @property
    def steps(self) -> int:
        """Of each arm after the warm-up, timed or not."""
        return self.repeats * self.turns * (self.settle_steps + self.turn_steps)

    @property
    def arrivals_a_step(self) -> int:
        """As many as finish, but for the step or two that a finish takes to be noticed."""
        return max(1, self.running // STEPS_A_REQUEST)

    @property
    def output_tokens(self) -> int:
        """Of every request; it decodes one a step."""
        return self.running // self.arrivals_a_step

    @property
    def warm_steps(self) -> int:
        """Until ages in the batch are spread evenly and dense sampling has ended."""
        return 2 * self.output_tokens + DENSE_STEPS


@dataclass(frozen=True)
class StepCost:
    """Result of one arm at one depth.

    Attributes:
        arm: order.
        waiting: requests waiting when the measurement began.
        step_us: median CPU time of a step, microseconds.
        stock_us: the same of vLLM's own scheduler in the same repeats.
        ratio: median of the ratios within the repeats, and its 95 % interval.
    """

    arm: str
    waiting: int
    step_us: float
    stock_us: float
    ratio: Estimate


@dataclass(frozen=True)
class SimulationSpeed:
    """Virtual seconds per CPU second, median and its 95 % interval."""

    arm: str
    load: float
    virtual_s: float
    speed: Estimate


class _Meter:
    """Adds up the CPU time of a scheduler's calls, or profiles them."""

    def __init__(self, scheduler: Any) -> None:
        self.cpu_s = 0.0
        self.profile: cProfile.Profile | None = None
        for name in TIMED:
            setattr(scheduler, name, self._timed(getattr(scheduler, name)))

    def _timed(self, call: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(call)
        def timed(*args: Any, **kwargs: Any) -> Any:
            if self.profile is not None:
                return self.profile.runcall(call, *args, **kwargs)
            started_s = time.process_time()
            try:
                return call(*args, **kwargs)
            finally:
                self.cpu_s += time.process_time() - started_s

        return timed


class _Arm:
    """One scheduler in the steady state: full batch, backlog, as many arrivals as finishes."""

    def __init__(self, name: str, waiting: int, plan: StepPlan) -> None:
        setup = build_setup(_settings(plan))
        asynchronous = setup.concurrent_batches > 1
        stock = name in (STOCK, CONTROL)
        choose = stock_scheduler_class if stock else ewsjf_scheduler_class
        scheduler = build_scheduler(setup, choose(asynchronous))
        self.name = name
        self.meter = _Meter(scheduler)
        requests = TraceRequests(_traffic(waiting, plan), _longest(plan), None)
        self.core = VirtualCore(scheduler, requests, lambda *_: STEP_S, setup.concurrent_batches)
        if not stock:
            # Requests are stamped by the first step that sees them, as in a server.
            scheduler.ewsjf.bind_clock(self.core.now)
            scheduler.ewsjf.install(_policy(name))
        self.core.advance(plan.warm_steps * STEP_S)

    def run(self, steps: int) -> float:
        """Serve some steps; CPU seconds a step."""
        before_s, before = self.meter.cpu_s, self.core.totals().steps
        self.core.advance(self.core.clock_s + steps * STEP_S)
        done = self.core.totals().steps - before
        if done != steps:
            raise EngineError(f"{self.name}: {done} steps in the time of {steps}")
        return (self.meter.cpu_s - before_s) / max(1, steps)

    def counts(self) -> tuple[int, int]:
        """Requests running and waiting; with the same arrivals, also those finished."""
        scheduler = self.core.scheduler
        return len(scheduler.running), len(scheduler.waiting)


def measure_steps(plan: StepPlan) -> list[StepCost]:
    """Compare steps at every depth of the plan; see the module.

    Raises:
        EngineError: the arms did not do the same work.
    """
    found = []
    for waiting in plan.waiting:
        arms = _arms(waiting, plan)
        cpu_s = {arm.name: np.zeros(plan.repeats) for arm in arms}
        for turn in range(plan.repeats * plan.turns):
            first = turn % len(arms)
            for arm in arms[first:] + arms[:first]:
                arm.run(plan.settle_steps)
                cpu_s[arm.name][turn // plan.turns] += arm.run(plan.turn_steps) / plan.turns
            _check_same_work(arms)
        stock = cpu_s[STOCK]
        for name in plan.arms:
            ours = cpu_s[name]
            medians = 1e6 * float(np.median(ours)), 1e6 * float(np.median(stock))
            found.append(StepCost(name, waiting, *medians, median(ours / stock)))
    return found


def profile_steps(plan: StepPlan, arm: str, waiting: int) -> pstats.Stats:
    """Profile the calls that `measure_steps` times, for one arm at one depth."""
    measured = _Arm(arm, waiting, plan)
    measured.meter.profile = cProfile.Profile(time.process_time)
    measured.run(plan.steps)
    return pstats.Stats(measured.meter.profile)


def own_share(stats: pstats.Stats) -> float:
    """Share of profiled time spent in our functions, without what they call of others."""
    rows: dict[tuple[str, int, str], tuple[Any, ...]] = stats.stats  # type: ignore[attr-defined]
    ours = sum(row[2] for (path, _, _), row in rows.items() if path.startswith(PACKAGE))
    return float(ours / sum(row[2] for row in rows.values()))


def measure_simulation(
    load: float = 0.7,
    virtual_s: float = 120.0,
    repeats: int = 3,
    backlog: int = 2400,
    config: SimulatedConfig | None = None,
) -> list[SimulationSpeed]:
    """Virtual over CPU time on the workload `mixed`, in this process alone.

    Args:
        load: share of the measured FCFS capacity, > 0.
        virtual_s: length of a run; reset and metrics are part of its CPU time.
        repeats: runs of each arm, which take turns.
        backlog: requests that measure the capacity.
        config: of the engine; None is the default one.
    """
    config = config or SimulatedConfig()
    check_range("load", load, 0.0, low_open=True)
    check_range("virtual_s", virtual_s, 0.0, low_open=True)
    check_range("repeats", repeats, 2)
    workload = load_workload("mixed")
    arms = {STOCK: SimulatedEngine(dataclasses.replace(config, scheduler="stock"))}
    for name in ("fcfs", "ewsjf"):
        arms[name] = SimulatedEngine(dataclasses.replace(config, scheduler="ewsjf"))
        arms[name].install(parse_policies(name)[0])
    capacity = arms[STOCK].measure_capacity(workload.draw_backlog(0, backlog))
    trace = workload.draw(1, virtual_s, load * capacity)
    speeds: dict[str, list[float]] = {name: [] for name in arms}
    for repeat in range(repeats):
        for name in arms if repeat % 2 == 0 else reversed(arms):
            gc.collect()
            started_s = time.process_time()
            list(play(arms[name], None, trace, [virtual_s]))
            speeds[name].append(virtual_s / (time.process_time() - started_s))
    return [SimulationSpeed(n, load, virtual_s, median(np.array(v))) for n, v in speeds.items()]


def _arms(waiting: int, plan: StepPlan) -> list[_Arm]:
    arms = [_Arm(name, waiting, plan) for name in (STOCK, *plan.arms)]
    for arm in arms:
        arm.run(plan.turn_steps)  # the backlog has arrived
    gc.collect()
    gc.freeze()  # the backlog is walked for nobody
    return arms


def _check_same_work(arms: Sequence[_Arm]) -> None:
    counts = {arm.name: arm.counts() for arm in arms}
    if len(set(counts.values())) > 1:
        raise EngineError(f"the arms differ in (running, waiting) requests: {counts}")


def median(values: np.ndarray[Any, np.dtype[np.float64]]) -> Estimate:
    """Median of measurements, shape (n,), and its bootstrapped 95 % interval."""
    limits = bootstrap(
        (values,), np.median, method="percentile", n_resamples=2000, rng=0
    ).confidence_interval
    return Estimate(float(np.median(values)), float(limits.low), float(limits.high))


def _policy(name: str) -> Any:
    """The order with its default parameters and a queue a length."""
    shares = (1.0 / len(LENGTHS),) * len(LENGTHS)
    partition = Partition(tuple(LENGTHS[:-1]), tuple(float(b) for b in LENGTHS), shares)
    return dataclasses.replace(parse_policies(name)[0], partition=partition)


def _longest(plan: StepPlan) -> int:
    return max(LENGTHS) + plan.output_tokens


def _settings(plan: StepPlan) -> VllmSettings:
    longest, block_tokens = _longest(plan), 16
    return VllmSettings(
        model="llama2-13b",
        max_model_len=longest,
        max_num_seqs=plan.running,
        max_num_batched_tokens=2048 + plan.running,
        block_tokens=block_tokens,
        kv_blocks=1 + plan.running * (longest // block_tokens + 2),  # never short of blocks
        kv_heads=40,
        head_size=128,
        async_scheduling=True,
        prefix_caching=False,
        chunked_prefill=True,
    )


def _traffic(waiting: int, plan: StepPlan) -> Trace:
    """As many requests a step as finish, and the backlog in one go at the end of the warm-up."""
    moments = np.arange(plan.warm_steps + plan.turn_steps + plan.steps + 1)
    arrival_s = STEP_S * np.concatenate(
        [np.repeat(moments, plan.arrivals_a_step), np.full(waiting, plan.warm_steps - 1)]
    )
    arrival_s.sort()
    rng = np.random.default_rng(0)
    return Trace(
        name="steady",
        arrival_s=arrival_s,
        prompt_tokens=rng.integers(LENGTHS.start, LENGTHS.stop, len(arrival_s)),
        output_tokens=np.full(len(arrival_s), plan.output_tokens),
        priority=None,
        block_ids=None,
        notes={},
    )
