import json
import math

import pytest

from ewsjf_env.measure.requests import RequestRecord, Requests
from ewsjf_env.measure.traffic import (
    QueueStatistics,
    TrafficStatistics,
    queue_statistics,
    traffic_statistics,
)


def cost_s(prompt_tokens: int) -> float:
    return prompt_tokens / 1000.0


def record(
    arrival_s: float, prompt: int, first_s: float | None = None, finish_s: float | None = None
) -> RequestRecord:
    return RequestRecord("r", arrival_s, prompt, 10, first_token_s=first_s, finish_s=finish_s)


def traffic(records: list[RequestRecord], start_s: float, end_s: float) -> TrafficStatistics:
    return traffic_statistics(Requests.of(records, cost_s, start_s, end_s), start_s, end_s)


def queues(prompts: list[int], cuts: tuple[int, ...]) -> QueueStatistics:
    old = record(0.0, 9000)  # waits since before the window: no arrival
    records = [old, *(record(1.0, prompt) for prompt in prompts)]
    return queue_statistics(Requests.of(records, cost_s, 1.0, 2.0), cuts, 1.0)


RECORDS = [
    record(1.0, 100, 2.0, 3.0),  # over before the window
    record(5.0, 600, None),  # still waiting: the oldest
    record(10.0, 100, 10.5, 11.0),
    record(10.2, 100, 10.6, 25.0),  # finishes later: running
    record(12.0, 300, 21.0, 22.0),  # first token later: waiting
    record(13.5, 3000, 14.0, None),  # running
    record(20.0, 100, None),  # arrives later
]


def test_a_window_by_hand() -> None:
    found = traffic(RECORDS, 10.0, 20.0)
    assert found.arrival_rate_per_s == 0.4
    assert found.prompt_tokens_mean == 875.0
    assert found.count_shares == (0.5, 0.25, 0.0, 0.0, 0.25, 0.0)
    assert found.work_shares == pytest.approx((200 / 3500, 300 / 3500, 0, 0, 3000 / 3500, 0))
    assert found.queue_depth == 2
    assert found.oldest_age_s == 15.0
    assert found.running == 2
    # counts per second 2 0 1 1 0 0 0 0 0 0: mean 0.4, variance 0.6 - 0.16
    assert found.burst_index == pytest.approx(0.44 / 0.4)


def test_an_edge_belongs_to_the_shorter_class() -> None:
    found = traffic([record(0.0, 128), record(0.0, 129)], 0.0, 1.0)
    assert found.count_shares == (0.5, 0.5, 0.0, 0.0, 0.0, 0.0)


def test_an_empty_window_has_no_shares() -> None:
    found = traffic([], 0.0, 10.0)
    assert found.arrival_rate_per_s == found.oldest_age_s == found.queue_depth == 0
    assert math.isnan(found.burst_index)
    assert all(math.isnan(share) for share in found.count_shares)
    data = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert data["burst_index"] is None
    assert data["work_shares"] == [None] * 6


def test_a_last_partial_second_is_not_a_lull() -> None:
    steady = [record(t + 0.5, 10) for t in range(10)]
    assert traffic(steady, 0.0, 9.9).burst_index == 0.0
    assert math.isnan(traffic(steady, 0.0, 1.9).burst_index)


def test_queues_by_hand() -> None:
    found = queues([100, 100, 200, 400, 1000], (150, 500))
    assert found.queues == 3
    assert found.length_cv == pytest.approx(2 / 5 * (100 / 300))  # only 200, 400 differ
    work = [0.2, 0.6, 1.0]
    spread = math.sqrt(sum((w - 0.6) ** 2 for w in work) / 3)
    assert found.work_cv == pytest.approx(spread / 0.6)


def test_a_cut_belongs_to_the_queue_below() -> None:
    assert queues([150, 150], (150,)).work_cv == pytest.approx(1.0)
    assert queues([150, 151], (150,)).length_cv == 0.0


def test_no_arrivals_no_spread() -> None:
    assert queues([], (150,)).length_cv == 0.0
    assert queues([], (150,)).work_cv == 0.0
