"""Window metrics straight from the arrays of a state: `records.aggregate`, vectorised.

Same definitions, same operations in the same order, so that every number is equal to the last
digit; a test holds both together.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ewsjf_env.engine.simulated.latency import LatencyModel
from ewsjf_env.measure.records import MetricSettings, WindowCounters, WindowMetrics, jain

Floats = NDArray[np.float64]


def prefill_costs_s(latency: LatencyModel, tokens: Any, budget_tokens: int) -> Floats:
    """`LatencyModel.prefill_s` of many prompts.

    Args:
        latency: the model.
        tokens: of each prompt, shape (n,).
        budget_tokens: of a step.
    """
    c = latency.coefficients
    b = np.asarray(tokens, np.int64)
    whole, rest = np.divmod(b, budget_tokens)
    linear_s = np.maximum(c.linear_s_per_token * rest, c.weights_s)
    last_s = c.overhead_s + linear_s + 0.0 + 0.0
    last_s = np.where((rest > c.captured_tokens) & (last_s < c.launch_s), c.launch_s, last_s)
    seconds = whole * latency.step_s(budget_tokens, 0, 0, 0.0)
    seconds = np.where(rest > 0, seconds + last_s, seconds)
    found: Floats = seconds + c.attention_s_per_pair * b * b / 2.0
    return found


def window_metrics(
    requests: Any,
    costs_s: Floats,
    counters: WindowCounters,
    start_s: float,
    end_s: float,
    settings: MetricSettings,
) -> WindowMetrics:
    """Metrics of the window [start_s, end_s), see `records.aggregate`.

    Args:
        requests: those that have arrived, records of `state.REQUEST`.
        costs_s: C(b) of each.
        counters: what the engine counted inside the window.
        start_s: start of the window in engine seconds.
        end_s: its end, > start_s.
        settings: class limits and service levels.

    Raises:
        ValueError: when the window is empty in time.
    """
    if not end_s > start_s:
        raise ValueError(f"window: end {end_s!r} is not after start {start_s!r}")
    window_s = end_s - start_s
    seen = (requests["arrival_s"] < end_s) & ~(requests["finish_s"] < start_s)
    requests, costs_s = requests[seen], costs_s[seen]
    arrival_s, prompt = requests["arrival_s"], requests["prompt"]
    first_s, finish_s = requests["first_token_s"], requests["finish_s"]
    generated = requests["generated"]

    # NaN stands for what has not happened: it is not before any moment.
    arrived = arrival_s >= start_s
    waiting = arrived | ~(first_s < start_s)
    finished = (finish_s >= start_s) & (finish_s < end_s)
    unfinished = ~(finish_s < end_s)

    ttft = np.where(first_s < end_s, first_s, end_s)[waiting] - arrival_s[waiting]
    cost = costs_s[waiting]
    slowdown = ttft / cost
    short = prompt[waiting] <= settings.short_max_tokens
    long = prompt[waiting] > settings.long_min_tokens
    middle = ~(short | long)
    e2e = np.concatenate((finish_s[finished] - arrival_s[finished], end_s - arrival_s[unfinished]))
    several = finished & ~np.isnan(first_s) & (generated >= 2)
    spread_s = np.full(len(requests), np.nan)
    spread_s[several] = (finish_s[several] - first_s[several]) / (generated[several] - 1)
    tpot = spread_s[several]
    good = finished & (first_s - arrival_s <= settings.ttft_slo_s)
    good &= ~(spread_s > settings.tpot_slo_s)
    overdue_at = np.maximum(settings.overdue_floor_s, settings.overdue_cost_factor * cost)
    means = [float(slowdown[mask].mean()) for mask in (short, middle, long) if mask.any()]
    finishes = int(finished.sum())
    ttft_s = _percentiles(ttft, 50, 95, 99)
    ttft_short_s = _percentiles(ttft[short], 95, 99)
    ttft_long_s = _percentiles(ttft[long], 95, 99)

    return WindowMetrics(
        window_s=window_s,
        arrivals=int(arrived.sum()),
        finished=finishes,
        outstanding=int(unfinished.sum()),
        output_tokens_per_s=counters.output_tokens / window_s,
        total_tokens_per_s=(counters.output_tokens + counters.prefill_tokens) / window_s,
        requests_per_s=finishes / window_s,
        goodput_requests_per_s=int(good.sum()) / window_s,
        ttft_mean_s=_mean(ttft),
        ttft_p50_s=ttft_s[0],
        ttft_p95_s=ttft_s[1],
        ttft_p99_s=ttft_s[2],
        ttft_short_mean_s=_mean(ttft[short]),
        ttft_short_p95_s=ttft_short_s[0],
        ttft_short_p99_s=ttft_short_s[1],
        ttft_long_mean_s=_mean(ttft[long]),
        ttft_long_p95_s=ttft_long_s[0],
        ttft_long_p99_s=ttft_long_s[1],
        slowdown_mean=_mean(slowdown),
        slowdown_p99=_percentiles(slowdown, 99)[0],
        slowdown_long_p95=_percentiles(slowdown[long], 95)[0],
        tpot_p95_s=_percentiles(tpot, 95)[0],
        e2e_p95_s=_percentiles(e2e, 95)[0],
        wait_max_s=float(ttft.max()) if len(ttft) else math.nan,
        jain_slowdown=jain(means),
        preemptions=counters.preemptions,
        kv_usage_mean=counters.kv_usage_mean,
        prefix_hit_rate=counters.prefix_hit_rate,
        overdue_share=float((ttft > overdue_at).mean()) if len(ttft) else math.nan,
        queues=counters.queues,
        scheduler_us_per_step=counters.scheduler_us_per_step,
    )


def _mean(values: Floats) -> float:
    return float(values.mean()) if len(values) else math.nan


def _percentiles(values: Floats, *levels: float) -> list[float]:
    if not len(values):
        return [math.nan] * len(levels)
    found: list[float] = np.percentile(values, levels).tolist()
    return found
