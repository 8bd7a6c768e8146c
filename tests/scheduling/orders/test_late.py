"""Late requests last: who is late, who goes first then, and how long the late ones wait."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ewsjf_env.measure.service import ServiceLevel
from ewsjf_env.policy.policy import parse_policy
from ewsjf_env.policy.policy_queue import PolicyQueue
from ewsjf_env.scheduling.cost import PrefillCostModel
from ewsjf_env.scheduling.orders.registry import ORDERS
from ewsjf_env.scheduling.partition.repartition import InlineExecutor
from tests.scheduling.queues import BUDGET_TOKENS, COST, Request, arrive, describe

LEVEL = ServiceLevel(ttft_s=1.0, ttft_cost_factor=5.0, tpot_s=0.2)


def make(text: str, level: ServiceLevel | None = LEVEL) -> PolicyQueue[Request]:
    return PolicyQueue(
        parse_policy(text), describe, PrefillCostModel(COST), InlineExecutor(), level=level
    )


def pops(queue: PolicyQueue[Request], now_s: float, count: int) -> list[Request]:
    queue.begin_step(now_s, BUDGET_TOKENS)
    return [queue.pop() for _ in range(min(count, len(queue)))]


def test_earliest_deadline_first() -> None:
    """1 s and five times C(b), which is 0.17 s for 1,000 tokens."""
    queue = make("edf")
    long = arrive(queue, "long", 1000, 0.0)  # due at 1.9 s
    short = arrive(queue, "short", 10, 0.5)  # due at 1.53 s
    later = arrive(queue, "later", 10, 1.0)  # due at 2.03 s
    assert pops(queue, 1.0, 3) == [short, long, later]


@pytest.mark.parametrize("order", ["edf", "edf_late", "sjf_late", "ewsjf(late=last)"])
def test_without_service_levels_nobody_is_late(order: str) -> None:
    plain = {"edf": "fcfs", "edf_late": "fcfs", "sjf_late": "sjf"}.get(order, "ewsjf")
    queue, expected = make(order, None), make(plain, None)
    names = [("a", 500, 0.0), ("b", 100, 0.0), ("c", 3000, 1.0), ("d", 20, 2.0)]
    for one in (queue, expected):
        for name, tokens, arrival_s in names:
            arrive(one, name, tokens, arrival_s)
    found, wanted = (pops(one, 100.0, 4) for one in (queue, expected))
    assert [one.name for one in found] == [one.name for one in wanted]


def test_the_late_make_room_and_are_served_when_nobody_else_waits() -> None:
    queue = make("sjf_late")
    late = [
        arrive(queue, "late", 20, 0.0),
        arrive(queue, "later", 10, 0.5),
    ]  # cannot begin after 1.8 s
    fresh = arrive(queue, "fresh", 4000, 9.0)
    assert pops(queue, 10.0, 3) == [fresh, *late]


def test_a_request_is_late_when_it_could_not_end_its_prefill_in_time() -> None:
    """C(1000) is 0.176 s: the limit is 1.88 s, and 1.70 s the last moment to begin."""
    cost_s = PrefillCostModel(COST).cost_s(1000)
    last_s = LEVEL.ttft_s + (LEVEL.ttft_cost_factor - 1.0) * cost_s
    for now_s, first in ((last_s - 1e-6, "one"), (last_s + 1e-6, "fresh")):
        queue = make("fcfs(late=last)")
        arrive(queue, "one", 1000, 0.0)
        arrive(queue, "fresh", 1000, 1.0)
        assert pops(queue, now_s, 1)[0].name == first


@pytest.mark.parametrize("share", [0.05, 0.25])
@pytest.mark.parametrize("tokens", [100, 2000])
def test_the_late_wait_for_a_bounded_number_of_tokens(share: float, tokens: int) -> None:
    """At most b (1 - s)/s tokens of others, and the last one of these."""
    queue = make(f"sjf_late(late_share={share})")
    late = arrive(queue, "late", tokens, 0.0)
    passed = 0
    for k in range(20_000):
        arrive(queue, f"fresh{k}", 50, 100.0 + k)
        if pops(queue, 100.0 + k, 1) == [late]:
            break
        passed += 50
    bound = tokens * (1.0 - share) / share
    assert bound <= passed + 50 <= bound + 100


def test_a_policy_change_keeps_everybody() -> None:
    queue = make("sjf_late")
    names = {arrive(queue, f"r{k}", 10 + k, 0.1 * k) for k in range(30)}
    first = pops(queue, 2.9, 4)
    queue.install(parse_policy("edf_late"))
    rest = pops(queue, 3.0, 30)
    assert set(first) | set(rest) == names
    assert len(first) + len(rest) == 30


@given(
    order=st.sampled_from(sorted(ORDERS)),
    lengths=st.lists(st.integers(1, 5000), min_size=1, max_size=20),
    share=st.sampled_from([0.01, 0.5]),
)
def test_everybody_is_served_once_under_any_order(
    order: str, lengths: list[int], share: float
) -> None:
    queue = make(f"{order}(late=last,late_share={share})")
    waiting = [arrive(queue, f"r{k}", tokens, 0.2 * k) for k, tokens in enumerate(lengths)]
    served: list[Request] = []
    for k in range(4 * len(lengths)):
        queue.begin_step(0.3 * k, BUDGET_TOKENS)
        if queue:
            assert queue.peek() is queue.peek()
            served.append(queue.pop())
    while len(queue):
        queue.begin_step(1e6, BUDGET_TOKENS)
        served.append(queue.pop())
    assert sorted(served, key=id) == sorted(waiting, key=id)
