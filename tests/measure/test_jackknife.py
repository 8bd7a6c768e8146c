import math

import numpy as np
import pytest

from ewsjf_env.measure.jackknife import GROUPS, jackknife_se, without_groups
from ewsjf_env.measure.objective import METRIC_NAMES, relative_objective
from ewsjf_env.measure.records import (
    MetricSettings,
    PartMetrics,
    RequestRecord,
    WindowCounters,
    WindowMetrics,
    aggregate,
)
from ewsjf_env.measure.requests import Requests


def window(waits: np.ndarray) -> tuple[WindowMetrics, list[RequestRecord]]:
    arrivals = np.arange(len(waits)) * (60.0 / len(waits))
    records = [
        RequestRecord(str(i), arrival, 100, 8, first_token_s=arrival + wait)
        for i, (arrival, wait) in enumerate(zip(arrivals.tolist(), waits.tolist(), strict=True))
    ]
    counters = WindowCounters(output_tokens=6_000, prefill_tokens=100 * len(waits))
    return aggregate(records, counters, 0.0, 60.0, lambda b: 0.1), records


def parts_of(metrics: WindowMetrics, records: list[RequestRecord]) -> tuple[PartMetrics, ...]:
    requests = Requests.of(records, lambda b: 0.1, 0.0, 60.0)
    return without_groups(metrics, requests, 0.0, 60.0, MetricSettings())


def parts(waits: np.ndarray) -> tuple[PartMetrics, ...]:
    return parts_of(*window(waits))


def values(found: tuple[PartMetrics, ...]) -> list[list[float]]:
    return [[getattr(part, name) for name in METRIC_NAMES] for part in found]


def test_rates_count_as_known() -> None:
    found = parts(np.full(80, 0.5))
    assert len(found) == GROUPS
    assert {part.output_tokens_per_s for part in found} == {100.0}
    assert {part.arrivals for part in found} == {70}


def test_requests_that_were_over_before_the_window_are_in_no_group() -> None:
    metrics, records = window(np.full(16, 0.5))
    old = RequestRecord("old", -9.0, 100, 8, first_token_s=-8.0, finish_s=-7.0)
    found = parts_of(metrics, [old] * 8 + records)
    np.testing.assert_array_equal(values(found), values(parts(np.full(16, 0.5))))


def test_a_part_is_the_window_without_its_requests() -> None:
    waits = np.random.default_rng(1).lognormal(0.0, 1.0, 30)
    metrics, records = window(waits)
    for left_out, part in enumerate(parts_of(metrics, records)):
        kept = [r for place, r in enumerate(records) if place % GROUPS != left_out]
        wanted = aggregate(kept, WindowCounters(0, 0), 0.0, 60.0, lambda b: 0.1)
        assert (part.ttft_p95_s, part.slowdown_p99) == (wanted.ttft_p95_s, wanted.slowdown_p99)
        assert part.output_tokens_per_s == metrics.output_tokens_per_s
        with pytest.raises(AttributeError):
            _ = part.nothing


def test_the_standard_error_is_that_of_repeated_windows() -> None:
    # Paired windows: the same waits, shortened by a random factor of each request.
    random = np.random.default_rng(0)
    estimates, rewards = [], []
    for _ in range(60):
        base = random.lognormal(0.0, 1.0, 400)
        other = base * random.lognormal(-0.2, 0.3, 400)
        rewards.append(relative_objective(window(other)[0], window(base)[0]).total)
        pairs = zip(parts(other), parts(base), strict=True)
        estimates.append(jackknife_se([relative_objective(a, b).total for a, b in pairs]))
    true = float(np.std(rewards, ddof=1))
    assert 0.6 * true < math.sqrt(np.mean(np.square(estimates))) < 1.7 * true


def test_what_does_not_vary_is_exact() -> None:
    assert jackknife_se([0.3] * 8) == pytest.approx(0.0)
    assert jackknife_se([]) == jackknife_se([1.0]) == 0.0
