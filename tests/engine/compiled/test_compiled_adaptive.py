"""Adaptive policies act at the same moments in both engines, on the same features."""

import dataclasses

import numpy as np
import pytest

from ewsjf_env.engine.compiled.engine import CompiledEngine
from ewsjf_env.engine.simulated.config import SimulatedConfig
from ewsjf_env.engine.simulated.engine import SimulatedEngine
from ewsjf_env.measure.features import feature_names
from ewsjf_env.parameters import Value
from ewsjf_env.policy.policy import Policy
from tests.engine.compiled.both_engines import assert_equal, small_traffic
from tests.policy.adaptive_policies import SPACE, adaptive, network, table, whole_network
from tests.policy.adaptive_policies import policy as follower

SMALL = SimulatedConfig(max_model_len=8192, kv_blocks=900, max_num_seqs=32, noise_sigma=0.1)


def followers() -> dict[str, Policy]:
    """Adaptive policies: a table and a network, with and without a gap between windows."""
    names = ("arrival_rate_per_s", "tokens_per_s", "kv_usage_mean", "preemptions", "slowdown_mean")
    inputs = [name for name in feature_names(SPACE) if name in names or "ttft" in name]
    assert len(inputs) > 3
    return {
        "table": follower(adaptive(table(1, -0.9, -0.6), period_s=4.0, window_s=4.0)),
        "gap": follower(adaptive(table(1, -0.9, -0.6), period_s=5.0, window_s=1.5)),
        "network": follower(
            adaptive(network((len(inputs), 6, 3)), inputs, period_s=3.0, window_s=2.0)
        ),
        "whole": follower(whole_network(period_s=2.5, window_s=2.5)),
        "long": follower(adaptive(table(1, -0.9, -0.6), period_s=1e4, window_s=1.0)),
    }


@pytest.mark.parametrize("name", ["table", "gap", "network", "whole", "long"])
@pytest.mark.parametrize("changes", [{}, {"repartition_s": 5.0}, {"routing": "bubble"}], ids=str)
def test_adaptive_policies(name: str, changes: dict[str, Value]) -> None:
    policy = followers()[name]
    policy = policy.with_parameters({**policy.parameters, **changes})
    assert policy.adaptive is not None
    trace = small_traffic(13, 400, 45.0, bursts=True)
    assert_equal(SMALL, [policy, None, "fcfs", policy], trace, 11.0)
    assert_equal(SMALL, ["hrrn", policy, None, None], trace, 11.0)
    compiled, simulated = CompiledEngine(SMALL), SimulatedEngine(SMALL)
    for engine in (compiled, simulated):
        engine.install(policy)
        engine.reset(trace)
        engine.run_window(45.0)
    found, expected = compiled.core.adaptation, simulated.scheduler.ewsjf.adaptation
    assert found.state() == expected.state()
    periods = 45.0 / found.state()["period_s"]
    assert found.acts == pytest.approx(periods, abs=1.1)
    assert (found.acts == 0) == (name == "long")
    assert found.failures == 0
    assert compiled.apply({}) == simulated.scheduler.waiting.policy.parameters
    assert (compiled.apply({}) != dict(policy.parameters)) == (name != "long")


def test_adaptive_policy_with_an_idle_time() -> None:
    trace = small_traffic(14, 100, 20.0)
    pause = dataclasses.replace(
        trace, arrival_s=np.where(trace.arrival_s > 10.0, trace.arrival_s + 60.0, trace.arrival_s)
    )
    for policy in followers().values():
        assert_equal(SMALL, [policy, None], pause, 50.0)


def test_the_history_of_an_adaptive_policy_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A ring of forty requests is too small for the window: both engines shorten it alike."""
    monkeypatch.setattr("ewsjf_env.engine.compiled.history.CAPACITY", 40)
    monkeypatch.setattr("ewsjf_env.serving.extension.CAPACITY", 40)
    trace = small_traffic(15, 600, 40.0, priorities=False)
    config = dataclasses.replace(SMALL, kv_blocks=4000)
    for name in ("whole", "table"):
        assert_equal(config, [followers()[name], None], trace, 20.0)
