import json
import math
from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ewsjf_env.config import ConfigError
from ewsjf_env.measure.buckets import bucket_table
from ewsjf_env.measure.records import (
    MetricSettings,
    RequestRecord,
    WindowCounters,
    WindowMetrics,
    aggregate,
    measure_window,
)
from ewsjf_env.measure.requests import Requests
from ewsjf_env.measure.sample import Values, jain
from ewsjf_env.measure.traffic import traffic_statistics

COUNTERS = WindowCounters(output_tokens=30, prefill_tokens=70, preemptions=2, queues=3)
# Arrival, prompt, first token, finish; outputs of 11 tokens.  The window is [10, 20).
SHORT = RequestRecord("a", 10.0, 100, 11, generated_tokens=11, first_token_s=12.0, finish_s=14.0)
MIDDLE = RequestRecord("b", 12.0, 600, 11, generated_tokens=4, first_token_s=15.0)
LONG = RequestRecord("c", 14.0, 2000, 11)
RECORDS = [SHORT, MIDDLE, LONG]


def cost(prompt_tokens: int) -> float:
    return prompt_tokens / 1000.0


def window(records: list[RequestRecord], start_s: float = 10.0, end_s: float = 20.0):
    return aggregate(records, COUNTERS, start_s, end_s, cost)


def test_hand_computed_window():
    m = window(RECORDS)
    assert (m.window_s, m.arrivals, m.finished, m.outstanding) == (10.0, 3, 1, 2)
    assert (m.output_tokens_per_s, m.total_tokens_per_s, m.requests_per_s) == (3.0, 10.0, 0.1)
    # TTFT: 2 (served), 3 (served), 6 (unserved: its age at 20)
    assert m.ttft_mean_s == pytest.approx(11 / 3)
    assert m.ttft_p50_s == 3.0
    assert m.ttft_p95_s == pytest.approx(3 + 0.9 * 3)
    assert (m.ttft_short_mean_s, m.ttft_long_mean_s, m.ttft_long_p95_s) == (2.0, 6.0, 6.0)
    assert m.wait_max_s == 6.0
    # slowdown: 2 / 0.1, 3 / 0.6, 6 / 2
    assert m.slowdown_mean == pytest.approx((20 + 5 + 3) / 3)
    assert m.slowdown_long_p95 == pytest.approx(3.0)
    assert m.jain_slowdown == pytest.approx(28**2 / (3 * (400 + 25 + 9)))
    assert m.tpot_p95_s == pytest.approx(0.2)  # (14 - 12) / 10
    assert m.goodput_requests_per_s == pytest.approx(0.1)
    # E2E: 4 finished, ages 8 and 6
    assert m.e2e_p95_s == pytest.approx(6 + 0.9 * 2)
    assert (m.preemptions, m.queues, m.scheduler_us_per_step) == (2, 3, None)


def test_unfinished_requests_make_a_starving_policy_look_bad():
    served = window([SHORT, replace(LONG, first_token_s=14.5)])
    starved = window([SHORT, LONG])
    assert starved.ttft_long_mean_s == 6.0
    assert served.ttft_long_mean_s == 0.5


def test_events_after_the_window_are_not_seen():
    later = replace(LONG, first_token_s=25.0, finish_s=30.0, generated_tokens=11)
    assert window([SHORT, MIDDLE, later]).to_dict() == window(RECORDS).to_dict()


def test_carry_over_counts_in_both_windows():
    # arrives in the first window, gets its first token in the second
    waiting = RequestRecord("d", 8.0, 100, 11, 0, 11, 13.0, 15.0)
    first, second = window([waiting], 0.0, 10.0), window([waiting])
    assert (first.arrivals, second.arrivals) == (1, 0)
    assert (first.ttft_mean_s, second.ttft_mean_s) == (2.0, 5.0)
    assert (first.finished, first.outstanding) == (0, 1)
    assert (second.finished, second.outstanding) == (1, 0)


def test_a_request_that_only_decodes_is_in_no_ttft_of_the_window():
    decoding = RequestRecord("d", 8.0, 100, 11, 0, 11, 9.0, 15.0)
    m = window([decoding])
    assert math.isnan(m.ttft_mean_s)
    assert m.finished == 1
    assert m.e2e_p95_s == 7.0


def test_windows_are_half_open():
    at_end = RequestRecord("e", 20.0, 100, 11)
    m = window([at_end, replace(SHORT, finish_s=20.0), replace(MIDDLE, first_token_s=20.0)])
    assert m.arrivals == 2
    assert m.finished == 0
    assert m.outstanding == 2
    following = window([at_end, replace(SHORT, finish_s=20.0)], 20.0, 30.0)
    assert (following.arrivals, following.finished) == (1, 1)
    # a first token at the very start belongs to this window
    assert window([RequestRecord("f", 5.0, 100, 11, 0, 1, 10.0)]).ttft_mean_s == 5.0


