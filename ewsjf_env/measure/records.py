"""What happened to each request in a window, and the metrics measured on it.

This is the only place of the project where latencies are computed.  Requests that have not
finished count: a request without a first token enters every TTFT statistic with its age so
far, because a scheduler that starves long requests must not look excellent.

Words: TTFT is first token minus arrival; TPOT is (finish - first token) / (tokens - 1);
E2E is finish minus arrival; slowdown is TTFT / C(b), C(b) the prefill time alone on the
machine; short and long are classes by prompt tokens (`MetricSettings`).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ewsjf_env.config import ConfigError, Count, Positive, settings

Measure = Callable[["_Sample"], "float | int | None"]


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """One request as the engine saw it; times are seconds on the engine's own clock.

    `output_tokens` is what was asked for, `generated_tokens` what was produced so far;
    a time is None until the event has happened.
    """

    request_id: str
    arrival_s: float
    prompt_tokens: int
    output_tokens: int
    cached_tokens: int = 0
    generated_tokens: int = 0
    first_token_s: float | None = None
    finish_s: float | None = None
    preemptions: int = 0


@settings
class MetricSettings:
    """Class limits and service levels."""

    short_max_tokens: Count = 512
    """A request is short up to so many prompt tokens."""
    long_min_tokens: Count = 1024
    """A request is long above so many prompt tokens."""
    ttft_slo_s: Positive = 5.0
    """Time to first token up to which a finished request is good, seconds."""
    tpot_slo_s: Positive = 0.2
    """Time per further token up to which a finished request is good, seconds."""
    overdue_floor_s: Positive = 10.0
    """A wait below this is never overdue, seconds."""
    overdue_cost_factor: Positive = 60.0
    """A wait is overdue above so many times the request's own prefill cost C(b)."""

    def __post_init__(self) -> None:
        if self.long_min_tokens < self.short_max_tokens:
            raise ConfigError(
                f"long_min_tokens: {self.long_min_tokens} is below short_max_tokens "
                f"({self.short_max_tokens}): the classes would overlap"
            )


