"""The player: the same on every engine in virtual time, window by window."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ewsjf_env.engine.base import Engine, VirtualEngine
from ewsjf_env.engine.fake import FakeEngine
from ewsjf_env.engine.play import begin, play, run_until
from ewsjf_env.engine.simulated.config import SimulatedConfig
from ewsjf_env.engine.simulated.engine import SimulatedEngine
from ewsjf_env.policy.policy import parse_policy
from ewsjf_env.workload import load_workload

TRACE = load_workload("mixed").draw(3, 12.0, 5.0)
HRRN, AGING = parse_policy("hrrn"), parse_policy("linear_aging")


@pytest.fixture(params=["fake", "simulated"])
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    built: Engine = FakeEngine() if request.param == "fake" else SimulatedEngine()
    yield built
    built.close()


def test_windows_are_those_of_the_engine(engine: Engine) -> None:
    engine.install(HRRN)
    engine.reset(TRACE)
    engine.run_window(2.0)
    expected = [engine.run_window(seconds).to_dict() for seconds in (4.0, 6.0)]
    found = [window.to_dict() for window in play(engine, HRRN, TRACE, [4.0, 6.0], warm_up_s=2.0)]
    assert found == expected
    assert engine.now() == pytest.approx(12.0)


def test_a_policy_starts_from_an_empty_engine_whatever_was_served_before(engine: Engine) -> None:
    first = [w.to_dict() for w in play(engine, AGING, TRACE, [6.0])]
    list(play(engine, HRRN, TRACE, [3.0]))
    assert [w.to_dict() for w in play(engine, AGING, TRACE, [6.0])] == first
    # None: the policy that is installed.
    assert [w.to_dict() for w in play(engine, None, TRACE, [6.0])] == first


def test_a_window_is_served_when_it_is_asked_for(engine: Engine) -> None:
    windows = play(engine, HRRN, TRACE, [1.0, 1.0])
    next(windows)
    assert engine.now() == pytest.approx(1.0)
    run_until(engine, 5.0)  # in between, the engine is the caller's
    run_until(engine, 4.0)  # has passed
    assert engine.now() == pytest.approx(5.0)
    next(windows)
    assert engine.now() == pytest.approx(6.0)
    assert list(windows) == []


def test_the_engine_stays_where_it_was_for_a_drain() -> None:
    engine: VirtualEngine = SimulatedEngine(SimulatedConfig(max_num_seqs=2))
    (window,) = play(engine, HRRN, TRACE, [6.0])
    assert window.outstanding > 0
    drained = engine.drain()
    assert drained.outstanding == 0
    assert drained.arrivals == window.arrivals


def test_an_engine_with_an_order_of_its_own_needs_no_policy() -> None:
    stock = SimulatedEngine(SimulatedConfig(scheduler="stock"))
    ours = SimulatedEngine()
    begin(ours, parse_policy("fcfs"), TRACE)
    (window,) = play(stock, None, TRACE, [6.0])
    assert window.ttft_mean_s == ours.run_window(6.0).ttft_mean_s
