"""Effective work: what the order sees of cached prefixes and of expected outputs."""

from __future__ import annotations

import random

import numpy as np
import pytest
from scipy.stats import spearmanr

from ewsjf_env.engine.simulated.trace_requests import noisy_ranks
from ewsjf_env.policy.policy import Policy
from ewsjf_env.policy.policy_queue import PolicyQueue
from ewsjf_env.scheduling.cost import PrefillCostModel
from ewsjf_env.scheduling.entry import Entry
from ewsjf_env.scheduling.orders.effective_work import EffectiveWork
from ewsjf_env.scheduling.orders.expected_output import LEAST, MAX_GROUPS, OutputEstimates
from ewsjf_env.scheduling.partition.repartition import InlineExecutor
from tests.scheduling import queues
from tests.scheduling.queues import BUDGET_TOKENS, COST, THREE_QUEUES, Request, drain


class Hinted(Request):
    """A request with a hint, and a prefix that may be cached."""

    def __init__(
        self, name: str, tokens: int, output: int = 16, hint: int | None = None, cached: int = 0
    ) -> None:
        super().__init__(name, tokens, output=output)
        self.hint = hint
        self.cached = cached
        self.probed = 0


def describe(request: Hinted, seq: int) -> Entry:
    def probe() -> int:
        request.probed += 1
        return request.tokens - request.cached

    entry = queues.describe(request, seq)
    entry.output_hint, entry.probe = request.hint, probe
    return entry


def work_queue(**values: float | str) -> PolicyQueue[Hinted]:
    policy = Policy("e", "ewsjf", {"repartition": "off", **values}, THREE_QUEUES)
    return PolicyQueue(policy, describe, PrefillCostModel(COST), InlineExecutor())


def filled(queue: PolicyQueue[Hinted], *requests: Hinted) -> PolicyQueue[Hinted]:
    for index, request in enumerate(requests):
        request.arrival_s = 0.01 * index
        queue.add(request)
    queue.begin_step(5.0, BUDGET_TOKENS)
    return queue


def test_off_by_default_nothing_is_probed_and_hints_are_not_read() -> None:
    requests = [Hinted("a", 3000, cached=2900), Hinted("b", 900, hint=100_000)]
    queue = filled(work_queue(), *requests)
    assert [r.name for r in drain(queue, 6.0)] == ["b", "a"]
    assert all(r.probed == 0 for r in requests)


def test_a_cached_prefix_is_no_work_and_only_heads_are_probed() -> None:
    cached = Hinted("cached", 3000, cached=2900)
    others = [Hinted(f"o{i}", 3000) for i in range(50)]
    queue = filled(
        work_queue(w_cached=1.0, route_by="prompt"), Hinted("middle", 900), cached, *others
    )
    on_arrival = [r.probed for r in others]
    assert queue.peek() is cached
    queue.begin_step(6.0, BUDGET_TOKENS)
    assert queue.peek() is cached
    assert [r.probed for r in others] == on_arrival  # behind a head: not looked at in a step
    cached.cached = 0  # evicted
    queue.begin_step(7.0, BUDGET_TOKENS)
    assert queue.peek().name == "middle"


def test_routing_by_work_puts_a_cached_prompt_among_the_short_ones() -> None:
    for route, expected in (("prompt", ["o", "short", "c"]), ("work", ["short", "c", "o"])):
        queue = work_queue(w_cached=1.0, route_by=route)
        filled(queue, Hinted("o", 2900), Hinted("short", 90), Hinted("c", 3000, cached=2900))
        depths = [q["depth"] for q in queue.orders()[0].describe()["queues"]]
        assert depths == ([1, 0, 2] if route == "prompt" else [2, 0, 1])
        if route == "work":
            assert [r.name for r in drain(queue, 6.0)] == expected
    # Back on the length basis, waiting requests go where their prompts belong.
    queue.add(Hinted("d", 3000, cached=2900))
    queue.begin_step(7.0, BUDGET_TOKENS)
    queue.install(queue.policy.with_parameters({"w_cached": 0.0}))
    assert [q["depth"] for q in queue.orders()[0].describe()["queues"]] == [0, 0, 1]


def test_a_probe_that_fails_is_counted_and_the_length_stands_in() -> None:
    queue = work_queue(w_cached=1.0)
    request = Hinted("a", 100)
    request.cached = None  # type: ignore[assignment]
    filled(queue, request, Hinted("b", 50))
    assert sorted(r.name for r in drain(queue, 6.0)) == ["a", "b"]
    assert queue.orders()[0].describe()["score_failures"] >= 1


def test_expected_output_prefers_the_hint_and_falls_back_to_what_was_learned() -> None:
    estimates = OutputEstimates()
    for _ in range(LEAST):
        estimates.observe("", 100, 400)
    entry, hinted = Entry(None, "a", 0, 100), Entry(None, "b", 1, 100, output_hint=7)

    def expected(of: Entry, hints: bool, learned: bool) -> int:
        return EffectiveWork(0.0, 1.0, 0.5, hints, learned, estimates).expected_output(of)

    assert expected(hinted, True, True) == 7
    assert expected(entry, True, True) == pytest.approx(400, rel=0.1)
    assert expected(hinted, False, True) == pytest.approx(400, rel=0.1)
    assert expected(entry, True, False) == 0
    assert expected(Entry(None, "c", 2, 5000), True, True) == 0  # no such request has finished


