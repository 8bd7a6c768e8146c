"""The memory gate: who is let in, who is passed over, and for how long."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ewsjf_env.measure.service import ServiceLevel
from ewsjf_env.policy.policy import Policy, parse_policy
from ewsjf_env.policy.policy_queue import PolicyQueue
from ewsjf_env.scheduling.cost import PrefillCostModel
from ewsjf_env.scheduling.entry import Entry
from ewsjf_env.scheduling.memory import PASS_LIMIT, MemoryGate
from ewsjf_env.scheduling.orders.registry import ORDERS
from ewsjf_env.scheduling.partition.repartition import InlineExecutor
from ewsjf_env.scheduling.tenants import TenantSettings
from tests.scheduling.queues import BUDGET_TOKENS, COST, Request, arrive, describe

BLOCK = 16


@dataclass
class Blocks:
    """A KV cache of which the test says what is free."""

    total_blocks: int = 1000
    free: int = 1000
    runs: int = 1

    def free_blocks(self) -> int:
        return self.free

    def running(self) -> int:
        return self.runs


def describe_tenant(request: Request, seq: int) -> Entry:
    """An entry of the tenant that the name begins with."""
    entry = describe(request, seq)
    entry.tenant = request.name[0]
    return entry


def gated(text: str, cache: Blocks) -> PolicyQueue[Request]:
    return PolicyQueue(
        parse_policy(text), describe, PrefillCostModel(COST), InlineExecutor(), cache=cache
    )


def step(queue: PolicyQueue[Request], now_s: float) -> list[Request]:
    """Admit as vLLM does until the queue is closed, one block table a prompt."""
    queue.begin_step(now_s, BUDGET_TOKENS)
    found = []
    cache = queue._cache
    assert isinstance(cache, Blocks)
    while queue:
        needed = -(-queue.peek().tokens // BLOCK)
        if needed > cache.free:
            break
        cache.free -= needed
        found.append(queue.pop())
    return found


def test_off_by_default_and_without_a_cache() -> None:
    values = parse_policy("ewsjf").parameters
    assert MemoryGate.of(values, Blocks(), BLOCK) is None
    values = parse_policy("ewsjf(kv_reserve=0.1)").parameters
    assert MemoryGate.of(values, None, BLOCK) is None
    gate = MemoryGate.of(values, Blocks(), BLOCK)
    assert gate is not None
    assert (gate.reserve_blocks, gate.above_tokens) == (100, 512.0)


@pytest.mark.parametrize(
    ("tokens", "free", "runs", "admitted"),
    [
        (1600, 200, 1, True),  # 100 blocks, and the reserve of 100
        (1600, 199, 1, False),
        (1600, 100, 0, True),  # nobody runs: there is nobody to reserve for
        (512, 32, 1, True),  # not long
        (512, 31, 1, False),
    ],
)
def test_who_is_let_in(tokens: int, free: int, runs: int, admitted: bool) -> None:
    queue = gated("ewsjf(kv_reserve=0.1)", Blocks(free=free, runs=runs))
    arrive(queue, "one", tokens, 0.0)
    assert bool(step(queue, 1.0)) is admitted


def test_a_head_that_does_not_fit_is_passed_over_by_one_that_does() -> None:
    cache = Blocks(free=100)
    queue = gated("hrrn(kv_reserve=0.05)", cache)
    long, short = arrive(queue, "long", 3000, 0.0), arrive(queue, "short", 100, 59.5)
    queue.begin_step(60.0, BUDGET_TOKENS)
    stock = gated("hrrn", cache)
    for one in (long, short):
        stock.add(one)
    stock.begin_step(60.0, BUDGET_TOKENS)
    assert (queue.peek(), stock.peek()) == (short, long)
    assert step(queue, 61.0) == [short]
    assert queue.entry(long).passed == 1


def test_the_choice_is_what_peek_showed_although_its_blocks_are_gone() -> None:
    cache = Blocks(free=10)
    queue = gated("ewsjf(kv_reserve=0.05)", cache)
    one, other = arrive(queue, "one", 100, 0.0), arrive(queue, "other", 100, 0.0)
    queue.begin_step(1.0, BUDGET_TOKENS)
    first = queue.peek()
    cache.free = 3
    assert queue.pop() is first
    assert not queue  # the other one needs seven blocks
    cache.free = 7
    assert queue.pop() is ({one, other} - {first}).pop()


def test_a_head_is_passed_over_a_bounded_number_of_times() -> None:
    """After `PASS_LIMIT` with worse scores nobody with a worse score goes before it."""
    cache = Blocks(free=100)
    queue = gated("hrrn(kv_reserve=0.05)", cache)
    long = arrive(queue, "long", 3200, 0.0)  # 200 blocks
    passed = 0
    for k in range(PASS_LIMIT + 8):  # those that are kept waiting do not outrank it yet
        arrive(queue, f"short{k}", 16, 1000.0 + k)
        passed += len(step(queue, 1000.5 + k))
        cache.free = 100
    assert passed == PASS_LIMIT
    cache.free = 200
    assert step(queue, 1000.5 + PASS_LIMIT + 8)[0] is long


@pytest.mark.parametrize("order", ["fcfs", "sjf", "ewsjf"])
def test_a_tenant_whose_next_does_not_fit_is_passed_over_a_bounded_number_of_times(
    order: str,
) -> None:
    """Its counter stays the smallest, and the other one's short requests never end."""
    cache = Blocks(free=100)
    queue = PolicyQueue(
        parse_policy(f"{order}(kv_reserve=0.05)"),
        describe_tenant,
        PrefillCostModel(COST),
        InlineExecutor(),
        cache=cache,
        tenants=TenantSettings(by="priority"),
    )
    long = arrive(queue, "a", 3200, 0.0)  # 200 blocks
    passed = 0
    for k in range(PASS_LIMIT + 20):
        arrive(queue, f"b{k}", 16, 1.0 + k)
        passed += len(step(queue, 1.5 + k))
        cache.free = 100
    assert passed == PASS_LIMIT
    cache.free = 200
    assert step(queue, 200.0)[0] is long


