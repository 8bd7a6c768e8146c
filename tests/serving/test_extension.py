"""An adaptive policy in vLLM's scheduler sees what the environment's agent would see."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from ewsjf_env.engine.simulated.config import SimulatedConfig
from ewsjf_env.engine.simulated.engine import SimulatedEngine
from ewsjf_env.engine.simulated.vllm_config import build_scheduler
from ewsjf_env.measure.features import FEATURES, observe
from ewsjf_env.measure.traffic import traffic_statistics
from ewsjf_env.policy.adaptation import COST_FEATURES
from ewsjf_env.policy.policy import Policy, default_policy
from ewsjf_env.policy.rules import Table
from ewsjf_env.workload import load_workload
from tests.policy.adaptive_policies import (
    BUSY,
    CALM,
    FALLBACK,
    SPACE,
    adaptive,
    network,
    policy,
    table,
)
from tests.serving.test_scheduler import ours
from tests.serving.vllm_traffic import make_request, make_setup, run_step

SEEN = tuple(f.name for f in FEATURES if not f.name.startswith(COST_FEATURES))
COSTED = tuple(f.name for f in FEATURES if f.name.startswith(COST_FEATURES))
PERIOD_S, WINDOW_S = 10.0, 7.0

SMALL_CACHE = {"kv_blocks": 1200}  # preempts
ENGINES: dict[str, dict[str, Any]] = {
    "asynchronous": {},
    "synchronous": {"async_scheduling": False},
    "preempting": SMALL_CACHE,
    "caching": {"prefix_caching": True},
}


def observed(engine: SimulatedEngine, periods: int) -> Iterator[tuple[Any, Any]]:
    """After each period: the environment's observation of its window, and the adaptation."""
    adaptation = engine.scheduler.ewsjf.adaptation
    engine.run_window(PERIOD_S - WINDOW_S)
    for number in range(periods):
        in_force = dict(engine.scheduler.waiting.policy.parameters)
        start_s = engine.now()
        metrics = engine.run_window(WINDOW_S)
        end_s = engine.now()
        traffic = traffic_statistics(engine.requests(start_s, end_s), start_s, end_s)
        engine.run_window(PERIOD_S - WINDOW_S)  # it acts at the first step in here
        assert adaptation.acts == number + 1
        yield observe(metrics, traffic, SPACE, in_force), adaptation


def start(rule_policy: Policy, rate_per_s: float = 6.0, **config: Any) -> SimulatedEngine:
    engine = SimulatedEngine(SimulatedConfig(**config))
    engine.install(rule_policy)
    engine.reset(load_workload("paper_mix").draw(7, 100.0, rate_per_s))
    return engine


@pytest.mark.parametrize("config", ENGINES.values(), ids=ENGINES)
def test_the_scheduler_sees_what_the_environment_observes(config: dict[str, Any]) -> None:
    inputs = (*SEEN, *COSTED, *(f"parameter_{name}" for name in SPACE.names))
    rule = network((len(inputs), 8, len(SPACE)))
    part = adaptive(rule, inputs, period_s=PERIOD_S, window_s=WINDOW_S)
    engine = start(policy(part), **config)
    seen_values = set()
    for observation, adaptation in observed(engine, 5):
        expected = dict(zip(inputs, part.chosen(observation).tolist(), strict=True))
        assert tuple(adaptation.inputs) == inputs
        for name in inputs:
            # The scheduler estimates C(b) from its own steps, the environment asks the engine.
            tolerance = 0.15 if name in COSTED else 1e-6
            assert adaptation.inputs[name] == pytest.approx(expected[name], abs=tolerance), name
        in_force = engine.scheduler.waiting.policy.parameters
        asked = part.act(np.array(list(adaptation.inputs.values())))
        assert {name: in_force[name] for name in SPACE.names} == asked
        seen_values.add(in_force["k"])
    assert len(seen_values) > 1
    preempted = sum(record.preemptions for record in engine.records())
    assert preempted > 0 or config is not SMALL_CACHE


def test_a_table_over_traffic_proposes_exactly_what_the_agent_would() -> None:
    inputs = ("arrival_rate_per_s", "burst_index", "prompt_tokens_mean", "queue_depth")
    rule = Table(((0.1, -0.2, -0.2, -1.0), (0.1, -0.2, -0.1, -0.6)), (CALM, BUSY))
    part = adaptive(rule, inputs, period_s=PERIOD_S, window_s=WINDOW_S)
    engine = start(policy(part))
    chosen = []
    for observation, _ in observed(engine, 6):
        values = part.act(part.chosen(observation))
        in_force = engine.scheduler.waiting.policy.parameters
        assert {name: in_force[name] for name in SPACE.names} == values
        chosen.append(values["k"])
    assert set(chosen) == {CALM["k"], BUSY["k"]}


def test_runs_repeat_and_a_reset_starts_from_the_policys_own_values() -> None:
    part = adaptive(table(1, 0.9, 1.0), ("queue_depth",), period_s=5.0, window_s=5.0)
    engine = start(policy(part))
    first = engine.run_window(22.0).to_dict()
    state = engine.scheduler.ewsjf.state()
    assert state["adaptation"]["acts"] == 4
    assert state["parameters"]["k"] == CALM["k"]
    engine.reset(load_workload("paper_mix").draw(7, 100.0, 6.0))
    assert engine.scheduler.waiting.policy == policy(part)
    assert engine.run_window(22.0).to_dict() == first


def test_a_policy_that_changes_nothing_serves_as_the_static_one() -> None:
    part = adaptive(Table(((0.0,),), (FALLBACK,)), period_s=5.0, window_s=5.0)
    results = []
    for each in (policy(part), default_policy()):
        engine = start(each)
        results.append(engine.run_window(22.0).to_dict())
        assert engine.scheduler.ewsjf.state()["policy_version"] == 1  # installed once
    assert results[0] == results[1]


def test_on_a_servers_clock_aborts_and_restarts_leave_nothing_behind() -> None:
    """No virtual clock: arrivals are stamped when they come, and requests may be aborted."""
    from vllm.v1.request import RequestStatus

    setup = make_setup(kv_blocks=34, asynchronous=True)
    scheduler = build_scheduler(setup, ours(True))
    history = scheduler.ewsjf.history
    in_flight: list[Any] = []
    for index in range(60):
        scheduler.add_request(make_request(setup, f"r{index}", 1 + 31 * index % 110, 5, 0.0))
        run_step(scheduler, in_flight, 2)
        if index % 7 == 3:
            scheduler.finish_requests(f"r{index}", RequestStatus.FINISHED_ABORTED)
        if index % 7 == 5:
            scheduler.finish_requests(f"r{index - 2}", RequestStatus.FINISHED_ABORTED)
    while scheduler.has_unfinished_requests() or in_flight:
        run_step(scheduler, in_flight, 2)
        if not scheduler.has_unfinished_requests():
            break
    run_step(scheduler, in_flight, 2)
    records = {record.request_id: record for record in history.records()}
    assert len(records) == 60
    for record in records.values():
        assert record.finish_s is not None
        served = record.outcome == "served"
        assert served == (record.generated_tokens == 5)
        assert (record.first_token_s is not None) == (record.generated_tokens > 0)
        first_s = record.finish_s if record.first_token_s is None else record.first_token_s
        assert record.arrival_s <= first_s <= record.finish_s
        assert record.generated_tokens <= 5
    assert sum(record.generated_tokens == 5 for record in records.values()) >= 60 - 2 * 9
    assert history.totals(1e9).output_tokens == sum(r.generated_tokens for r in records.values())
