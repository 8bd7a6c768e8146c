"""Fair shares: the published bound, what it is worth, and what a hostile client cannot do."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ewsjf_env.config import ConfigError, from_dict
from ewsjf_env.policy.policy import Policy
from ewsjf_env.policy.policy_queue import PolicyQueue
from ewsjf_env.scheduling.cost import PrefillCostModel
from ewsjf_env.scheduling.entry import Entry
from ewsjf_env.scheduling.orders.registry import ORDERS
from ewsjf_env.scheduling.partition.repartition import InlineExecutor
from ewsjf_env.scheduling.tenants import OTHERS, TenantAccounts, TenantSettings
from tests.scheduling import queues
from tests.scheduling.queues import BUDGET_TOKENS, COST, THREE_QUEUES, Request, make_queue

KV_TOKENS = 6000
LONGEST = 4000
WEIGHTS = TenantSettings(by="extra_args")


class Owned(Request):
    """A request of a tenant."""

    def __init__(self, name: str, tenant: str, tokens: int, output: int) -> None:
        super().__init__(name, tokens, output=output)
        self.tenant = tenant


def describe(request: Owned, seq: int) -> Entry:
    entry = queues.describe(request, seq)
    entry.tenant = request.tenant
    return entry


def tenant_queue(
    policy: Policy | str = "ewsjf", tenants: TenantSettings | None = WEIGHTS
) -> PolicyQueue[Owned]:
    if isinstance(policy, str):
        policy = Policy(policy, policy, partition=THREE_QUEUES)
    return PolicyQueue(policy, describe, PrefillCostModel(COST), InlineExecutor(), tenants=tenants)


@dataclass
class Server:
    """Continuous batching in steps: KV blocks for prompt and output, one token a step.

    Attributes:
        service: W of every tenant, in weighted tokens over the tenant's weight.
        overdue: the part of it that went to requests which were overdue when admitted.
        widest: of each pair, the largest range of W_f - W_g while both had requests waiting.
    """

    queue: PolicyQueue[Owned]
    settings: TenantSettings = WEIGHTS
    now_s: float = 0.0
    service: dict[str, float] = field(default_factory=dict)
    overdue: float = 0.0
    widest: dict[tuple[str, str], float] = field(default_factory=dict)
    _waiting: Counter[str] = field(default_factory=Counter)
    _running: dict[Owned, int] = field(default_factory=dict)
    _span: dict[tuple[str, str], tuple[float, float]] = field(default_factory=dict)
    _late: set[Owned] = field(default_factory=set)

    def step(self, arrivals: list[Owned]) -> None:
        self.now_s += 0.1
        for request in arrivals:
            self.service.setdefault(request.tenant, 0.0)
            self._waiting[request.tenant] += 1
            self.queue.add(request)
        self.queue.begin_step(self.now_s, BUDGET_TOKENS)
        self._observe()
        while self.queue:
            request = self.queue.peek()
            used = sum(r.tokens + r.output for r in self._running)
            if used + request.tokens + request.output > KV_TOKENS:
                break
            if self.queue.entry(request).overdue:
                self._late.add(request)
            assert self.queue.pop() is request
            self._waiting[request.tenant] -= 1
            self._running[request] = 0
            self._serve(request, self.settings.prompt_weight * request.tokens)
            self._observe()
        for request in list(self._running):
            self._running[request] += 1
            self._serve(request, self.settings.output_weight)
            if self.queue.tenants is not None:
                self.queue.tenants.generated(request.name, 1)
            if self._running[request] >= request.output:
                del self._running[request]
                if self.queue.tenants is not None:
                    self.queue.tenants.left([request.name])
        self._observe()

    def _serve(self, request: Owned, tokens: float) -> None:
        service = tokens / self.settings.weights.get(request.tenant, 1.0)
        self.service[request.tenant] += service
        self.overdue += service if request in self._late else 0.0

    def _observe(self) -> None:
        waiting = {tenant for tenant, count in self._waiting.items() if count}
        for pair in itertools.combinations(sorted(self.service), 2):
            if not waiting.issuperset(pair):
                self._span.pop(pair, None)
                continue
            gap = self.service[pair[0]] - self.service[pair[1]]
            low, high = self._span.get(pair, (gap, gap))
            self._span[pair] = min(low, gap), max(high, gap)
            width = self._span[pair][1] - self._span[pair][0]
            self.widest[pair] = max(self.widest.get(pair, 0.0), width)


def bound(settings: TenantSettings) -> float:
    """2 U of the module, M as the KV cache: admitted requests fit into it with all their output."""
    cost = max(settings.prompt_weight * LONGEST, settings.output_weight * KV_TOKENS)
    return 2.0 * cost / min([1.0, *settings.weights.values()])


ARRIVAL = st.tuples(
    st.sampled_from("abc"), st.sampled_from([1, 30, 200, 900, LONGEST]), st.integers(1, 300)
)


@settings(max_examples=60, deadline=None)
@given(
    order=st.sampled_from(["fcfs", "sjf", "ewsjf", "ewsjf_paper", "hrrn", "boost_ada"]),
    weights=st.sampled_from([{}, {"a": 2.0}, {"a": 3.0, "b": 0.5}]),
    overdue=st.sampled_from([0.0, 0.25]),
    steps=st.lists(st.lists(ARRIVAL, max_size=4), min_size=20, max_size=150),
)
def test_service_of_backlogged_tenants_differs_by_no_more_than_the_bound(
    order: str,
    weights: dict[str, float],
    overdue: float,
    steps: list[list[tuple[str, int, int]]],
) -> None:
    """Sheng et al., theorem 4.4, in every interval; with the overdue lane, plus what it served."""
    tenants = TenantSettings(weights=weights)
    values = {"overdue_share": overdue, "overdue_floor_s": 1.0, "overdue_kappa": 1.0}
    space = ORDERS[order].space
    policy = Policy(order, order, {k: v for k, v in values.items() if k in space}, THREE_QUEUES)
    server = Server(tenant_queue(policy, tenants), tenants)
    for index, arrivals in enumerate(steps):
        server.step([Owned(f"r{index}.{i}", *one) for i, one in enumerate(arrivals)])
    for _ in range(len(steps)):
        server.step([])
    for width in server.widest.values():
        assert width <= bound(tenants) + server.overdue + 1e-6


def flood(queue: PolicyQueue[Owned], steps: int = 800) -> Server:
    """One tenant sends ten times what the other does; both always have something waiting."""
    server, rng = Server(queue), random.Random(1)
    for index in range(steps):
        names = ["quiet"] * (index % 2) + ["flood"] * 5
        server.step(
            [Owned(f"r{index}.{i}", n, rng.randint(100, 500), 40) for i, n in enumerate(names)]
        )
    return server


def test_without_tenants_a_flood_gets_what_it_asks_and_with_them_its_share() -> None:
    pair = ("flood", "quiet")
    fair = flood(tenant_queue())
    assert fair.widest[pair] <= bound(WEIGHTS)
    assert fair.service["flood"] == pytest.approx(fair.service["quiet"], abs=bound(WEIGHTS))
    free = flood(tenant_queue(tenants=None))
    assert free.service["flood"] > 5 * free.service["quiet"]
    assert free.widest[pair] > 2 * bound(WEIGHTS)


def test_shares_follow_the_weights() -> None:
    tenants = TenantSettings(weights={"flood": 3.0, "quiet": 1.0})
    server = flood(tenant_queue(tenants=tenants), steps=1500)
    assert server.service["flood"] == pytest.approx(3.0 * server.service["quiet"], rel=0.1)


def test_nobody_saves_up_service_by_staying_away() -> None:
    queue = tenant_queue()
    server = Server(queue)
    for index in range(200):
        server.step([Owned(f"a{index}", "a", 300, 20)])
    accounts = queue.tenants
    assert accounts is not None
    before = accounts.counter("a")
    server.step([Owned("b0", "b", 300, 20)])
    assert accounts.counter("b") >= before > 1000  # lifted to the one that waits


def test_a_tenant_that_returns_to_an_empty_queue_keeps_its_debt() -> None:
    accounts = TenantAccounts(WEIGHTS)
    entry = Entry(None, "r", 0, 700, tenant=accounts.admit("a", "r"))
    accounts.queued("a")
    accounts.unqueued("a")
    accounts.picked(entry)
    accounts.admit("b", "s")
    accounts.queued("b")
    accounts.admit("a", "t")
    accounts.queued("a")
    assert accounts.counter("a") == 700.0
    assert accounts.counter("b") == 0.0  # the last to leave had paid nothing when it left


def test_a_skipped_or_preempted_request_is_not_charged_again() -> None:
    queue = tenant_queue()
    accounts = queue.tenants
    assert accounts is not None
    request = Owned("r", "a", 700, 20)
    queue.add(request)
    queue.begin_step(1.0, BUDGET_TOKENS)
    for _ in range(3):
        assert queue.pop() is request
        queue.prepend(request)
        assert queue.entry(request).tenant == "a"
    assert accounts.served("a") == 700.0


@settings(max_examples=60, deadline=None)
@given(
    data=st.lists(
        st.one_of(
            st.tuples(st.just("add"), st.integers(0, 40)),
            st.tuples(st.just("pop"), st.integers(1, 3)),
            st.tuples(st.just("abort"), st.integers(0, 50)),
            st.tuples(st.just("preempt"), st.integers(0, 50)),
            st.tuples(st.just("finish"), st.integers(0, 50)),
            st.tuples(st.just("policy"), st.sampled_from(sorted(ORDERS))),
        ),
        min_size=10,
        max_size=120,
    ),
    limit=st.integers(1, 6),
)
def test_nothing_is_lost_and_memory_is_bounded_whatever_names_are_invented(
    data: list[tuple], limit: int
) -> None:
    tenants = TenantSettings(weights={"gold": 2.0}, max_tenants=limit)
    queue = tenant_queue("ewsjf", tenants)
    accounts = queue.tenants
    assert accounts is not None
    waiting: list[Owned] = []
    running: list[Owned] = []
    for step, (kind, value) in enumerate(data):
        queue.begin_step(0.1 * step, BUDGET_TOKENS)
        if kind == "add":
            name = "gold" if value == 0 else f"invented {step % 7 * value}"
            request = Owned(f"r{step}", name, 1 + 90 * value, 5)
            queue.add(request)
            waiting.append(request)
        elif kind == "pop":
            for _ in range(value):
                if queue:
                    request = queue.pop()
                    waiting.remove(request)
                    running.append(request)
        elif kind == "abort" and waiting:
            request = waiting.pop(value % len(waiting))
            queue.remove(request)
            accounts.left([request.name])
        elif kind == "preempt" and running:
            request = running.pop(value % len(running))
            queue.prepend(request)
            waiting.append(request)
            assert queue.peek() is request
        elif kind == "finish" and running:
            accounts.generated(running[value % len(running)].name, 5)
            accounts.left([running.pop(value % len(running)).name])
        elif kind == "policy":
            queue.install(Policy(value, value, partition=THREE_QUEUES))
        assert len(queue) == len(waiting) and set(queue) == set(waiting)
        told = {row["tenant"]: row for row in accounts.describe()}
        assert len(told) <= limit + 2
        assert sum(row["here"] for row in told.values()) == len(waiting) + len(running)
        assert all(0 <= row["waiting"] <= row["here"] for row in told.values())
        inner = queue.orders()[0] if queue.orders() else None
        assert inner is None or len(inner._orders) <= limit + 3  # type: ignore[attr-defined]
    queue.begin_step(1e6, BUDGET_TOKENS)
    served = []
    while len(queue):
        queue.begin_step(1e6, BUDGET_TOKENS)
        served.append(queue.pop())
    assert sorted(r.name for r in served) == sorted(r.name for r in waiting)
    assert all(row["waiting"] == 0 for row in accounts.describe())


def test_names_beyond_the_limit_share_one_account_and_idle_ones_make_room() -> None:
    accounts = TenantAccounts(TenantSettings(max_tenants=2))
    assert [accounts.admit(n, n) for n in "abcd"] == ["a", "b", OTHERS, OTHERS]
    accounts.left(["a"])  # idle, and with nothing to forget
    assert accounts.admit("e", "e") == "e"
    assert "a" not in accounts
    listed = TenantAccounts(TenantSettings(weights={"gold": 4.0}, listed_only=True))
    assert [listed.admit(n, n) for n in ("gold", "x", "")] == ["gold", OTHERS, OTHERS]


def test_a_debt_is_not_forgotten() -> None:
    accounts = TenantAccounts(TenantSettings(max_tenants=2))
    for name in "ab":
        accounts.admit(name, name)
        accounts.queued(name)
    accounts.picked(Entry(None, "a", 0, 900, tenant="a"))
    accounts.unqueued("a")
    accounts.left(["a"])
    assert accounts.admit("new", "n") == OTHERS  # `b` waits at 0: `a` would return with its 900
    assert accounts.counter("a") == 900.0


def test_requests_that_left_unreported_are_swept() -> None:
    accounts = TenantAccounts(WEIGHTS)
    for index in range(200):
        accounts.admit("a", f"r{index}")
    accounts.sweep({"r3"})
    assert accounts.describe()[0]["here"] == 1


def test_an_order_that_closes_its_step_closes_it_for_its_tenant() -> None:
    policy = Policy("e", "ewsjf", {"backfill": "none", "k": 0.05, "mu": 1.0}, THREE_QUEUES)
    queue = tenant_queue(policy)
    for name, tenant, tokens in (("a0", "a", 100), ("a1", "a", 3000), ("b0", "b", 100)):
        request = Owned(name, tenant, tokens, 5)
        request.arrival_s = 0.0
        queue.add(request)
    queue.begin_step(9.0, BUDGET_TOKENS)
    taken = []
    while queue:
        taken.append(queue.pop().name)
    assert len(taken) == 2 and {name[0] for name in taken} == {"a", "b"}
    queue.begin_step(10.0, BUDGET_TOKENS)
    assert queue.pop().name in ("a0", "a1")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"by": "user"}, "'user' is not one of"),
        ({"weights": {"a": 0}}, "weights: a: 0 is outside [0.001, 1000]"),
        ({"weights": {"a\n": 1}}, "expected a printable name"),
        ({"max_tenants": 0}, "max_tenants: 0 is outside [1, 1024]"),
        ({"prompt_weight": 0, "output_weight": 0}, "nothing is counted"),
        ({"weight": {}}, "nearest valid name: 'weights'"),
    ],
)
def test_bad_settings_are_refused_by_name(data: dict, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        from_dict(TenantSettings, data, "tenants")
    assert message in str(caught.value)


def test_tenants_and_priorities_are_not_served_together() -> None:
    assert make_queue("ewsjf").tenants is None
    with pytest.raises(ValueError, match="by_priority"):
        PolicyQueue(
            Policy("f", "fcfs"),
            describe,
            PrefillCostModel(COST),
            InlineExecutor(),
            tenants=WEIGHTS,
            by_priority=True,
        )