def test_a_late_request_that_does_not_fit_is_passed_over_a_bounded_number_of_times() -> None:
    cache = Blocks(free=100)
    queue = PolicyQueue(
        parse_policy("sjf_late(kv_reserve=0.05,late_share=0.5)"),
        describe,
        PrefillCostModel(COST),
        InlineExecutor(),
        cache=cache,
        level=ServiceLevel(),
    )
    late = arrive(queue, "late", 3200, 0.0)
    passed = 0
    for k in range(3200 // 16 + PASS_LIMIT + 20):
        arrive(queue, f"fresh{k}", 16, 100.0 + k)
        passed += len(step(queue, 100.0 + k))
        cache.free = 100
    assert passed == 3200 // 16 + PASS_LIMIT  # its credit first, and then its passes
    cache.free = 200
    assert step(queue, 1000.0)[0] is late


@given(
    order=st.sampled_from(sorted(ORDERS)),
    lengths=st.lists(st.integers(1, 12_000), min_size=1, max_size=25),
    reserve=st.sampled_from([0.01, 0.1, 0.5]),
)
def test_everybody_is_served_in_the_end(order: str, lengths: list[int], reserve: float) -> None:
    """Whoever fits into an empty cache is admitted, while others come and go."""
    cache = Blocks(free=1000, runs=0)
    policy = parse_policy(f"{order}(kv_reserve={reserve})")
    queue = gated(f"{order}(kv_reserve={reserve})", cache)
    assert isinstance(policy, Policy)
    waiting = {arrive(queue, f"r{k}", tokens, 0.1 * k) for k, tokens in enumerate(lengths)}
    running: list[Request] = []
    for k in range(20 * len(lengths)):
        admitted = step(queue, 100.0 + k)
        running += admitted
        waiting -= set(admitted)
        if running:  # the oldest one finishes
            cache.free += -(-running.pop(0).tokens // BLOCK)
        cache.runs = len(running)
        if not waiting:
            break
    assert not waiting
    assert len(queue) == 0
