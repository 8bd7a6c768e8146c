"""The record of requests: ring, places, arrivals on another clock, ends that nobody reported."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest

from ewsjf_env.measure.records import RequestRecord
from ewsjf_env.serving.recorder import COLUMNS, MAX_IDLE_DELAY_S, MAX_ROWS, Recorder


class Request:
    """What the recorder reads of vLLM's `Request`."""

    def __init__(self, name: str, arrival_time: float = 100.0) -> None:
        self.request_id = name
        self.arrival_time = arrival_time
        self.num_prompt_tokens = 7
        self.max_tokens = 3
        self.num_output_tokens = 0
        self.num_preemptions = 0
        self.reason: str | None = None

    def is_finished(self) -> bool:
        return self.reason is not None

    def get_finished_reason(self) -> str | None:
        return self.reason


def step(new: dict[str, int] | None = None, tokens: dict[str, int] | None = None) -> Any:
    """A `SchedulerOutput`: cached tokens of new requests, tokens scheduled of all."""
    tokens = tokens or {}
    return SimpleNamespace(
        preempted_req_ids=None,
        scheduled_new_reqs=[
            SimpleNamespace(req_id=name, num_computed_tokens=cached)
            for name, cached in (new or {}).items()
        ],
        num_scheduled_tokens=tokens,
        scheduled_spec_decode_tokens={},
        total_num_scheduled_tokens=sum(tokens.values()),
    )


def tokens_of(*counts: int) -> list[Any]:
    return [SimpleNamespace(outputs=[SimpleNamespace(new_token_ids=[1] * n) for n in counts])]


def serve_one(recorder: Recorder, name: str, at_s: float) -> None:
    request = Request(name)
    recorder.arrived(request, at_s)
    request.reason = "length"
    recorder.end([name], at_s + 1.0)


def test_columns_begin_with_the_fields_of_a_record() -> None:
    assert tuple(RequestRecord.__dataclass_fields__) == COLUMNS[:9]


def test_the_life_of_a_request() -> None:
    recorder = Recorder(10, lambda: 100.0)
    request = Request("a")
    recorder.arrived(request, 5.0)
    recorder.scheduled(step({"a": 2}, {"a": 5}), 6.0, 0.5)
    request.num_output_tokens = 1
    recorder.updated(step(tokens={"a": 5}), tokens_of(1), [], 8.0, 0.5)
    request.num_output_tokens = 2
    recorder.scheduled(step(tokens={"a": 1}), 8.0, 0.5)
    request.reason = "stop"
    recorder.updated(step(tokens={"a": 1}), tokens_of(1), ["a"], 9.0, 0.0)
    answer = recorder.window(0, 20.0)
    assert answer["finished"] == [["a", 5.0, 7, 3, 2, 2, 8.0, 9.0, 0, "stop"]]
    assert answer["open"] == []
    counters = answer["counters"]
    assert counters["kv_usage_s"] == 0.5 * (9.0 - 6.0)
    assert (counters["arrivals"], counters["finished"], counters["aborted"]) == (1, 1, 0)
    assert (counters["prefill_tokens"], counters["output_tokens"]) == (5, 2)
    assert (counters["admitted_prompt_tokens"], counters["admitted_cached_tokens"]) == (7, 2)
    assert counters["steps"] == 2


def test_readers_go_on_from_their_own_places() -> None:
    recorder = Recorder(4, lambda: 100.0)
    for index in range(3):
        serve_one(recorder, f"r{index}", float(index))
    first = recorder.window(0, 9.0)
    assert [row[0] for row in first["finished"]] == ["r0", "r1", "r2"]
    assert (first["next"], first["more"], first["lost"]) == (3, False, 0)
    for index in range(3, 9):
        serve_one(recorder, f"r{index}", float(index))
    later = recorder.window(first["next"], 9.0)
    assert [row[0] for row in later["finished"]] == ["r5", "r6", "r7", "r8"]
    assert (later["next"], later["lost"]) == (9, 2)
    assert recorder.window(9, 9.0)["finished"] == []
    # A place beyond the end is of an earlier server; a new reader has lost nothing.
    assert len(recorder.window(10, 9.0)["finished"]) == 4
    assert recorder.window(0, 9.0)["lost"] == 0


def test_a_long_record_comes_in_pages() -> None:
    recorder = Recorder(MAX_ROWS + 5, lambda: 100.0)
    for index in range(MAX_ROWS + 5):
        serve_one(recorder, str(index), 0.0)
    first = recorder.window(0, 1.0)
    assert (len(first["finished"]), first["more"]) == (MAX_ROWS, True)
    rest = recorder.window(first["next"], 1.0)
    assert [row[0] for row in rest["finished"]] == [str(MAX_ROWS + i) for i in range(5)]
    assert not rest["more"]


def test_open_requests_can_be_left_out() -> None:
    recorder = Recorder(4, lambda: 100.0)
    recorder.arrived(Request("a"), 5.0)
    (row,) = recorder.window(0, 6.0)["open"]
    assert row[:2] == ["a", 5.0] and row[6:] == [None, None, 0, None]
    assert recorder.window(0, 6.0, open_requests=False)["open"] == []


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
    recorder = Recorder(4, lambda: wall_s)
    recorder.arrived(Request("a", arrival_time=100.0), 50.0)
    assert recorder.window(0, 51.0)["open"][0][1] == pytest.approx(50.0 - delay_s)


def test_a_busy_engine_saw_no_request_before_its_last_step() -> None:
    recorder = Recorder(4, lambda: 100.0)
    recorder.arrived(Request("a"), 50.0)
    recorder.scheduled(step({"a": 0}, {"a": 7}), 50.0, 0.1)
    recorder.arrived(Request("b", arrival_time=97.5), 53.0)
    recorder.arrived(Request("c", arrival_time=90.0), 53.0)
    arrivals = [row[1] for row in recorder.window(0, 53.0)["open"]]
    assert arrivals == [50.0, 50.5, 50.0]


def test_what_leaves_unseen_is_swept_out() -> None:
    recorder = Recorder(4, lambda: 100.0)
    requests = [Request(f"r{index}") for index in range(100)]
    for request in requests:
        recorder.arrived(request, 1.0)
    known = {request.request_id: request for request in requests[:10]}
    requests[20].reason = "abort"
    recorder.sweep(known, 2.0)
    answer = recorder.window(0, 3.0)
    assert [row[0] for row in answer["open"]] == list(known)
    assert [row[0] for row in answer["finished"]] == ["r20"]
    assert answer["counters"]["aborted"] == 1
