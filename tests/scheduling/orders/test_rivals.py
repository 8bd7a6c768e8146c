"""What makes each rival order itself, on small hand-made queues."""

from __future__ import annotations

import math

import pytest

from ewsjf_env.policy.policy import parse_policy
from ewsjf_env.scheduling.entry import Entry
from ewsjf_env.scheduling.orders.boost import AdaptiveBoostOrder, boosted_arrival_s
from tests.scheduling.queues import BUDGET_TOKENS, Request, drain, make_queue


def served(policy: str, requests: list[tuple[str, int, float]], now_s: float) -> list[str]:
    """Names in the order of service; requests are (name, tokens, arrival)."""
    queue = make_queue(parse_policy(policy))
    for name, tokens, arrival_s in requests:
        request = Request(name, tokens)
        request.arrival_s = arrival_s
        queue.add(request)
    return [r.name for r in drain(queue, now_s)]


THREE = [("long", 4000, 0.0), ("middle", 900, 1.0), ("short", 100, 2.0)]


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("fcfs", ["long", "middle", "short"]),
        ("priority", ["long", "middle", "short"]),
        ("sjf", ["short", "middle", "long"]),
        ("spf", ["short", "middle", "long"]),
        ("srf", ["short", "long", "middle"]),
        ("linear_aging(r=10000)", ["long", "middle", "short"]),
        ("linear_aging(r=1)", ["short", "middle", "long"]),
        ("boost(gamma=10)", ["long", "middle", "short"]),
        ("boost(gamma=0.001)", ["short", "middle", "long"]),
        ("hrrn(exponent=4)", ["short", "middle", "long"]),
        ("residual_sjf(max_wait_s=100)", ["short", "middle", "long"]),
        ("residual_sjf(max_wait_s=8.5)", ["long", "middle", "short"]),
    ],
)
def test_order_of_three(policy: str, expected: list[str]) -> None:
    assert served(policy, THREE, 10.0) == expected


def test_an_aged_long_request_goes_before_short_ones_only_where_asked() -> None:
    assert served("srf(long_max_wait_s=5)", THREE, 5.5) == ["long", "short", "middle"]
    assert served("srf(long_max_wait_s=50)", THREE, 10.0) == ["short", "long", "middle"]


def test_random_depends_on_the_id_alone() -> None:
    many = [(f"r{i}", 10 + i, float(i)) for i in range(50)]
    first = served("random", many, 100.0)
    shuffled = [(name, 5000 - tokens, arrival) for name, tokens, arrival in many]
    assert served("random", shuffled, 100.0) == first
    assert first != [name for name, _, _ in many]


def test_the_oracle_sees_outputs() -> None:
    queue = make_queue(parse_policy("sjf_total(beta=10)"))
    queue.add(Request("short prompt, long output", 100, output=1000))
    queue.add(Request("long prompt, short output", 2000, output=1))
    assert [r.name[:4] for r in drain(queue, 1.0)] == ["long", "shor"]


def test_a_shrunken_prefix_cache_moves_a_head_back() -> None:
    uncached = {"a": 10, "b": 400}
    queue = make_queue(parse_policy("spf"))
    entries: dict[str, Entry] = {}
    describe = queue._describe_request

    def probing(request: Request, seq: int) -> Entry:
        entry = describe(request, seq)
        entry.probe = lambda: uncached[request.name]
        entries[request.name] = entry
        return entry

    queue._describe_request = probing
    for name in ("a", "b"):
        queue.add(Request(name, 1000))
    queue.begin_step(1.0, BUDGET_TOKENS)
    assert queue.peek().name == "a"
    uncached["a"] = 900  # evicted meanwhile
    queue.begin_step(2.0, BUDGET_TOKENS)
    assert queue.peek().name == "b"


def test_boost_key_and_its_limits() -> None:
    assert boosted_arrival_s(5.0, 0.7, 1.0) == pytest.approx(5 - math.log(1 / (1 - math.exp(-0.7))))
    assert boosted_arrival_s(5.0, 50.0, 10.0) == pytest.approx(5.0, abs=1e-9)
    small, large = (boosted_arrival_s(5.0, work, 1e-4) for work in (0.01, 1.0))
    assert large - small > 1e4  # almost SJF: work outweighs any wait


def test_adaptive_boost_follows_the_tail_of_the_waits() -> None:
    order = AdaptiveBoostOrder(lambda tokens: 1e-6, gamma=1.0)
    rate = 0.05
    now_s = 1000.0
    for index in range(1024):
        wait_s = -math.log(1 - (index + 0.5) / 1024) / rate  # exponential waits
        entry = Entry(None, str(index), index, 100, enqueue_s=now_s - wait_s)
        order.begin_step(now_s)
        order.add(entry)
        order.remove(entry, picked=True)
    order.begin_step(now_s)
    assert order.gamma == pytest.approx(rate, rel=0.1)
