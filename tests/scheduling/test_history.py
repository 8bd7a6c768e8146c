"""What is remembered of requests, by hand and against a plain list: records, sums, readers."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ewsjf_env.measure.records import RequestRecord
from ewsjf_env.scheduling.history import (
    COLUMNS,
    MAX_IDLE_DELAY_S,
    MAX_ROWS,
    RequestHistory,
)
from tests.scheduling.history_requests import Request, end, serve_one, step, tokens_of


def test_columns_begin_with_the_fields_of_a_record() -> None:
    assert tuple(RequestRecord.__dataclass_fields__) == (*COLUMNS[:9], "outcome")


def test_the_life_of_a_request_in_records() -> None:
    history, request = RequestHistory(), Request("a", 100, 5)
    history.arrived(request, 1.0)
    assert history.records() == [RequestRecord("a", 1.0, 100, 5)]
    history.scheduled(step({"a": 32}), 1.5, 0.0)
    history.updated([], 2.0, 0.0)  # a chunk of the prompt only
    assert history.records()[0].first_token_s is None
    request.num_output_tokens = 1
    history.updated([], 3.0, 0.0)
    request.num_preemptions = 1
    history.scheduled(step({"a": 0}), 3.5, 0.0)  # again, after the preemption
    request.num_output_tokens = 5
    request.reason = "length"
    assert history.updated(["a", "stranger"], 4.0, 0.0) == [request]
    record = RequestRecord("a", 1.0, 100, 5, 32, 5, 3.0, 4.0, 1)
    assert history.records() == [record]
    assert history.records(4.0) == [record]
    assert history.records(4.1) == []
    request.num_output_tokens = 99  # what becomes of the object no longer matters
    assert history.records() == [record]
    assert history.totals(5.0).output_tokens == 5
    assert history.totals(5.0).preemptions == 1


def test_the_life_of_a_request_in_a_window() -> None:
    history, request = RequestHistory(10), Request("a")
    history.arrived(request, 5.0)
    first = step({"a": 2}, {"a": 5})
    history.scheduled(first, 6.0, 0.5)
    history.count_step(first, 5)
    request.num_output_tokens = 1
    history.updated([], 8.0, 0.5)
    history.count_tokens(first, tokens_of(1))
    request.num_output_tokens = 2
    second = step(tokens={"a": 1})
    history.scheduled(second, 8.0, 0.5)
    history.count_step(second, 0)
    request.reason = "stop"
    history.updated(["a"], 9.0, 0.0)
    history.count_tokens(second, tokens_of(1))
    answer = history.window(0, 20.0)
    assert answer["finished"] == [["a", 5.0, 7, 3, 2, 2, 8.0, 9.0, 0, "stop"]]
    assert answer["open"] == []
    counters = answer["counters"]
    assert counters["kv_usage_s"] == 0.5 * (9.0 - 6.0)
    assert (counters["arrivals"], counters["finished"], counters["aborted"]) == (1, 1, 0)
    assert (counters["prefill_tokens"], counters["output_tokens"]) == (5, 2)
    assert (counters["admitted_prompt_tokens"], counters["admitted_cached_tokens"]) == (7, 2)
    assert counters["steps"] == 2


def test_prefill_counts_once_its_step_has_run() -> None:
    history = RequestHistory()
    steps = [step(tokens={"a": n}) for n in (3, 4, 5)]
    for number, output in enumerate(steps):
        history.count_step(output, 10 + number)
    history.count_step(step(), 0)  # without tokens: no step
    history.count_tokens(steps[0], [])
    assert (history.counts["steps"], history.counts["prefill_tokens"]) == (1, 10)
    history.count_tokens(step(), tokens_of(2))
    history.count_tokens(steps[2], [])  # the one before never came back
    assert (history.counts["steps"], history.counts["prefill_tokens"]) == (2, 22)
    assert history.counts["output_tokens"] == 2


def test_an_abort_is_no_first_token() -> None:
    """It counted as one: a policy whose victims give up looked better (vLLM #55634)."""
    history, request = RequestHistory(), Request("a", 100, 5)
    history.arrived(request, 1.0)
    history.arrived(Request("a", 7, 7), 2.0)  # the next input of a streaming session
    end(history, request, 6.0, "abort")
    record = RequestRecord("a", 1.0, 100, 5, 0, 0, None, 6.0, outcome="aborted")
    assert history.records() == [record]
    (row,) = history.window(0, 7.0)["finished"]
    assert row[6:] == [None, 6.0, 0, "abort"]
    counts = history.counts
    assert (counts["arrivals"], counts["finished"], counts["aborted"]) == (1, 0, 1)


def test_only_who_has_ended_leaves() -> None:
    """vLLM also names requests that it does not know, or that go on."""
    history, request = RequestHistory(), Request("a")
    history.arrived(request, 1.0)
    assert history.end(["a", "b"], 2.0) == []
    assert len(history.window(0, 3.0)["open"]) == 1
    assert end(history, request, 4.0) == [request]
    assert history.end(["a"], 5.0) == []


def test_the_integral_of_the_kv_cache() -> None:
    history = RequestHistory()
    assert history.totals(3.0).kv_usage_s == 0.0
    history.scheduled(step(), 4.0, 0.5)
    history.scheduled(step(), 6.0, 1.0)
    assert history.totals(6.5).kv_usage_s == pytest.approx(1.5)
    history.updated([], 7.0, 0.0)
    assert history.totals(100.0).kv_usage_s == pytest.approx(2.0)


def test_memory_is_bounded_and_what_is_missing_is_known() -> None:
    history = RequestHistory(capacity=3)
    for number in range(5):
        request = Request(str(number))
        history.arrived(request, float(number))
        end(history, request, number + 0.5)
        assert history.complete_since_s == (-math.inf if number < 3 else number - 3 + 0.5)
    assert len(history) == 3
    assert [r.request_id for r in history.records()] == ["4", "3", "2"]


def test_readers_go_on_from_their_own_places() -> None:
    history = RequestHistory(4)
    for index in range(3):
        serve_one(history, f"r{index}", float(index))
    first = history.window(0, 9.0)
    assert [row[0] for row in first["finished"]] == ["r0", "r1", "r2"]
    assert (first["next"], first["more"], first["lost"]) == (3, False, 0)
    for index in range(3, 9):
        serve_one(history, f"r{index}", float(index))
    later = history.window(first["next"], 9.0)
    assert [row[0] for row in later["finished"]] == ["r5", "r6", "r7", "r8"]
    assert (later["next"], later["lost"]) == (9, 2)
    assert history.window(9, 9.0)["finished"] == []
    # A place beyond the end is of an earlier server; a new reader has lost nothing.
    assert len(history.window(10, 9.0)["finished"]) == 4
    assert history.window(0, 9.0)["lost"] == 0


def test_a_long_record_comes_in_pages() -> None:
    history = RequestHistory(MAX_ROWS + 5)
    for index in range(MAX_ROWS + 5):
        serve_one(history, str(index), 0.0)
    first = history.window(0, 1.0)
    assert (len(first["finished"]), first["more"]) == (MAX_ROWS, True)
    rest = history.window(first["next"], 1.0)
    assert [row[0] for row in rest["finished"]] == [str(MAX_ROWS + i) for i in range(5)]
    assert not rest["more"]


def test_open_requests_can_be_left_out() -> None:
    history = RequestHistory(4)
    history.arrived(Request("a"), 5.0)
    (row,) = history.window(0, 6.0)["open"]
    assert row[:2] == ["a", 5.0] and row[6:] == [None, None, 0, None]
    assert history.window(0, 6.0, open_requests=False)["open"] == []


@pytest.mark.parametrize(
    ("wall_s", "delay_s"),
    [
        (100.2, 0.2),
        (100.0, 0.0),
        (99.0, 0.0),  # the wall clock went back
        (4000.0, MAX_IDLE_DELAY_S),  # or forward
        (math.nan, 0.0),
    ],
)
def test_an_arrival_is_carried_over_from_the_wall_clock(wall_s: float, delay_s: float) -> None:
    arrival_s = RequestHistory().front_end_arrival_s(Request("a"), 50.0, wall_s)
    assert arrival_s == pytest.approx(50.0 - delay_s)


def test_a_busy_engine_saw_no_request_before_its_last_step() -> None:
    history = RequestHistory(4)
    history.arrived(Request("a"), 50.0)
    history.scheduled(step({"a": 0}, {"a": 7}), 50.0, 0.1)
    for arrival_time, expected_s in ((97.5, 50.5), (90.0, 50.0)):
        request = Request("b", arrival_time=arrival_time)
        assert history.front_end_arrival_s(request, 53.0, 100.0) == expected_s


def test_what_leaves_unseen_is_swept_out() -> None:
    history = RequestHistory(4)
    requests = [Request(f"r{index}") for index in range(100)]
    for request in requests:
        history.arrived(request, 1.0)
    known = {request.request_id: request for request in requests[:10]}
    requests[20].reason = "abort"
    history.sweep(known, 2.0)
    answer = history.window(0, 3.0)
    assert [row[0] for row in answer["open"]] == list(known)
    assert [row[0] for row in answer["finished"]] == ["r20"]
    assert answer["counters"]["aborted"] == 1


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
            requests[str(index)], arrival[str(index)] = Request(str(index), 10, 10), now_s
            history.arrived(requests[str(index)], now_s)
        elif kind == "p":
            history.scheduled(step(dict.fromkeys(alive[:number], 0)), now_s, 0.0)
            for name in alive[:number]:
                requests[name].num_output_tokens += 1
                first.setdefault(name, now_s)
            history.updated([], now_s, 0.0)
        elif alive:
            name = alive[number % len(alive)]
            end(history, requests[name], now_s)
            finish[name] = now_s
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
    rows = history.window(0, now_s)
    assert {row[0] for row in rows["finished"]} == set(finish)
    assert {row[0] for row in rows["open"]} == set(requests) - set(finish)
