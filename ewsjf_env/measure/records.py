"""What happened to each request in a window, and the metrics computed from it.

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
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ewsjf_env.config import ConfigError, check_range


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


@dataclass(frozen=True)
class MetricSettings:
    """Class limits and service levels.

    short: prompt <= short_max_tokens; long: prompt > long_min_tokens.  A finished request is
    good when TTFT and TPOT meet their limits.  A request is overdue when its wait exceeds
    max(overdue_floor_s, overdue_cost_factor * C(b)).
    """

    short_max_tokens: int = 512
    long_min_tokens: int = 1024
    ttft_slo_s: float = 5.0
    tpot_slo_s: float = 0.2
    overdue_floor_s: float = 10.0
    overdue_cost_factor: float = 60.0

    def __post_init__(self) -> None:
        check_range("short_max_tokens", self.short_max_tokens, 1)
        check_range("long_min_tokens", self.long_min_tokens, 1)
        if self.long_min_tokens < self.short_max_tokens:
            raise ConfigError(
                f"long_min_tokens: {self.long_min_tokens} is below short_max_tokens "
                f"({self.short_max_tokens}): the classes would overlap"
            )
        for name in ("ttft_slo_s", "tpot_slo_s", "overdue_floor_s", "overdue_cost_factor"):
            check_range(name, getattr(self, name), 0.0, low_open=True)


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


@dataclass(frozen=True)
class WindowMetrics:
    """Metrics of one window; NaN where a class has no request.  Units are in the names.

    Rates divide by `window_s`.  `goodput_requests_per_s` counts requests that finished inside
    the window within their service levels; `outstanding` are those unfinished at its end.
    `exact` is False when percentiles come from histogram buckets.
    """

    window_s: float
    arrivals: int
    finished: int
    outstanding: int
    output_tokens_per_s: float
    total_tokens_per_s: float
    requests_per_s: float
    goodput_requests_per_s: float
    ttft_mean_s: float
    ttft_p50_s: float
    ttft_p95_s: float
    ttft_p99_s: float
    ttft_short_mean_s: float
    ttft_short_p95_s: float
    ttft_short_p99_s: float
    ttft_long_mean_s: float
    ttft_long_p95_s: float
    ttft_long_p99_s: float
    slowdown_mean: float
    slowdown_p99: float
    slowdown_long_p95: float
    tpot_p95_s: float
    e2e_p95_s: float
    wait_max_s: float
    jain_slowdown: float
    preemptions: int
    kv_usage_mean: float
    prefix_hit_rate: float
    overdue_share: float
    queues: int
    scheduler_us_per_step: float | None
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


@dataclass(frozen=True)
class BucketRow:
    """TTFT of the requests whose prompt length lies in (low_tokens, high_tokens]."""

    low_tokens: int
    high_tokens: int | None
    requests: int
    unserved: int
    ttft_mean_s: float
    ttft_p95_s: float
    slowdown_mean: float


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
    settings = settings or MetricSettings()
    window_s = end_s - start_s
    seen = [r for r in records if r.arrival_s < end_s]
    waiting = [r for r in seen if r.arrival_s >= start_s or _after(r.first_token_s, start_s)]
    finished = [r for r in seen if r.finish_s is not None and start_s <= r.finish_s < end_s]

    prompt = np.array([r.prompt_tokens for r in waiting], dtype=np.int64)
    ttft = np.array([_censored(r.first_token_s, r.arrival_s, end_s) for r in waiting])
    cost = np.array([prefill_cost_s(r.prompt_tokens) for r in waiting])
    slowdown = ttft / cost if len(waiting) else ttft
    short, long = prompt <= settings.short_max_tokens, prompt > settings.long_min_tokens
    middle = ~(short | long)

    open_e2e = [r for r in seen if r.finish_s is None or r.finish_s >= end_s]
    e2e = np.array([_censored(r.finish_s, r.arrival_s, end_s) for r in [*finished, *open_e2e]])
    tpot = np.array([t for t in map(_tpot_s, finished) if t is not None])
    good = sum(_is_good(r, settings) for r in finished)
    overdue_at = np.maximum(settings.overdue_floor_s, settings.overdue_cost_factor * cost)
    means = [float(slowdown[mask].mean()) for mask in (short, middle, long) if mask.any()]

    return WindowMetrics(
        window_s=window_s,
        arrivals=sum(r.arrival_s >= start_s for r in seen),
        finished=len(finished),
        outstanding=len(open_e2e),
        output_tokens_per_s=counters.output_tokens / window_s,
        total_tokens_per_s=(counters.output_tokens + counters.prefill_tokens) / window_s,
        requests_per_s=len(finished) / window_s,
        goodput_requests_per_s=good / window_s,
        ttft_p50_s=_percentile(ttft, 50),
        **_ttft("ttft", ttft),
        **_ttft("ttft_short", ttft[short]),
        **_ttft("ttft_long", ttft[long]),
        slowdown_mean=_mean(slowdown),
        slowdown_p99=_percentile(slowdown, 99),
        slowdown_long_p95=_percentile(slowdown[long], 95),
        tpot_p95_s=_percentile(tpot, 95),
        e2e_p95_s=_percentile(e2e, 95),
        wait_max_s=float(ttft.max()) if len(ttft) else math.nan,
        jain_slowdown=jain(means),
        preemptions=counters.preemptions,
        kv_usage_mean=counters.kv_usage_mean,
        prefix_hit_rate=counters.prefix_hit_rate,
        overdue_share=float((ttft > overdue_at).mean()) if len(ttft) else math.nan,
        queues=counters.queues,
        scheduler_us_per_step=counters.scheduler_us_per_step,
    )


def bucket_table(
    records: Sequence[RequestRecord],
    edges_tokens: Sequence[int],
    end_s: float,
    prefill_cost_s: Callable[[int], float],
) -> list[BucketRow]:
    """TTFT by prompt length for requests that arrived before `end_s`; ages are censored there.

    Args:
        records: all requests.
        edges_tokens: ascending upper limits; a last open bucket follows.
        end_s: the moment at which unserved requests are counted with their age.
        prefill_cost_s: C(b): prompt tokens -> seconds alone on the machine, > 0.
    """
    rows = []
    limits: list[int | None] = [*edges_tokens, None]
    low = 0
    for high in limits:
        chosen = [
            r
            for r in records
            if r.arrival_s < end_s
            and r.prompt_tokens > low
            and (high is None or r.prompt_tokens <= high)
        ]
        ttft = np.array([_censored(r.first_token_s, r.arrival_s, end_s) for r in chosen])
        cost = np.array([prefill_cost_s(r.prompt_tokens) for r in chosen])
        rows.append(
            BucketRow(
                low_tokens=low,
                high_tokens=high,
                requests=len(chosen),
                unserved=sum(_after(r.first_token_s, end_s) for r in chosen),
                ttft_mean_s=_mean(ttft),
                ttft_p95_s=_percentile(ttft, 95),
                slowdown_mean=_mean(ttft / cost) if chosen else math.nan,
            )
        )
        low = high if high is not None else low
    return rows


def jain(values: Sequence[float]) -> float:
    """Jain's fairness index (sum x)^2 / (n sum x^2) in (0, 1]; NaN for no values."""
    total, squares = sum(values), sum(v * v for v in values)
    return total * total / (len(values) * squares) if squares > 0 else math.nan


def _ttft(name: str, ttft_s: NDArray[np.float64]) -> dict[str, Any]:
    """The fields `NAME_mean_s`, `NAME_p95_s` and `NAME_p99_s`; NaN for no request."""
    return {
        f"{name}_mean_s": _mean(ttft_s),
        f"{name}_p95_s": _percentile(ttft_s, 95),
        f"{name}_p99_s": _percentile(ttft_s, 99),
    }


def _after(moment_s: float | None, limit_s: float) -> bool:
    return moment_s is None or moment_s >= limit_s


def _censored(moment_s: float | None, arrival_s: float, end_s: float) -> float:
    """Time from arrival to the event, or the age at `end_s` when it has not happened yet."""
    return (end_s if _after(moment_s, end_s) else float(moment_s or 0.0)) - arrival_s


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


def _mean(values: NDArray[np.float64]) -> float:
    return float(values.mean()) if len(values) else math.nan


def _percentile(values: NDArray[np.float64], q: float) -> float:
    return float(np.percentile(values, q)) if len(values) else math.nan
