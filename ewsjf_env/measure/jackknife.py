"""The standard error of a window's reward, by a jackknife over its requests.

A window holds some hundred requests, and the reward rests on their 95th percentiles.  The
delete-a-group jackknife (Kott, "Delete-a-Group Variance Estimates", 2001) measures the window
again without one group of requests, G times; window and reference leave out the same requests,
so that what the traffic does to both cancels here as it does in the reward.

Rates come from the engine's counters, not from requests: they count as known.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

from ewsjf_env.measure.records import (
    MetricSettings,
    RequestRecord,
    WindowCounters,
    WindowMetrics,
    aggregate,
)

GROUPS = 8
_COUNTED = tuple(f.name for f in dataclasses.fields(WindowMetrics) if f.metadata.get("counted"))


def without_groups(
    metrics: WindowMetrics,
    records: Sequence[RequestRecord],
    start_s: float,
    end_s: float,
    prefill_cost_s: Callable[[int], float],
    settings: MetricSettings,
) -> tuple[WindowMetrics, ...]:
    """The window's metrics without each of `GROUPS` groups of requests.

    Args:
        metrics: of the whole window [start_s, end_s).
        records: all requests of the trace so far, in order of arrival; a request's group is its
            position modulo `GROUPS`, so that two engines on one trace form the same groups.
        start_s: start of the window in engine seconds.
        end_s: its end.
        prefill_cost_s: C(b), see `records.aggregate`.
        settings: class limits, those of the engine.
    """
    known = {name: getattr(metrics, name) for name in _COUNTED}
    counters = WindowCounters(output_tokens=0, prefill_tokens=0)
    indexed = [
        (index % GROUPS, record)
        for index, record in enumerate(records)
        if record.arrival_s < end_s and (record.finish_s is None or record.finish_s >= start_s)
    ]
    parts = []
    for left_out in range(GROUPS):
        kept = [record for group, record in indexed if group != left_out]
        part = aggregate(kept, counters, start_s, end_s, prefill_cost_s, settings)
        parts.append(dataclasses.replace(part, **known))
    return tuple(parts)


def jackknife_se(values: Sequence[float]) -> float:
    """Standard error from the values without each of G groups; 0 for fewer than two groups."""
    groups = len(values)
    if groups < 2:
        return 0.0
    mean = math.fsum(values) / groups
    return math.sqrt((groups - 1) / groups * math.fsum((v - mean) ** 2 for v in values))
