from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ewsjf_env.measure.service import ServiceLevel
from ewsjf_env.policy.policy import Policy, parse_policy
from ewsjf_env.scheduling.cost import StepLaw
from ewsjf_env.scheduling.orders.registry import ORDERS
from ewsjf_env.scheduling.step_shape import (
    LEAST_PREFILL_TOKENS,
    WHOLE,
    StepLoad,
    StepSettings,
    StepShape,
    WaitingTokens,
    shape_step,
)

LOAD = StepLoad(
    budget_tokens=612,
    decode_tokens=100,
    longest_left_tokens=3000,
    left_tokens=3000,
    free_tokens=50_000,
    cache_tokens=56_000,
)
YIELDING = StepSettings(0.25, 0.9)


def shape(load: StepLoad = LOAD, waiting: int = 200, head: int = 80) -> StepShape:
    return shape_step(YIELDING, load, lambda limit: waiting, lambda: head)


def test_the_budget_is_what_decodes_and_a_share_of_the_engines() -> None:
    assert StepSettings(0.25).budget_tokens(2048, 100) == 612
    assert StepSettings(1.0).budget_tokens(2048, 100) == 2048
    assert StepSettings(0.05).budget_tokens(10, 0) == 1


def test_a_long_prompt_leaves_what_waits_in_shorter_ones() -> None:
    assert shape() == StepShape(chunk_tokens=312, shorter_than=2048)


def test_it_leaves_no_more_than_the_share() -> None:
    assert shape(waiting=10_000) == StepShape(chunk_tokens=512 - 460, shorter_than=2048)


@pytest.mark.parametrize(
    ("load", "waiting", "head"),
    [
        (LOAD, 0, 0),  # nobody is shorter
        (LOAD, 200, 2048),  # the order puts a long one first
        (StepLoad(612, 100, 0, 0, 50_000, 56_000), 200, 80),  # no prompt is under way
        (StepLoad(612, 100, 3000, 3000, 19_000, 56_000), 200, 80),  # little cache is free
    ],
)
def test_it_leaves_nothing(load: StepLoad, waiting: int, head: int) -> None:
    assert shape(load, waiting, head) == WHOLE


def test_the_order_is_not_asked_where_it_does_not_matter() -> None:
    def asked() -> int:
        raise AssertionError("chosen for nothing")

    assert shape_step(StepSettings(0.25, 0.0), LOAD, lambda limit: 200, asked) == WHOLE
    assert shape_step(YIELDING, LOAD, lambda limit: 0, asked) == WHOLE


@given(
    st.lists(st.integers(1, 1 << 20), min_size=1, max_size=50),
    st.integers(0, 20),
    st.data(),
)
def test_waiting_tokens_are_counted_by_size(
    prompts: list[int], power: int, data: st.DataObject
) -> None:
    tokens = WaitingTokens()
    for prompt in prompts:
        tokens.add(prompt)
    gone = data.draw(st.integers(0, len(prompts)))
    for prompt in prompts[:gone]:
        tokens.remove(prompt)
    assert tokens.below(1 << power) == sum(p for p in prompts[gone:] if p < 1 << power)


@pytest.mark.parametrize("order", sorted(ORDERS))
def test_every_order_can_be_shaped_and_is_saved_as_before_where_it_is_not(order: str) -> None:
    plain = Policy.from_dict({"order": order})
    assert StepSettings.of(plain.parameters).off
    assert "prefill_share" not in plain.to_dict()["parameters"]
    shaped = plain.with_parameters({"prefill_share": 0.25, "yield_share": 0.5})
    again = Policy.from_json(shaped.to_json(), "it")
    assert StepSettings.of(again.parameters) == StepSettings(0.25, 0.5)


def test_shaping_is_no_parameter_of_a_tuner_that_was_not_asked() -> None:
    space = parse_policy("ewsjf").space
    assert "prefill_share" not in space.tunable()
    assert "prefill_share" in space.tunable(asked=["prefill_share"])


LAW = StepLaw(step_s=0.01, token_s=2e-5, pair_s=1e-9, decode_s=1e-4, context_s=1e-8)


@given(
    most_s=st.floats(0.011, 1.0),
    decode=st.integers(0, 50),
    context=st.integers(0, 10_000),
    begun=st.integers(0, 20_000),
)
def test_a_step_with_the_tokens_of_a_time_takes_that_time(
    most_s: float, decode: int, context: int, begun: int
) -> None:
    tokens = LAW.prefill_tokens(most_s, decode, context, begun)
    spent_s = LAW.step_s + LAW.decode_s * decode + LAW.context_s * context
    spent_s += LAW.token_s * tokens + LAW.pair_s * tokens * (begun + tokens / 2.0)
    assert spent_s == pytest.approx(max(most_s, LAW.step_s + 1e-4 * decode + 1e-8 * context))


def test_a_time_cuts_a_step_at_any_budget_alike() -> None:
    timed = StepSettings(step_s=0.03)
    assert not timed.off
    for budget in (1500, 2048, 8192):
        assert timed.budget_tokens(budget, 40, LAW, 4000) == 40 + 768  # 780.6, in grains of 16
    assert timed.budget_tokens(512, 40, LAW, 4000) == 512
    assert timed.budget_tokens(8192, 40, LAW, 4000, begun_tokens=16_000) == 40 + 432


def test_a_step_that_is_too_long_already_lets_prompts_go_on() -> None:
    assert StepSettings(step_s=0.005).budget_tokens(2048, 100, LAW) == 100 + LEAST_PREFILL_TOKENS


def test_the_engines_budget_holds_while_step_times_are_unknown() -> None:
    assert StepSettings(step_s=0.03).budget_tokens(2048, 100, None) == 2048
    assert StepSettings(0.25, step_s=0.03).budget_tokens(2048, 100, None) == 612
    free = StepLaw(0.0, 0.0, 0.0, 0.0, 0.0)
    assert StepSettings(step_s=0.03).budget_tokens(2048, 100, free) == 2048


def test_a_time_may_be_a_share_of_what_a_token_may_take() -> None:
    values = parse_policy("ewsjf(step_tpot=0.5)").parameters
    assert StepSettings.of(values).off
    assert StepSettings.of(values, ServiceLevel(tpot_s=0.05)).step_s == 0.025
    values = parse_policy("ewsjf(step_tpot=0.5,step_s=0.02)").parameters
    assert StepSettings.of(values, ServiceLevel(tpot_s=0.05)).step_s == 0.02
    assert StepSettings.of(parse_policy("ewsjf").parameters, ServiceLevel()).off


def test_the_smaller_of_share_and_time_holds() -> None:
    assert StepSettings(0.1, step_s=0.03).budget_tokens(2048, 40, LAW, 4000) == 40 + 205
    assert StepSettings(0.9, step_s=0.03).budget_tokens(2048, 40, LAW, 4000) == 40 + 768