@dataclass(frozen=True)
class WindowCounters:
    """What the engine counts while a window runs and cannot be read off the records.

    `scheduler_us_per_step` is wall time and therefore not reproducible; it is None where a
    run must be repeatable to the bit.
    """

    output_tokens: int
    prefill_tokens: int
    preemptions: int = 0
    kv_usage_mean: float = math.nan
    prefix_hit_rate: float = math.nan
    queues: int = 1
    scheduler_us_per_step: float | None = None


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
    the window within their service levels; `outstanding` are those unfinished at its end.
    `exact` is False when percentiles come from histogram buckets.

    A new metric is one field here: it is measured by every engine, and stands in `info`, in
    windows.jsonl, TensorBoard, progress.csv and the summaries of evaluations; objectives and
    constraints may name it.
    """

    window_s: float = metric(lambda w: w.window_s, default=MISSING)
    arrivals: int = metric(lambda w: w.arrivals, default=MISSING)
    finished: int = metric(lambda w: len(w.finished), default=MISSING)
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
        lambda w: len(w.finished) / w.window_s, "throughput/requests_per_s", counted=True
    )
    goodput_requests_per_s: float = metric(
        lambda w: w.good / w.window_s,
        "goodput/requests_per_s",
        counted=True,
        column="goodput req/s",
        larger_is_better=True,
    )
    ttft_mean_s: float = _latency(lambda w: mean(w.ttft), "ttft_mean", column="TTFT mean s")
    ttft_p50_s: float = _latency(lambda w: percentile(w.ttft, 50), "ttft_p50")
    ttft_p95_s: float = _latency(lambda w: percentile(w.ttft, 95), "ttft_p95")
    ttft_p99_s: float = _latency(lambda w: percentile(w.ttft, 99), "ttft_p99", column="p99 s")
    ttft_short_mean_s: float = _latency(
        lambda w: mean(w.ttft[w.short]), "ttft_short_mean", column="short mean s"
    )
    ttft_short_p95_s: float = _latency(
        lambda w: percentile(w.ttft[w.short], 95),
        "ttft_short_p95",
        beside=True,
        column="short p95 s",
    )
    ttft_short_p99_s: float = _latency(lambda w: percentile(w.ttft[w.short], 99), "ttft_short_p99")
    ttft_long_mean_s: float = _latency(
        lambda w: mean(w.ttft[w.long]), "ttft_long_mean", column="long mean s"
    )
    ttft_long_p95_s: float = _latency(
        lambda w: percentile(w.ttft[w.long], 95), "ttft_long_p95", beside=True, column="long p95 s"
    )
    ttft_long_p99_s: float = _latency(lambda w: percentile(w.ttft[w.long], 99), "ttft_long_p99")
    wait_max_s: float = metric(
        lambda w: float(w.ttft.max()) if len(w.ttft) else math.nan,
        "queue/wait_max_s",
        column="max wait s",
        digits=1,
    )
    tpot_p95_s: float = _latency(
        lambda w: percentile(w.tpot, 95), "tpot_p95", column="TPOT p95 s", digits=3
    )
    e2e_p95_s: float = _latency(lambda w: percentile(w.e2e, 95), "e2el_p95")
    slowdown_mean: float = metric(lambda w: mean(w.slowdown), "latency/slowdown_mean")
    slowdown_p99: float = metric(
        lambda w: percentile(w.slowdown, 99),
        "latency/slowdown_p99",
        column="slowdown p99",
        digits=1,
    )
    slowdown_long_p95: float = metric(
        lambda w: percentile(w.slowdown[w.long], 95), "latency/slowdown_long_p95"
    )
    jain_slowdown: float = metric(
        lambda w: jain(w.class_slowdowns),
        "queue/jain_slowdown",
        column="Jain",
        larger_is_better=True,
    )
    outstanding: int = metric(
        lambda w: len(w.unfinished),
        "queue/outstanding",
        default=MISSING,
        column="unfinished",
        digits=0,
    )
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
        lambda w: float((w.ttft > w.overdue_at_s).mean()) if len(w.ttft) else math.nan,
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
        return {
            name: None if isinstance(value, float) and math.isnan(value) else value
            for name, value in dataclasses.asdict(self).items()
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> WindowMetrics:
        """Inverse of `to_dict`."""
        kept = {"scheduler_us_per_step"}
        values: dict[str, Any] = {
            k: math.nan if v is None and k not in kept else v for k, v in data.items()
        }
        return cls(**values)


def aggregate(
    records: Iterable[RequestRecord],
    counters: WindowCounters,
    start_s: float,
    end_s: float,
    prefill_cost_s: Callable[[int], float],
    settings: MetricSettings | None = None,
) -> WindowMetrics:
    """Metrics of the window [start_s, end_s).

    TTFT statistics run over every request that waited inside the window: those that arrived
    in it, and earlier ones that had no first token at `start_s`.

    Args:
        records: any superset of the window's requests; events after `end_s` are ignored.
        counters: what the engine counted inside the window.
        start_s: start of the window in engine seconds.
        end_s: its end, > start_s.
        prefill_cost_s: C(b): prompt tokens -> seconds alone on the machine, > 0.
        settings: class limits and service levels.

    Raises:
        ValueError: when the window is empty in time.
    """
    if not end_s > start_s:
        raise ValueError(f"window: end {end_s!r} is not after start {start_s!r}")
    sample = _Sample(records, counters, start_s, end_s, prefill_cost_s, settings)
    measured = {
        field.name: field.metadata["measure"](sample)
        for field in dataclasses.fields(WindowMetrics)
        if "measure" in field.metadata
    }
    return WindowMetrics(**measured)


class _Sample:
    """What the metrics of a window are measured on: n requests waited in it, others finished."""

    counters: WindowCounters
    window_s: float
    arrivals: int
    finished: list[RequestRecord]
    unfinished: list[RequestRecord]  # at the end of the window
    good: int  # of the finished
    ttft: NDArray[np.float64]  # (n,) seconds, or the age so far
    slowdown: NDArray[np.float64]  # (n,) the same over C(b)
    short: NDArray[np.bool_]  # (n,) members of the class
    long: NDArray[np.bool_]  # (n,)
    overdue_at_s: NDArray[np.float64]  # (n,) waits beyond which a request is overdue
    tpot: NDArray[np.float64]  # seconds, of the finished that have one
    e2e: NDArray[np.float64]  # seconds, or the age so far, of finished and unfinished ones
    class_slowdowns: list[float]  # means of short, middle and long requests, where there are any

    def __init__(
        self,
        records: Iterable[RequestRecord],
        counters: WindowCounters,
        start_s: float,
        end_s: float,
        prefill_cost_s: Callable[[int], float],
        settings: MetricSettings | None,
    ) -> None:
        settings = settings or MetricSettings()
        self.counters = counters
        self.window_s = end_s - start_s
        seen = [r for r in records if r.arrival_s < end_s]
        waiting = [r for r in seen if r.arrival_s >= start_s or after(r.first_token_s, start_s)]
        self.arrivals = sum(r.arrival_s >= start_s for r in seen)
        self.finished = [
            r for r in seen if r.finish_s is not None and start_s <= r.finish_s < end_s
        ]
        self.unfinished = [r for r in seen if r.finish_s is None or r.finish_s >= end_s]
        self.good = sum(_is_good(r, settings) for r in self.finished)

        prompt = np.array([r.prompt_tokens for r in waiting], dtype=np.int64)
        cost = np.array([prefill_cost_s(r.prompt_tokens) for r in waiting])
        self.ttft = np.array([censored(r.first_token_s, r.arrival_s, end_s) for r in waiting])
        self.slowdown = self.ttft / cost if len(waiting) else self.ttft
        self.short = prompt <= settings.short_max_tokens
        self.long = prompt > settings.long_min_tokens
        self.overdue_at_s = np.maximum(
            settings.overdue_floor_s, settings.overdue_cost_factor * cost
        )
        ends = [*self.finished, *self.unfinished]
        self.e2e = np.array([censored(r.finish_s, r.arrival_s, end_s) for r in ends])
        self.tpot = np.array([t for t in map(_tpot_s, self.finished) if t is not None])
        classes = (self.short, ~(self.short | self.long), self.long)
        self.class_slowdowns = [float(self.slowdown[c].mean()) for c in classes if c.any()]


def jain(values: Sequence[float]) -> float:
    """Jain's fairness index (sum x)^2 / (n sum x^2) in (0, 1]; NaN for no values."""
    total, squares = sum(values), sum(v * v for v in values)
    return total * total / (len(values) * squares) if squares > 0 else math.nan


