"""When an adaptive policy acts, on which window, and what happens when it cannot."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from ewsjf_env.measure.features import FEATURES
from ewsjf_env.policy.adaptation import Adaptation
from ewsjf_env.policy.policy import Policy, default_policy
from ewsjf_env.scheduling.history import RequestHistory
from tests.policy.adaptive_policies import BUSY, CALM, FALLBACK, SPACE, adaptive, policy, table
from tests.scheduling.history_requests import Request, end

RATE = next(f for f in FEATURES if f.name == "arrival_rate_per_s")


class Stage:
    """A history, its adaptation and the policy in force, on a clock of the test."""

    def __init__(self, first: Policy, capacity: int = 100, start_s: float = 0.0) -> None:
        self.history = RequestHistory(capacity)
        self.adaptation = Adaptation(self.history, lambda b: 1e-3 * b, lambda: 3)
        self.policy = first
        self.arrived: list[Request] = []
        self.adaptation.follow(first, start_s)

    def arrive(self, *moments_s: float) -> None:
        for moment_s in moments_s:
            self.adaptation.roll(moment_s)
            self.arrived.append(Request(str(len(self.arrived)), 100, 10))
            self.history.arrived(self.arrived[-1], moment_s)

    def step(self, now_s: float) -> dict[str, Any] | None:
        """A scheduler step: the values put in force, or None."""
        self.adaptation.roll(now_s)
        values = self.adaptation.act(self.policy)
        if values is not None:
            self.policy = self.policy.with_parameters(values)
            self.adaptation.follow(self.policy, now_s)
        return None if values is None else {name: values[name] for name in SPACE.names}

    @property
    def rate_per_s(self) -> float:
        """What the policy was last told."""
        span = math.log(RATE.high / RATE.low)
        u = (self.adaptation.inputs["arrival_rate_per_s"] + 1.0) / 2.0
        return RATE.low * math.exp(u * span)


def test_it_acts_once_a_period_at_the_first_step_after_it() -> None:
    stage = Stage(policy(adaptive(period_s=10.0, window_s=10.0)))
    stage.arrive(1.0, 2.0)
    assert stage.step(9.9) is None
    assert stage.step(10.3) == CALM  # 0.2 requests/s
    assert stage.rate_per_s == pytest.approx(0.2)
    assert stage.step(10.4) is None
    stage.arrive(*np.linspace(11.0, 19.9, 900))
    assert stage.step(21.0) == BUSY
    assert stage.adaptation.acts == 2
    assert stage.rate_per_s == pytest.approx(90.0)


def test_it_is_on_a_fixed_grid_however_late_the_steps_are() -> None:
    stage = Stage(policy(adaptive(period_s=10.0, window_s=10.0)), start_s=100.0)
    stage.step(113.0)
    stage.arrive(114.0, 119.999, 120.0)  # windows are half-open: the last is of the next one
    stage.step(121.0)
    assert stage.rate_per_s == pytest.approx(0.2)
    stage.step(130.0)
    assert stage.rate_per_s == pytest.approx(0.1)


def test_the_window_is_the_end_of_a_period() -> None:
    stage = Stage(policy(adaptive(period_s=10.0, window_s=4.0)))
    stage.arrive(5.9, 6.0, 9.0)
    stage.step(10.0)
    assert stage.rate_per_s == pytest.approx(0.5)


def test_values_that_are_in_force_already_are_left_alone() -> None:
    stage = Stage(policy().with_parameters(CALM))
    stage.arrive(1.0)
    assert stage.step(10.0) is None
    assert stage.adaptation.acts == 1


def test_an_idle_engine_wakes_up_to_the_present_not_to_the_past() -> None:
    stage = Stage(policy(adaptive(period_s=10.0, window_s=10.0)))
    stage.arrive(1.0, 2.0, 3.0)
    stage.step(10.0)
    day_s = 86_400.0
    stage.arrive(day_s + 1.0)
    stage.step(day_s + 5.0)
    assert stage.adaptation.acts == 2  # not once for each of the windows that nobody saw
    assert stage.adaptation.inputs["arrival_rate_per_s"] == -1.0
    stage.step(day_s + 10.0)
    assert stage.rate_per_s == pytest.approx(0.1)


def test_counters_are_of_the_window() -> None:
    inputs = ("output_tokens_per_s", "kv_usage_mean", "queues")
    stage = Stage(policy(adaptive(table(3), inputs, period_s=10.0, window_s=5.0)))
    request = Request("x", 100, 1000)
    stage.history.arrived(request, 0.5)
    for now_s, tokens, usage in ((1.0, 100, 0.2), (4.0, 200, 0.8), (7.0, 500, 0.3), (10.0, 900, 1)):
        stage.adaptation.roll(now_s)
        request.num_output_tokens = tokens
        stage.history.updated([], now_s, usage)
    stage.step(10.0)
    scales = {f.name: f for f in FEATURES}
    seen = stage.adaptation.inputs
    # Between 5 s and 10 s: 200 -> 500 tokens (those of 10 s count later); 0.8 for 2 s, 0.3 for 3.
    assert seen["output_tokens_per_s"] == pytest.approx(scales["output_tokens_per_s"](300 / 5))
    assert seen["kv_usage_mean"] == pytest.approx(scales["kv_usage_mean"]((1.6 + 0.9) / 5))
    assert seen["queues"] == pytest.approx(scales["queues"](3))


def test_a_ring_that_is_too_small_shortens_the_window() -> None:
    stage = Stage(policy(adaptive(period_s=10.0, window_s=10.0)), capacity=20)
    for number in range(100):  # ten a second; each leaves at once
        now_s = 0.05 + number / 10
        stage.arrive(now_s)
        end(stage.history, stage.arrived[-1], now_s)
    stage.step(10.0)
    assert stage.rate_per_s == pytest.approx(10.0, rel=0.1)
    assert stage.adaptation.fallbacks == 0


def test_where_nothing_is_known_it_falls_back() -> None:
    stage = Stage(policy().with_parameters(BUSY), capacity=1)
    stage.history.complete_since_s = 50.0
    assert stage.step(10.0) == FALLBACK
    assert (stage.adaptation.acts, stage.adaptation.fallbacks) == (1, 1)
    assert stage.adaptation.inputs == {}


def test_a_policy_that_raises_is_replaced_by_its_fallback() -> None:
    stage = Stage(policy().with_parameters(BUSY))

    def broken(tokens: int) -> float:
        raise ZeroDivisionError

    stage.adaptation._prefill_cost_s = broken
    stage.arrive(1.0)
    assert stage.step(10.0) == FALLBACK
    assert (stage.adaptation.failures, stage.adaptation.fallbacks) == (1, 1)
    assert stage.step(20.0) is None  # in force already


def test_a_static_policy_is_never_asked() -> None:
    stage = Stage(default_policy())
    stage.arrive(1.0, 2.0)
    assert stage.step(1e6) is None
    assert stage.adaptation.next_s == math.inf
    assert stage.adaptation.state() == {}


def test_another_policy_begins_a_new_period() -> None:
    stage = Stage(policy(adaptive(period_s=10.0, window_s=10.0)))
    stage.arrive(1.0, 2.0)
    stage.policy = policy(adaptive(period_s=20.0, window_s=20.0))
    stage.adaptation.follow(stage.policy, 5.0)
    stage.step(24.9)
    assert stage.adaptation.acts == 0
    stage.step(25.0)
    assert stage.adaptation.acts == 1
    stage.policy = default_policy()
    stage.adaptation.follow(stage.policy, 26.0)
    assert stage.step(1e4) is None


def test_other_parameters_do_not_begin_a_new_period() -> None:
    stage = Stage(policy(adaptive(period_s=10.0, window_s=10.0)))
    stage.arrive(1.0)
    stage.policy = stage.policy.with_parameters({"lambda": 1.5})
    stage.adaptation.follow(stage.policy, 5.0)
    assert stage.step(10.0) == CALM
    assert stage.policy.parameters["lambda"] == 1.5
