"""Policies on the simulated engine: what is in force, and from when on."""

from __future__ import annotations

import dataclasses

import pytest

from ewsjf_env.config import ConfigError
from ewsjf_env.engine.base import EngineError
from ewsjf_env.engine.simulated.engine import SimulatedEngine
from ewsjf_env.policy.policy import Policy, parse_policy
from tests.engine.short_traces import STOCK, random_trace


def test_policies_are_served_and_changed_between_windows() -> None:
    trace = random_trace(9, rate_per_s=8.0, duration_s=30.0)
    engine = SimulatedEngine(dataclasses.replace(STOCK, scheduler="ewsjf"))
    with pytest.raises(EngineError, match="no policy"):
        engine.apply({})
    fcfs = Policy(name="fcfs", order="fcfs")
    engine.install(fcfs)
    engine.reset(trace)
    first = engine.run_window(30.0)
    stock = SimulatedEngine(STOCK)
    stock.reset(trace)
    stock.run_window(30.0)
    assert engine.records() == stock.records()
    engine.install(Policy(name="sjf", order="sjf"))
    engine.reset(trace)
    assert engine.run_window(30.0).ttft_mean_s < first.ttft_mean_s
    with pytest.raises(ConfigError, match="stock"):
        stock.install(fcfs)


def test_apply_returns_what_is_in_force() -> None:
    engine = SimulatedEngine(dataclasses.replace(STOCK, scheduler="ewsjf"))
    engine.install(Policy(name="linear", order="linear_aging"))
    engine.reset(random_trace(9, rate_per_s=2.0, duration_s=5.0))
    name = engine.apply({}).keys()
    assert "r" in name
    assert engine.apply({"r": 50})["r"] == 50
    with pytest.raises(ConfigError, match="nearest valid name"):
        engine.apply({"rr": 1})


def test_values_in_force_already_keep_what_an_order_has_learnt() -> None:
    """A tuner that never moves must not make `boost_ada` forget its gamma every window."""
    trace = random_trace(9, rate_per_s=20.0, duration_s=20.0)
    served = []
    for windows in (1, 2):
        engine = SimulatedEngine(dataclasses.replace(STOCK, scheduler="ewsjf"))
        engine.install(parse_policy("boost_ada(gamma=10)"))
        engine.reset(trace)
        for _ in range(windows):
            engine.apply({"gamma": 10.0})
            engine.run_window(20.0 / windows)
        served.append(engine.records())
    assert served[0] == served[1]


def test_other_queues_are_in_force_at_once_and_go_back() -> None:
    """What `apply` changes about the partition is felt in the next window, not ten minutes on."""
    engine = SimulatedEngine(dataclasses.replace(STOCK, scheduler="ewsjf"))
    engine.install(parse_policy("ewsjf"))
    engine.reset(random_trace(4, rate_per_s=10.0, duration_s=60.0))
    engine.run_window(30.0)
    queues = {}
    for q_max in (4, 16, 4):
        engine.apply({"q_max": q_max})
        engine.run_window(3.0)
        queues[q_max] = len(engine.cuts()) + 1
    assert queues[4] == 4
    assert queues[16] > 4
    kept = engine.cuts()
    engine.apply({"k": 3.0})
    engine.run_window(3.0)
    assert engine.cuts() == kept  # what was learnt outlives other values
    engine.close()
