"""The theory of waits: against exact results, and against the simulated engine."""

from __future__ import annotations

import dataclasses
import math
from statistics import fmean

import numpy as np
import pytest

from agents.theory.backlog import waiting_work
from agents.theory.batch import BatchMachine, effective_work, step_delays
from agents.theory.predictor import (
    AnalyticPrior,
    Span,
    burst_index,
    kleinrock_waits,
    level_waits,
)
from ewsjf_env.engine.simulated.config import SimulatedConfig
from ewsjf_env.engine.simulated.engine import SimulatedEngine
from ewsjf_env.engine.simulated.latency import Coefficients
from ewsjf_env.measure.records import WindowMetrics
from ewsjf_env.policy.policy import Policy, default_policy, parse_policy
from ewsjf_env.workload import load_workload

SERVICE_S = np.array([0.5, 1.0, 4.0])
SHARES = np.array([0.6, 0.3, 0.1])
LEVELS = np.array([0.25, 0.5, 0.75])


def single_server(load: float) -> tuple[np.ndarray, float]:
    """Loads of three classes, and the mean work in service that an arrival meets."""
    rate = load / float(SHARES @ SERVICE_S)
    return rate * SHARES * SERVICE_S, rate * float(SHARES @ SERVICE_S**2) / 2


@pytest.mark.parametrize(("load", "error"), [(0.9, 0.35), (0.99, 0.06), (0.999, 0.006)])
def test_level_scores_are_kleinrocks_in_heavy_traffic(load: float, error: float) -> None:
    loads, residual_s = single_server(load)
    weights = 1 / SERVICE_S
    exact = kleinrock_waits(loads.tolist(), weights.tolist(), residual_s)
    work_s = load * residual_s / (1 - load)  # whose mean no order changes
    sigma = np.linspace(0.0, 20_000.0, 200_001)
    level = level_waits(sigma / weights[:, None], loads, np.array([work_s]), math.inf)[:, 0]
    assert loads @ level == pytest.approx(work_s, rel=1e-6)
    assert loads @ np.array(exact) == pytest.approx(work_s, rel=1e-9)
    assert level == pytest.approx(np.array(exact), rel=error)


def test_level_scores_depend_on_their_order_only() -> None:
    loads, _ = single_server(0.95)
    work_s = np.array([0.0, 1.0, 10.0, 50.0])
    linear = np.linspace(0.0, 100.0, 1001)
    once = level_waits(linear * SERVICE_S[:, None], loads, work_s, 400.0)
    squared = level_waits(np.sqrt(linear**2) * SERVICE_S[:, None], loads, work_s, 400.0)
    assert once == pytest.approx(squared)


def test_nobody_has_waited_longer_than_the_traffic_lasts() -> None:
    loads, _ = single_server(1.2)
    wide = np.linspace(0.0, 500.0, 5001)
    urgent_first = np.array([0.0 * wide, 0.0 * wide, wide])  # only the last class ever waits
    waits = level_waits(urgent_first, loads, np.array([0.5, 100.0]), 20.0)
    assert waits[:2] == pytest.approx(0.0)
    assert waits[2, 0] == pytest.approx(0.5 / loads[2], rel=1e-6)
    assert waits[2, 1] == 20.0


def test_waiting_work_has_the_mean_of_heavy_traffic_and_grows_with_overload() -> None:
    moments = np.linspace(0.0, 2000.0, 41)
    levels = (np.arange(200) + 0.5) / 200
    loads, residual_s = single_server(0.8)
    rate = loads.sum() / float(SHARES @ SERVICE_S)
    variance = rate * float(SHARES @ SERVICE_S**2)
    steady = waiting_work(0.8, 0.01, variance, moments, levels)[:, -1].mean()
    assert steady == pytest.approx(residual_s / (1 - 0.8), rel=0.15)
    over = waiting_work(1.5, 5.0, variance, moments, LEVELS)
    assert over[1, -1] == pytest.approx(0.5 * 2000.0, rel=0.05)
    assert (np.diff(over, axis=0) >= 0).all()
    assert (waiting_work(0.3, 50.0, 0.1, moments, LEVELS) == 0).all()


def test_capacity_in_closed_form_is_near_the_measured_one() -> None:
    for most_running in (12, 256):
        config = SimulatedConfig(max_num_seqs=most_running)
        backlog = load_workload("paper_mix").draw_backlog(3, 5 * min(70, most_running))
        measured = SimulatedEngine(config).measure_capacity(backlog)
        work = effective_work(
            BatchMachine.of(config),
            backlog.prompt_tokens.astype(float),
            backlog.output_tokens.astype(float),
        )
        assert work.capacity_per_s == pytest.approx(measured, rel=0.2)
        assert float(work.seconds.mean()) == pytest.approx(1 / work.capacity_per_s)
        assert work.batch_s > 0


