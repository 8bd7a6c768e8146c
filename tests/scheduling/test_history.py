"""What the scheduler remembers of requests: by hand, and against a plain list."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ewsjf_env.measure.records import RequestRecord
from ewsjf_env.scheduling.history import RequestHistory


class Request:
    def __init__(self) -> None:
        self.num_output_tokens = 0
        self.num_preemptions = 0


def test_the_life_of_a_request() -> None:
    history, request = RequestHistory(), Request()
    history.arrived("a", request, 1.0, 100, 5)
    assert history.records() == [RequestRecord("a", 1.0, 100, 5)]
    history.admitted("a", 32)
    history.produced(2.0)  # a chunk of the prompt only
    assert history.records()[0].first_token_s is None
    request.num_output_tokens = 1
    history.produced(3.0)
    request.num_preemptions = 1
    history.admitted("a", 0)  # again, after the preemption
    request.num_output_tokens = 5
    history.produced(4.0)
    history.left(["a", "stranger"], 4.0)
    record = RequestRecord("a", 1.0, 100, 5, 32, 5, 3.0, 4.0, 1)
    assert history.records() == [record]
    assert history.records(4.0) == [record]
    assert history.records(4.1) == []
    request.num_output_tokens = 99  # what becomes of the object no longer matters
    assert history.records() == [record]
    assert history.totals(5.0).output_tokens == 5
    assert history.totals(5.0).preemptions == 1


def test_an_aborted_request_waited_until_then() -> None:
    history = RequestHistory()
    history.arrived("a", Request(), 1.0, 100, 5)
    history.arrived("a", Request(), 2.0, 7, 7)  # the next input of a streaming session
    history.left(["a"], 6.0)
    assert history.records() == [RequestRecord("a", 1.0, 100, 5, 0, 0, 6.0, 6.0)]


def test_the_integral_of_the_kv_cache() -> None:
    history = RequestHistory()
    assert history.totals(3.0).kv_usage_s == 0.0
    history.used_kv(0.5, 4.0)
    history.used_kv(1.0, 6.0)
    assert history.totals(6.5).kv_usage_s == pytest.approx(1.5)
    history.used_kv(0.0, 7.0)
    assert history.totals(100.0).kv_usage_s == pytest.approx(2.0)


def test_memory_is_bounded_and_what_is_missing_is_known() -> None:
    history = RequestHistory(capacity=3)
    for number in range(5):
        history.arrived(str(number), Request(), float(number), 10, 1)
        history.left([str(number)], number + 0.5)
        assert history.complete_since_s == (-math.inf if number < 3 else number - 3 + 0.5)
    assert len(history) == 3
    assert [r.request_id for r in history.records()] == ["4", "3", "2"]


EVENTS = st.lists(
    st.tuples(st.sampled_from("aapl"), st.integers(0, 9), st.floats(0.0, 2.0)), max_size=60
)


@given(EVENTS)
def test_it_agrees_with_a_plain_list(events: list[tuple[str, int, float]]) -> None:
    history = RequestHistory()
    now_s, first, finish = 0.0, {}, {}
    requests: dict[str, Request] = {}
    arrival: dict[str, float] = {}
    for index, (kind, number, gap_s) in enumerate(events):
        now_s += gap_s
        alive = [name for name in requests if name not in finish]
        if kind == "a":
            requests[str(index)], arrival[str(index)] = Request(), now_s
            history.arrived(str(index), requests[str(index)], now_s, 10, 10)
        elif kind == "p":
            for name in alive[:number]:
                history.admitted(name, 0)
                requests[name].num_output_tokens += 1
                first.setdefault(name, now_s)
            history.produced(now_s)
        elif alive:
            name = alive[number % len(alive)]
            history.left([name], now_s)
            finish[name] = now_s
            first.setdefault(name, now_s)
    found = {r.request_id: r for r in history.records()}
    assert set(found) == set(requests)
    for name, record in found.items():
        assert record.arrival_s == arrival[name]
        assert record.first_token_s == first.get(name)
        assert record.finish_s == finish.get(name)
        assert record.generated_tokens == requests[name].num_output_tokens
    assert history.totals(now_s).output_tokens == sum(
        r.num_output_tokens for r in requests.values()
    )
