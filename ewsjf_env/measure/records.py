"""The metrics of a window, each declared once: how it is measured, and how it is shown.

This is the only place of the project where latencies are judged.  Requests that have not
finished count, see `sample`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, dataclass
from typing import Any

from ewsjf_env.measure.requests import RequestRecord as RequestRecord
from ewsjf_env.measure.requests import Requests as Requests
from ewsjf_env.measure.sample import MetricSettings as MetricSettings
from ewsjf_env.measure.sample import Sample, jain
from ewsjf_env.measure.sample import WindowCounters as WindowCounters

Measure = Callable[[Sample], "float | int | None"]


def metric(
    measure: Measure,
    tag: str = "",
    *,
    scale: float = 1.0,
    counted: bool = False,
    beside: bool = False,
    column: str = "",
    digits: int = 2,
    larger_is_better: bool = False,
    default: Any = math.nan,
) -> Any:
    """A field of `WindowMetrics`: what it is, and how it is shown; nothing else names it.

    Args:
        measure: its value in a window.
        tag: its name in TensorBoard and progress.csv, see `tags`; "" for none.
        scale: what the number is multiplied by when it is shown.
        counted: it comes from the engine's counters, not from requests.
        beside: the reference's value is shown, too.
        column: its title in the main table of an evaluation, with `digits` after the point;
            "" for none.
        digits: see `column`.
        larger_is_better: what counts as the best of a column.
        default: where it is not known.
    """
    shown = {"tag": tag, "scale": scale, "one_of": (), "is_set": False}
    own = {"measure": measure, "counted": counted, "beside": beside}
    own |= {"column": column, "digits": digits, "larger_is_better": larger_is_better}
    field: Any = dataclasses.field(default=default, metadata=shown | own)
    return field


def _latency(measure: Measure, word: str, **how: Any) -> Any:
    """A metric in seconds, shown in ms."""
    return metric(measure, f"latency/{word}_ms", scale=1000.0, **how)


@dataclass(frozen=True, kw_only=True)
class WindowMetrics:
    """Metrics of one window; NaN where a class has no request.  Units are in the names.

    Rates divide by `window_s`.  `goodput_requests_per_s` counts requests that finished inside
    the window within their service levels; `outstanding` are those that had not ended at its end.
    `aborted` counts requests that were given up in the window, by their clients or by a failure,
    `rejected` those that the server refused to take in; see `sample` for how they are judged.
    `exact` is False when percentiles come from histogram buckets.

    A new metric is one field here: it is measured by every engine, and stands in `info`, in
    windows.jsonl, TensorBoard, progress.csv and the summaries of evaluations; objectives and
    constraints may name it.
    """

    window_s: float = metric(lambda w: w.window_s, default=MISSING)
    arrivals: int = metric(lambda w: w.arrivals, default=MISSING)
    finished: int = metric(lambda w: w.finished, default=MISSING)
    output_tokens_per_s: float = metric(
        lambda w: w.counters.output_tokens / w.window_s,
        "throughput/output_tokens_per_s",
        counted=True,
        beside=True,
        column="out tok/s",
        larger_is_better=True,
        digits=0,
    )
    total_tokens_per_s: float = metric(
        lambda w: (w.counters.output_tokens + w.counters.prefill_tokens) / w.window_s,
        "throughput/total_tokens_per_s",
        counted=True,
    )
    requests_per_s: float = metric(
        lambda w: w.finished / w.window_s, "throughput/requests_per_s", counted=True
    )
    goodput_requests_per_s: float = metric(
        lambda w: w.good / w.window_s,
        "goodput/requests_per_s",
        counted=True,
        column="goodput req/s",
        larger_is_better=True,
    )
    ttft_mean_s: float = _latency(lambda w: w.ttft.mean, "ttft_mean", column="TTFT mean s")
    ttft_p50_s: float = _latency(lambda w: w.ttft.percentile(50), "ttft_p50")
    ttft_p95_s: float = _latency(lambda w: w.ttft.percentile(95), "ttft_p95")
    ttft_p99_s: float = _latency(lambda w: w.ttft.percentile(99), "ttft_p99", column="p99 s")
    ttft_short_mean_s: float = _latency(
        lambda w: w.ttft_short.mean, "ttft_short_mean", column="short mean s"
    )
    ttft_short_p95_s: float = _latency(
        lambda w: w.ttft_short.percentile(95),
        "ttft_short_p95",
        beside=True,
        column="short p95 s",
    )
    ttft_short_p99_s: float = _latency(lambda w: w.ttft_short.percentile(99), "ttft_short_p99")
    ttft_long_mean_s: float = _latency(
        lambda w: w.ttft_long.mean, "ttft_long_mean", column="long mean s"
    )
    ttft_long_p95_s: float = _latency(
        lambda w: w.ttft_long.percentile(95), "ttft_long_p95", beside=True, column="long p95 s"
    )
    ttft_long_p99_s: float = _latency(lambda w: w.ttft_long.percentile(99), "ttft_long_p99")
    wait_max_s: float = metric(
        lambda w: w.ttft.largest,
        "queue/wait_max_s",
        column="max wait s",
        digits=1,
    )
    tpot_p95_s: float = _latency(
        lambda w: w.tpot.percentile(95), "tpot_p95", column="TPOT p95 s", digits=3
    )
    e2e_p95_s: float = _latency(lambda w: w.e2e.percentile(95), "e2el_p95")
    slowdown_mean: float = metric(lambda w: w.slowdown.mean, "latency/slowdown_mean")
    slowdown_p99: float = metric(
        lambda w: w.slowdown.percentile(99),
        "latency/slowdown_p99",
        column="slowdown p99",
        digits=1,
    )
    slowdown_long_p95: float = metric(
        lambda w: w.slowdown_long.percentile(95), "latency/slowdown_long_p95"
    )
    jain_slowdown: float = metric(
        lambda w: jain(w.class_slowdowns),
        "queue/jain_slowdown",
        column="Jain",
        larger_is_better=True,
    )
    outstanding: int = metric(
        lambda w: w.unfinished,
        "queue/outstanding",
        default=MISSING,
        column="unfinished",
        digits=0,
    )
    aborted: int = metric(lambda w: w.aborted, "queue/aborted", default=0)
    rejected: int = metric(lambda w: w.rejected, "queue/rejected", default=0)
    preemptions: int = metric(
        lambda w: w.counters.preemptions, "engine/preemptions", counted=True, default=MISSING
    )
    kv_usage_mean: float = metric(
        lambda w: w.counters.kv_usage_mean, "engine/kv_cache_usage", counted=True
    )
    prefix_hit_rate: float = metric(
        lambda w: w.counters.prefix_hit_rate, "engine/prefix_hit_rate", counted=True
    )
    overdue_share: float = metric(
        lambda w: w.overdue_share,
        "queue/overdue_share",
    )
    queues: int = metric(
        lambda w: w.counters.queues, "partition/queues", counted=True, default=MISSING
    )
    scheduler_us_per_step: float | None = metric(
        lambda w: w.counters.scheduler_us_per_step, "engine/scheduler_us_per_step", default=None
    )
    exact: bool = True

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; NaN becomes None."""
        # NaN alone is not equal to itself; all values are numbers.
        return {name: value if value == value else None for name, value in vars(self).items()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> WindowMetrics:
        """Inverse of `to_dict`."""
        kept = {"scheduler_us_per_step"}
        values: dict[str, Any] = {
            k: math.nan if v is None and k not in kept else v for k, v in data.items()
        }
        return cls(**values)


_MEASURES: dict[str, Measure] = {
    field.name: field.metadata["measure"]
    for field in dataclasses.fields(WindowMetrics)
    if "measure" in field.metadata
}
_COUNTED = tuple(f.name for f in dataclasses.fields(WindowMetrics) if f.metadata.get("counted"))


def measure_window(
    requests: Requests,
    counters: WindowCounters,
    start_s: float,
    end_s: float,
    settings: MetricSettings | None = None,
) -> WindowMetrics:
    """Metrics of the window [start_s, end_s).

    TTFT statistics run over every request that waited inside the window: those that arrived
    in it, and earlier ones that had no first token at `start_s`.

    Args:
        requests: that the engine had in the window; events after `end_s` are ignored.
        counters: what the engine counted inside the window.
        start_s: start of the window in engine seconds.
        end_s: its end, > start_s.
        settings: class limits and service levels.

    Raises:
        ValueError: when the window is empty in time.
    """
    if not end_s > start_s:
        raise ValueError(f"window: end {end_s!r} is not after start {start_s!r}")
    sample = Sample(requests, counters, start_s, end_s, settings or MetricSettings())
    measured: dict[str, Any] = {name: measure(sample) for name, measure in _MEASURES.items()}
    return WindowMetrics(**measured)


def aggregate(
    records: Iterable[RequestRecord],
    counters: WindowCounters,
    start_s: float,
    end_s: float,
    prefill_cost_s: Callable[[int], float],
    settings: MetricSettings | None = None,
) -> WindowMetrics:
    """Metrics of the window [start_s, end_s) from records, see `measure_window`.

    Args:
        records: any superset of the window's requests.
        counters: what the engine counted inside the window.
        start_s: start of the window in engine seconds.
        end_s: its end, > start_s.
        prefill_cost_s: C(b): prompt tokens -> seconds alone on the machine, > 0.
        settings: class limits and service levels.

    Raises:
        ValueError: when the window is empty in time.
    """
    requests = Requests.of(records, prefill_cost_s, start_s, end_s)
    return measure_window(requests, counters, start_s, end_s, settings)


class PartMetrics:
    """Metrics of a window without some of its requests, each measured when it is asked for.

    Rates come from the engine's counters, not from requests: they are those of the whole window.
    """

    def __init__(self, whole: WindowMetrics, sample: Sample) -> None:
        """Nothing is measured yet.

        Args:
            whole: metrics of the window with all its requests.
            sample: of the requests that are kept.
        """
        self._sample = sample
        for name in _COUNTED:
            setattr(self, name, getattr(whole, name))

    def __getattr__(self, name: str) -> Any:
        """A metric that was not asked for before."""
        if name not in _MEASURES:
            raise AttributeError(name)
        value = _MEASURES[name](self._sample)
        setattr(self, name, value)
        return value