def test_goodput_needs_both_service_levels():
    late = replace(SHORT, first_token_s=15.5, finish_s=16.0)  # TTFT 5.5 > 5
    slow = replace(SHORT, finish_s=14.5)  # TPOT 0.25 > 0.2
    one_token = replace(SHORT, generated_tokens=1, finish_s=12.0)
    assert window([late]).goodput_requests_per_s == 0.0
    assert window([slow]).goodput_requests_per_s == 0.0
    assert window([one_token]).goodput_requests_per_s == pytest.approx(0.1)
    assert math.isnan(window([one_token]).tpot_p95_s)


def test_class_limits_and_overdue():
    # 512 is short, 1024 is in the middle, 1025 is long
    records = [RequestRecord(str(b), 10.0, b, 1) for b in (512, 513, 1024, 1025)]
    m = aggregate(records, COUNTERS, 10.0, 50.0, cost)
    assert m.ttft_short_mean_s == 40.0
    assert m.slowdown_long_p95 == pytest.approx(40.0 / 1.025)
    # overdue after max(10, 60 C): 30.7, 30.8, 61.4 and 61.5 s
    assert m.overdue_share == 0.5


def test_empty_window():
    m = window([])
    assert (m.arrivals, m.finished, m.outstanding) == (0, 0, 0)
    assert math.isnan(m.ttft_mean_s)
    assert math.isnan(m.jain_slowdown)
    with pytest.raises(ValueError, match="not after"):
        window([], 10.0, 10.0)


def test_round_trip_through_json():
    m = window([SHORT])
    data = json.loads(json.dumps(m.to_dict(), allow_nan=False))
    assert list(data) == [f.name for f in fields(WindowMetrics)]
    assert data["ttft_long_mean_s"] is None
    back = WindowMetrics.from_dict(data)
    assert math.isnan(back.ttft_long_mean_s)
    assert back.scheduler_us_per_step is None
    assert back.to_dict() == m.to_dict()


def buckets(records: list[RequestRecord], edges: tuple[int, ...], end_s: float):
    return bucket_table(Requests.of(records, cost, 0.0, end_s), edges, end_s)


def test_bucket_table():
    first, second, third = buckets(RECORDS, (512, 1024), 20.0)
    assert [(r.low_tokens, r.high_tokens) for r in (first, second, third)] == [
        (0, 512),
        (512, 1024),
        (1024, None),
    ]
    assert [(r.requests, r.unserved) for r in (first, second, third)] == [(1, 0), (1, 0), (1, 1)]
    assert [r.ttft_mean_s for r in (first, second, third)] == [2.0, 3.0, 6.0]
    assert third.slowdown_mean == pytest.approx(3.0)
    # a limit belongs to the lower bucket; what arrives at the end is not there yet
    rows = buckets([replace(SHORT, prompt_tokens=512)], (512, 1024), 20.0)
    assert [r.requests for r in rows] == [1, 0, 0]
    assert math.isnan(rows[1].ttft_mean_s)
    assert sum(r.requests for r in buckets(RECORDS, (512,), 14.0)) == 2


@given(
    st.lists(st.floats(0.0, 1e6, allow_subnormal=False), min_size=1, max_size=40),
    st.sampled_from([0, 1, 50, 90, 95, 99, 100]),
)
def test_a_percentile_is_that_of_numpy_to_the_last_digit(numbers: list[float], q: int):
    assert Values(np.array(numbers)).percentile(q) == np.percentile(numbers, q)


def test_columns_keep_the_requests_of_a_window_and_their_positions():
    over = replace(SHORT, arrival_s=1.0, first_token_s=2.0, finish_s=3.0)
    later = replace(SHORT, arrival_s=20.0)
    found = Requests.of([over, *RECORDS, later], cost, 10.0, 20.0)
    assert found.position.tolist() == [1, 2, 3]
    assert found.cost_s.tolist() == [0.1, 0.6, 2.0]
    assert np.isnan(found.finish_s).tolist() == [False, True, True]
    assert found.take(found.prompt_tokens > 500).position.tolist() == [2, 3]


def test_jain():
    assert jain([2.0, 2.0, 2.0]) == pytest.approx(1.0)
    assert jain([1.0, 0.0, 0.0, 0.0]) == pytest.approx(0.25)
    assert jain([1.0, 3.0]) == pytest.approx(16 / 20)
    assert math.isnan(jain([]))
    assert math.isnan(jain([0.0]))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"short_max_tokens": 0}, "short_max_tokens: 0"),
        ({"long_min_tokens": 100}, "would overlap"),
        ({"ttft_slo_s": math.nan}, "ttft_slo_s: nan"),
        ({"overdue_cost_factor": 0.0}, "overdue_cost_factor: 0.0"),
    ],
)
def test_settings_are_checked(change: dict[str, float], text: str):
    with pytest.raises(ConfigError, match=text):
        replace(MetricSettings(), **change)