def test_quantiles_follow_the_traffic_of_each_tenant_within_bounded_memory() -> None:
    estimates, rng = OutputEstimates(), np.random.default_rng(0)
    for tokens in np.exp(rng.normal(5.0, 1.0, 4000)):
        estimates.observe("a", 300, max(1, int(tokens)))
    for quantile, z in ((0.1, -1.2816), (0.5, 0.0), (0.9, 1.2816)):
        found = estimates.expected("a", 300, quantile)
        assert found == pytest.approx(np.exp(5.0 + z), rel=0.25)
    for _ in range(LEAST):
        estimates.observe("b", 300, 5)
    assert estimates.expected("b", 300, 0.5) == 5
    assert estimates.expected("new", 300, 0.9) == estimates.expected("new", 400, 0.9)  # an octave
    for _ in range(4000):  # the traffic changes for good
        estimates.observe("a", 300, 10)
    assert estimates.expected("a", 300, 0.5) in (9, 10, 11)
    for index in range(3 * MAX_GROUPS):
        estimates.observe(f"t{index}", 300, 10)
    assert len(estimates) <= MAX_GROUPS
    estimates.observe("a", 300, 0)  # nothing generated: nothing learned
    assert estimates.expected("a", 300, 0.5) is not None


@pytest.mark.parametrize("correlation", [0.0, 0.3, 0.6, 1.0])
def test_noisy_hints_have_the_asked_rank_correlation_and_the_same_values(
    correlation: float,
) -> None:
    truth = np.random.default_rng(1).geometric(0.01, 4000)
    hints = noisy_ranks(truth, correlation, seed=3)
    assert sorted(hints) == sorted(truth)
    assert spearmanr(truth, hints).statistic == pytest.approx(correlation, abs=0.03)
    assert (noisy_ranks(truth, correlation, seed=3) == hints).all()


def mean_wait_s(policy: Policy, hints: np.ndarray | None, seed: int) -> float:
    """One server, load 0.9, equal prompts: nothing but the output tells requests apart."""
    rng = random.Random(seed)
    truth = np.random.default_rng(seed).lognormal(5.0, 1.2, 1500).astype(int) + 1
    service_s = truth / truth.mean()
    arrival_s = np.cumsum([rng.expovariate(0.9) for _ in truth])
    queue = PolicyQueue(policy, describe, PrefillCostModel(COST), InlineExecutor())
    now_s, waited, arrived = 0.0, 0.0, 0
    for _ in truth:
        if not queue and now_s < arrival_s[arrived]:
            now_s = arrival_s[arrived]
        while arrived < len(truth) and arrival_s[arrived] <= now_s:
            hint = None if hints is None else int(hints[arrived])
            request = Hinted(f"r{arrived}", 200, int(truth[arrived]), hint)
            request.arrival_s = float(arrival_s[arrived])
            queue.add(request)
            arrived += 1
        queue.begin_step(now_s, BUDGET_TOKENS)
        request = queue.pop()
        waited += now_s - (request.arrival_s or 0.0)
        now_s += service_s[int(request.name[1:])]
        queue.finished(request, request.tokens, request.output)
    return waited / len(truth)


def test_hints_are_worth_what_they_know_and_nothing_without_information() -> None:
    """From no information to the oracle: rank correlation 0, 0.3, 0.6, 1."""
    cuts = tuple(range(300, 3000, 300))
    means = tuple(150.0 + 300.0 * i for i in range(len(cuts) + 1))
    partition = type(THREE_QUEUES)(cuts, means, (1 / len(means),) * len(means))
    values = {"repartition": "off", "k": 100.0}
    length = Policy("length", "ewsjf", values, partition)
    weighed = Policy("weighed", "ewsjf", {**values, "w_output": 1.0}, partition)
    waits: dict[object, list[float]] = {}
    for seed in range(4):
        truth = np.random.default_rng(seed).lognormal(5.0, 1.2, 1500).astype(int) + 1
        waits.setdefault("length", []).append(mean_wait_s(length, None, seed))
        waits.setdefault("learned", []).append(mean_wait_s(weighed, None, seed))
        for correlation in (0.0, 0.3, 0.6, 1.0):
            hints = noisy_ranks(truth, correlation, seed)
            waits.setdefault(correlation, []).append(mean_wait_s(weighed, hints, seed))
        oracle = mean_wait_s(weighed, truth, seed)
        assert waits[1.0][-1] == oracle  # a perfect rank with the same values is the truth
    mean = {arm: float(np.mean(each)) for arm, each in waits.items()}
    assert mean[1.0] < mean[0.6] < mean[0.3] < mean["length"]
    assert mean[1.0] < 0.55 * mean["length"]
    assert mean[0.0] == pytest.approx(mean["length"], rel=0.15)  # noise neither helps nor harms
    assert mean["learned"] == pytest.approx(mean["length"], rel=0.05)  # one length: one estimate
