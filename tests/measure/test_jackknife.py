import math

import numpy as np
import pytest

from ewsjf_env.measure.jackknife import GROUPS, jackknife_se, without_groups
from ewsjf_env.measure.objective import relative_objective
from ewsjf_env.measure.records import (
    MetricSettings,
    RequestRecord,
    WindowCounters,
    WindowMetrics,
    aggregate,
)


def window(waits: np.ndarray) -> tuple[WindowMetrics, list[RequestRecord]]:
    arrivals = np.arange(len(waits)) * (60.0 / len(waits))
    records = [
        RequestRecord(str(i), arrival, 100, 8, first_token_s=arrival + wait)
        for i, (arrival, wait) in enumerate(zip(arrivals.tolist(), waits.tolist(), strict=True))
    ]
    counters = WindowCounters(output_tokens=6_000, prefill_tokens=100 * len(waits))
    return aggregate(records, counters, 0.0, 60.0, lambda b: 0.1), records


def parts(waits: np.ndarray) -> tuple[WindowMetrics, ...]:
    metrics, records = window(waits)
    return without_groups(metrics, records, 0.0, 60.0, lambda b: 0.1, MetricSettings())


def test_rates_count_as_known() -> None:
    found = parts(np.full(80, 0.5))
    assert len(found) == GROUPS
    assert {part.output_tokens_per_s for part in found} == {100.0}
    assert {part.arrivals for part in found} == {70}


def test_requests_that_were_over_before_the_window_are_in_no_group() -> None:
    metrics, records = window(np.full(16, 0.5))
    old = RequestRecord("old", -9.0, 100, 8, first_token_s=-8.0, finish_s=-7.0)
    found = without_groups(metrics, [old] * 8 + records, 0.0, 60.0, lambda b: 0.1, MetricSettings())
    assert found == parts(np.full(16, 0.5))


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