def given_up(record: RequestRecord, at_s: float, tokens: int = 0) -> RequestRecord:
    return replace(record, finish_s=at_s, generated_tokens=tokens, outcome="aborted")


def test_an_abort_counts_with_its_age():
    """Dropped, or taken for a first token, it made a policy whose victims give up look better."""
    m = window([SHORT, MIDDLE, given_up(LONG, 18.0)])
    assert (m.arrivals, m.finished, m.outstanding, m.aborted, m.rejected) == (3, 1, 1, 1, 0)
    assert m.ttft_long_mean_s == 4.0  # and not 6, as if it had waited on
    assert m.wait_max_s == 4.0
    assert m.slowdown_long_p95 == pytest.approx(2.0)
    assert m.requests_per_s == pytest.approx(0.1)
    assert m.goodput_requests_per_s == pytest.approx(0.1)
    assert m.e2e_p95_s == pytest.approx(4 + 0.9 * 4)  # 4 finished, 4 given up, age 8
    # After its end it waits no more, and before it is one that waits.
    later = window([given_up(LONG, 18.0)], 20.0, 30.0)
    assert (later.aborted, later.outstanding) == (0, 0)
    assert math.isnan(later.ttft_mean_s)
    early = window([given_up(LONG, 25.0)])
    assert early.to_dict() == window([LONG]).to_dict()


def test_an_abort_while_tokens_come_is_not_finished_and_not_good():
    m = window([given_up(SHORT, 14.0, tokens=5)])
    assert (m.finished, m.aborted, m.goodput_requests_per_s) == (0, 1, 0.0)
    assert (m.ttft_mean_s, m.e2e_p95_s) == (2.0, 4.0)
    assert m.tpot_p95_s == pytest.approx(0.5)  # as fast as it was until then


def test_a_carried_over_abort_counts_where_it_waited():
    early = given_up(RequestRecord("d", 4.0, 2000, 11), 13.0)
    assert window([early]).ttft_long_mean_s == 9.0
    assert window([early], 0.0, 10.0).ttft_long_mean_s == 6.0


def test_a_rejection_is_counted_and_is_no_short_wait():
    rejected = replace(LONG, finish_s=14.001, outcome="rejected")
    m = window([SHORT, MIDDLE, rejected])
    assert (m.arrivals, m.finished, m.outstanding, m.aborted, m.rejected) == (3, 1, 1, 0, 1)
    without = window([SHORT, MIDDLE])
    for name in ("ttft_mean_s", "ttft_p95_s", "e2e_p95_s", "slowdown_mean", "overdue_share"):
        assert getattr(m, name) == getattr(without, name)
    assert math.isnan(m.ttft_long_mean_s)


def test_queues_do_not_hold_who_has_left():
    records = [
        SHORT,
        MIDDLE,
        given_up(LONG, 18.0),
        replace(LONG, finish_s=14.0, outcome="rejected"),
    ]
    requests = Requests.of(records, cost, 10.0, 20.0)
    found = traffic_statistics(requests, 10.0, 20.0)
    assert (found.queue_depth, found.running) == (0, 1)
    (row,) = bucket_table(requests.take(requests.prompt_tokens > 1000), [], 20.0)
    assert (row.requests, row.unserved, row.ttft_mean_s) == (1, 1, 4.0)


OUTCOME = st.sampled_from(["served", "aborted", "rejected"])


@given(st.lists(st.tuples(st.floats(0.0, 30.0), st.floats(0.0, 30.0), OUTCOME), max_size=20))
def test_every_request_of_a_window_has_one_outcome(ends):
    records = [
        RequestRecord(str(i), start, 100, 1, finish_s=start + wait, outcome=outcome)
        for i, (start, wait, outcome) in enumerate(sorted(ends))
    ]
    m = window(records)
    seen = Requests.of(records, cost, 10.0, 20.0)
    assert m.finished + m.aborted + m.rejected + m.outstanding == len(seen)


def test_records_without_outcomes_are_measured_as_before():
    requests = Requests.of(RECORDS, cost, 10.0, 20.0)
    assert requests.outcome is None
    marked = replace(requests, outcome=np.zeros(len(requests), np.int8))
    measured = [measure_window(r, COUNTERS, 10.0, 20.0) for r in (requests, marked)]
    assert measured[0].to_dict() == measured[1].to_dict()