def test_work_of_the_limit_that_binds() -> None:
    flat = Coefficients(0.01, 0.01, 0.0, 0.0, 0.0)
    machine = BatchMachine(flat, 10**9, 16, 4, 1000)
    prompt, output = np.full(10, 100.0), np.full(10, 9.0)
    few_seats = effective_work(machine, prompt, output).capacity_per_s
    twice = effective_work(
        dataclasses.replace(machine, max_running=8), prompt, output
    ).capacity_per_s
    assert twice == pytest.approx(2 * few_seats)
    small_cache = dataclasses.replace(machine, max_running=10**6, kv_tokens=112)
    bound_by_cache = effective_work(small_cache, prompt, output).capacity_per_s
    assert bound_by_cache == pytest.approx(few_seats / 4 * 112 / 112.5)


def test_delays_of_steps_ascend_and_grow_with_the_share_of_prompts() -> None:
    machine = BatchMachine.of(SimulatedConfig())
    prompt = np.full(100, 4000.0)
    idle = step_delays(machine, prompt, 0.01, LEVELS)
    busy = step_delays(machine, prompt, 1.5, LEVELS)
    assert (np.diff(idle) >= 0).all()
    assert idle[0] < 3 * machine.bare_step_s
    assert busy[-1] > 5 * idle[-1]


def test_bursts() -> None:
    rng = np.random.default_rng(0)
    poisson = np.cumsum(rng.exponential(0.1, 50_000))
    bursts = np.cumsum(rng.gamma(1 / 9, 0.9, 50_000))
    assert burst_index(poisson) == pytest.approx(1.0, abs=0.2)
    assert burst_index(bursts) == pytest.approx(9.0, abs=2.5)
    assert burst_index(poisson[:3]) == 1.0


@pytest.fixture(scope="module")
def overload() -> AnalyticPrior:
    sample = load_workload("paper_mix").draw_backlog(0, 2048)
    return AnalyticPrior(SimulatedConfig(), sample, 7.0, Span(20.0, 60.0), 1.0)


def predicted(prior: AnalyticPrior, policy: Policy, name: str) -> float:
    windows = prior.predict(policy)
    assert windows is not None
    return fmean(getattr(window, name) for window in windows)


def test_predicts_what_an_engine_measures_in_overload(overload: AnalyticPrior) -> None:
    engine = SimulatedEngine(SimulatedConfig())
    trace = load_workload("paper_mix").draw(5, 80.0, 7.0)
    for text in ("fcfs", "ewsjf"):
        engine.reset(trace)
        engine.install(parse_policy(text))
        engine.run_window(20.0)
        window = engine.run_window(60.0)
        for name in ("ttft_mean_s", "ttft_long_p95_s"):
            # One trace of a minute is a path of its own: its backlog may be half of the mean.
            found = predicted(overload, parse_policy(text), name) / getattr(window, name)
            assert 0.4 < found < 2.5, f"{text}: {name}"
        output = predicted(overload, parse_policy(text), "output_tokens_per_s")
        assert output == pytest.approx(window.output_tokens_per_s, rel=0.15)


def test_the_order_moves_the_wait_from_short_to_long(overload: AnalyticPrior) -> None:
    fair = default_policy().with_parameters({"k": 0.05, "lambda": 1.0})
    short_first = default_policy().with_parameters({"k": 300.0, "lambda": 0.1})
    assert overload.load > 1.2
    for name, less in (("ttft_short_p95_s", True), ("ttft_long_p95_s", False)):
        pair = predicted(overload, short_first, name), predicted(overload, fair, name)
        assert (pair[0] < 0.5 * pair[1]) if less else (pair[0] > pair[1])
    assert predicted(overload, short_first, "requests_per_s") > predicted(
        overload, fair, "requests_per_s"
    )


def test_every_score_is_asked_as_it_is(overload: AnalyticPrior) -> None:
    """A power of HRRN's ratio orders as the ratio; an order without scores is not guessed at."""
    ratio = overload.predict(parse_policy("ewsjf_hrrn"))
    power = overload.predict(parse_policy("ewsjf(lambda=0;mu=0;k=1)"))
    assert ratio is not None
    assert power is not None
    for one, other in zip(ratio, power, strict=True):
        assert one.ttft_short_mean_s == pytest.approx(other.ttft_short_mean_s, rel=0.25)
        assert one.ttft_long_mean_s == pytest.approx(other.ttft_long_mean_s, rel=0.05)
    assert overload.predict(parse_policy("linear_aging")) is None
    for text in ("hrrn", "ewsjf_normalised", "ewsjf_paper", "ewsjf_authors"):
        windows = overload.predict(parse_policy(text))
        assert windows
        assert all(isinstance(w, WindowMetrics) and w.ttft_mean_s > 0 for w in windows)
