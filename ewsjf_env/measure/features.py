"""Features of a window, as a tuner sees them: a vector in [-1, 1].

Every feature has a declared, fixed scale: a value maps linearly (or in its logarithm) from
[low, high] to [-1, 1] and is clipped there.  There is no running normalisation, so the same
window always gives the same vector, and a saved policy carries all that it needs in
`feature_table`.  A value that does not exist (NaN: a class without requests) maps to -1.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ewsjf_env.config import ConfigError
from ewsjf_env.measure.records import WindowMetrics
from ewsjf_env.measure.traffic import LENGTH_EDGES, TrafficStatistics
from ewsjf_env.parameters import ParameterSpace


@dataclass(frozen=True)
class Feature:
    """One named observation and its scale.

    Attributes:
        name: as in `WindowMetrics` or `TrafficStatistics`, with its unit.
        low, high: values that map to -1 and to 1.
        scale: `linear`, or `log` (low > 0; values below low map to -1).
    """

    name: str
    low: float
    high: float
    scale: Literal["linear", "log"] = "linear"

    def __post_init__(self) -> None:
        if not self.low < self.high or (self.scale == "log" and self.low <= 0):
            raise ConfigError(f"feature {self.name!r}: bounds [{self.low}, {self.high}]")

    def __call__(self, value: float) -> float:
        """Map a value to [-1, 1]."""
        if math.isnan(value) or value <= self.low:
            return -1.0
        if value >= self.high:
            return 1.0
        if self.scale == "log":
            return 2.0 * math.log(value / self.low) / math.log(self.high / self.low) - 1.0
        return 2.0 * (value - self.low) / (self.high - self.low) - 1.0


def _share_features(kind: str) -> tuple[Feature, ...]:
    names = [f"upto_{edge}" for edge in LENGTH_EDGES] + [f"over_{LENGTH_EDGES[-1]}"]
    return tuple(Feature(f"{kind}_share_{name}", 0.0, 1.0) for name in names)


_SHARES = {kind: _share_features(kind) for kind in ("count", "work")}

_TTFT_NAMES = (
    "ttft_p50_s",
    "ttft_short_mean_s",
    "ttft_short_p95_s",
    "ttft_long_mean_s",
    "ttft_long_p95_s",
)

FEATURES: tuple[Feature, ...] = (
    Feature("arrival_rate_per_s", 0.05, 200.0, "log"),
    Feature("burst_index", 0.1, 30.0, "log"),
    Feature("prompt_tokens_mean", 16.0, 65_536.0, "log"),
    *_SHARES["count"],
    *_SHARES["work"],
    Feature("queue_depth", 1.0, 10_000.0, "log"),
    Feature("oldest_age_s", 0.05, 3600.0, "log"),
    Feature("running", 1.0, 1024.0, "log"),
    Feature("kv_usage_mean", 0.0, 1.0),
    *(Feature(name, 0.01, 3600.0, "log") for name in _TTFT_NAMES),
    Feature("slowdown_long_p95", 1.0, 10_000.0, "log"),
    Feature("overdue_share", 0.0, 1.0),
    Feature("wait_max_s", 0.05, 3600.0, "log"),
    Feature("output_tokens_per_s", 10.0, 100_000.0, "log"),
    Feature("finished_per_arrival", 0.0, 2.0),
    Feature("queues", 1.0, 32.0, "log"),
)
"""All features of a window, in the order of the vector; the parameters in force follow."""

_FROM_TRAFFIC: Mapping[str, Callable[[TrafficStatistics], float]] = {
    "arrival_rate_per_s": lambda t: t.arrival_rate_per_s,
    "burst_index": lambda t: t.burst_index,
    "prompt_tokens_mean": lambda t: t.prompt_tokens_mean,
    "queue_depth": lambda t: float(t.queue_depth),
    "oldest_age_s": lambda t: t.oldest_age_s,
    "running": lambda t: float(t.running),
}


def feature_names(space: ParameterSpace) -> tuple[str, ...]:
    """Names of the vector's entries when the parameters of `space` are tuned."""
    return (*(f.name for f in FEATURES), *(f"parameter_{name}" for name in space.names))


def feature_table() -> list[dict[str, Any]]:
    """Names and scales of `FEATURES` as plain values, for a policy file."""
    return [dataclasses.asdict(feature) for feature in FEATURES]


def observe(
    metrics: WindowMetrics,
    traffic: TrafficStatistics,
    space: ParameterSpace,
    values: Mapping[str, object],
) -> NDArray[np.float32]:
    """The observation of a window, float32 of shape (len(FEATURES) + len(space),) in [-1, 1].

    Args:
        metrics: of the window.
        traffic: of the same window.
        space: the tuned parameters.
        values: what is in force, at least all of `space`.
    """
    raw = _raw_values(metrics, traffic)
    scaled = np.array([feature(raw[feature.name]) for feature in FEATURES], dtype=np.float32)
    in_force = space.to_box({name: values[name] for name in space.names})
    return np.concatenate([scaled, in_force])


def _raw_values(metrics: WindowMetrics, traffic: TrafficStatistics) -> dict[str, float]:
    raw = {name: read(traffic) for name, read in _FROM_TRAFFIC.items()}
    for kind, shares in (("count", traffic.count_shares), ("work", traffic.work_shares)):
        raw.update(zip((f.name for f in _SHARES[kind]), shares, strict=True))
    raw["finished_per_arrival"] = metrics.finished / max(1, metrics.arrivals)
    for feature in FEATURES:
        if feature.name not in raw:
            raw[feature.name] = float(getattr(metrics, feature.name))
    return raw
