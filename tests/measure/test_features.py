import dataclasses
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ewsjf_env.config import ConfigError
from ewsjf_env.measure.features import FEATURES, Feature, feature_names, feature_table, observe
from ewsjf_env.measure.records import WindowMetrics
from ewsjf_env.measure.traffic import TrafficStatistics
from ewsjf_env.policy.policy import parse_policy
from tests.measure.window_metrics import PLAIN, metrics

SPACE = parse_policy("ewsjf").space.tunable()
VALUES = parse_policy("ewsjf").parameters
TRAFFIC = TrafficStatistics(
    arrival_rate_per_s=5.0,
    burst_index=1.0,
    prompt_tokens_mean=700.0,
    count_shares=(0.5, 0.25, 0.0, 0.0, 0.25, 0.0),
    work_shares=(0.1, 0.1, 0.0, 0.0, 0.8, 0.0),
    queue_depth=100,
    oldest_age_s=12.0,
    running=32,
)


def named(window: WindowMetrics, traffic: TrafficStatistics) -> dict[str, float]:
    vector = observe(window, traffic, SPACE, VALUES)
    return dict(zip(feature_names(SPACE), vector.tolist(), strict=True))


def test_the_vector_has_a_name_for_every_entry() -> None:
    vector = observe(PLAIN, TRAFFIC, SPACE, VALUES)
    names = feature_names(SPACE)
    assert vector.shape == (len(names),) == (len(FEATURES) + len(SPACE),)
    assert vector.dtype == np.float32
    assert len(set(names)) == len(names)
    assert np.all(np.abs(vector) <= 1.0)


def test_scales_by_hand() -> None:
    seen = named(PLAIN, TRAFFIC)
    assert seen["queue_depth"] == pytest.approx(0.0)  # 100 is half-way from 1 to 10000 in logs
    assert seen["running"] == pytest.approx(0.0)
    assert seen["kv_usage_mean"] == 0.0
    assert seen["overdue_share"] == pytest.approx(-0.8)
    assert seen["count_share_upto_128"] == 0.0
    assert seen["work_share_upto_4096"] == pytest.approx(0.6)
    assert seen["work_share_over_4096"] == -1.0
    assert seen["finished_per_arrival"] == pytest.approx(40 / 50 - 1.0)
    expected = 2 * math.log(1.0 / 0.01) / math.log(3600 / 0.01) - 1
    assert seen["ttft_short_p95_s"] == pytest.approx(expected)
    assert seen["parameter_overdue_share"] == -1.0
    assert [seen[f"parameter_{n}"] for n in SPACE.names] == pytest.approx(
        SPACE.to_box({n: VALUES[n] for n in SPACE.names}).tolist()
    )


def test_what_does_not_exist_is_at_the_low_end() -> None:
    empty = metrics(ttft_short_p95_s=math.nan, kv_usage_mean=math.nan, arrivals=0, finished=0)
    traffic = dataclasses.replace(TRAFFIC, burst_index=math.nan, count_shares=(math.nan,) * 6)
    seen = named(empty, traffic)
    for name in ("ttft_short_p95_s", "kv_usage_mean", "burst_index", "finished_per_arrival"):
        assert seen[name] == -1.0
    assert seen["count_share_upto_512"] == -1.0


@given(st.sampled_from(FEATURES), st.floats(), st.floats())
def test_scales_are_bounded_and_never_descend(feature: Feature, a: float, b: float) -> None:
    for value in (a, b):
        assert -1.0 <= feature(value) <= 1.0
    if a <= b:
        assert feature(a) <= feature(b) + 1e-12
    assert (feature(feature.low), feature(feature.high)) == (-1.0, 1.0)


def test_the_table_can_be_written_and_read_back() -> None:
    table = json.loads(json.dumps(feature_table()))
    assert tuple(Feature(**row) for row in table) == FEATURES


@pytest.mark.parametrize(("low", "high", "scale"), [(1.0, 1.0, "linear"), (0.0, 1.0, "log")])
def test_scales_without_a_span_are_refused(low: float, high: float, scale: str) -> None:
    with pytest.raises(ConfigError, match="bounds"):
        Feature("x", low, high, scale)  # type: ignore[arg-type]
