"""Made-up windows for tests of what judges windows."""

import dataclasses
from typing import Any

from ewsjf_env.measure.records import WindowMetrics

PLAIN = WindowMetrics(
    window_s=10.0,
    arrivals=50,
    finished=40,
    outstanding=12,
    output_tokens_per_s=400.0,
    total_tokens_per_s=2000.0,
    requests_per_s=4.0,
    goodput_requests_per_s=3.0,
    ttft_mean_s=1.0,
    ttft_p50_s=0.5,
    ttft_p95_s=4.0,
    ttft_p99_s=6.0,
    ttft_short_mean_s=0.4,
    ttft_short_p95_s=1.0,
    ttft_short_p99_s=2.0,
    ttft_long_mean_s=3.0,
    ttft_long_p95_s=8.0,
    ttft_long_p99_s=9.0,
    slowdown_mean=10.0,
    slowdown_p99=40.0,
    slowdown_long_p95=20.0,
    tpot_p95_s=0.05,
    e2e_p95_s=12.0,
    wait_max_s=10.0,
    jain_slowdown=0.8,
    preemptions=1,
    kv_usage_mean=0.5,
    prefix_hit_rate=0.0,
    overdue_share=0.1,
    queues=8,
    scheduler_us_per_step=None,
)


def metrics(**changes: Any) -> WindowMetrics:
    return dataclasses.replace(PLAIN, **changes)
