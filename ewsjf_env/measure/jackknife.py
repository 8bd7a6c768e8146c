"""The standard error of a window's reward, by a jackknife over its requests.

A window holds some hundred requests, and the reward rests on their 95th percentiles.  The
delete-a-group jackknife (Kott, "Delete-a-Group Variance Estimates", 2001) measures the window
again without one group of requests, G times; window and reference leave out the same requests,
so that what the traffic does to both cancels here as it does in the reward.

Rates come from the engine's counters, not from requests: they count as known.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from ewsjf_env.measure.records import MetricSettings, PartMetrics, WindowMetrics
from ewsjf_env.measure.requests import Requests
from ewsjf_env.measure.sample import Sample, WindowCounters

GROUPS = 8
_NOT_COUNTED = WindowCounters(output_tokens=0, prefill_tokens=0)


def without_groups(
    metrics: WindowMetrics,
    requests: Requests,
    start_s: float,
    end_s: float,
    settings: MetricSettings,
) -> tuple[PartMetrics, ...]:
    """The window's metrics without each of `GROUPS` groups of requests.

    Args:
        metrics: of the whole window [start_s, end_s).
        requests: that the engine had in the window; a request's group is its position modulo
            `GROUPS`, so that two engines on one trace form the same groups.
        start_s: start of the window in engine seconds.
        end_s: its end.
        settings: class limits, those of the engine.
    """
    group = requests.position % GROUPS
    return tuple(
        PartMetrics(
            metrics,
            Sample(requests.take(group != left_out), _NOT_COUNTED, start_s, end_s, settings),
        )
        for left_out in range(GROUPS)
    )


def jackknife_se(values: Sequence[float]) -> float:
    """Standard error from the values without each of G groups; 0 for fewer than two groups."""
    groups = len(values)
    if groups < 2:
        return 0.0
    mean = math.fsum(values) / groups
    return math.sqrt((groups - 1) / groups * math.fsum((v - mean) ** 2 for v in values))
