"""How good was a window? Metrics -> one reward and its terms.

The default objective J (ALGORITHM section 6, + beyond the paper) is relative to a reference
policy on the same traffic:

    J = ln(tok_s/tok_s0) - 0.5 ln(p95_short/p95_short0) - 0.5 ln(slow_long/slow_long0)
        - overdue_share - 0.02 Q/Q_max

with p95_short the p95 TTFT of short requests, slow_long the p95 slowdown of long ones, and the
subscript 0 the reference.  A class without requests contributes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from ewsjf_env.records import WindowMetrics

MAX_QUEUES = 32
SMALLEST_S = 1e-3  # a latency below this is as good as this: a logarithm needs a floor


@dataclass(frozen=True)
class Reward:
    """A reward, larger is better, and the named terms that add up to it."""

    total: float
    terms: Mapping[str, float]


def relative_objective(metrics: WindowMetrics, reference: WindowMetrics) -> Reward:
    """J of `metrics` against `reference`, two windows of the same traffic; 0 is as good."""
    terms = {
        "throughput": _log_ratio(metrics.output_tokens_per_s, reference.output_tokens_per_s),
        "ttft_short": -0.5 * _log_ratio(metrics.ttft_short_p95_s, reference.ttft_short_p95_s),
        "slowdown_long": -0.5 * _log_ratio(metrics.slowdown_long_p95, reference.slowdown_long_p95),
        "overdue": -_or_zero(metrics.overdue_share),
        "queues": -0.02 * metrics.queues / MAX_QUEUES,
    }
    return Reward(total=sum(terms.values()), terms=terms)


def _log_ratio(value: float, reference: float) -> float:
    if math.isnan(value) or math.isnan(reference):
        return 0.0
    return math.log(max(value, SMALLEST_S) / max(reference, SMALLEST_S))


def _or_zero(value: float) -> float:
    return 0.0 if math.isnan(value) else value