def after(moment_s: float | None, limit_s: float) -> bool:
    """The event has not happened by `limit_s`."""
    return moment_s is None or moment_s >= limit_s


def censored(moment_s: float | None, arrival_s: float, end_s: float) -> float:
    """Time from arrival to the event, or the age at `end_s` when it has not happened yet."""
    return (end_s if after(moment_s, end_s) else float(moment_s or 0.0)) - arrival_s


def _tpot_s(record: RequestRecord) -> float | None:
    if record.first_token_s is None or record.finish_s is None or record.generated_tokens < 2:
        return None
    return (record.finish_s - record.first_token_s) / (record.generated_tokens - 1)


def _is_good(record: RequestRecord, settings: MetricSettings) -> bool:
    if record.first_token_s is None:
        return False
    tpot = _tpot_s(record)
    within_ttft = record.first_token_s - record.arrival_s <= settings.ttft_slo_s
    return within_ttft and (tpot is None or tpot <= settings.tpot_slo_s)


def mean(values: NDArray[np.float64]) -> float:
    """Their mean; NaN for no values."""
    return float(values.mean()) if len(values) else math.nan


def percentile(values: NDArray[np.float64], q: float) -> float:
    """Their q-th percentile, q in [0, 100]; NaN for no values."""
    return float(np.percentile(values, q)) if len(values) else math.nan
