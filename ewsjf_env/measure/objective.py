"""Objectives: metrics of a window give one reward and its terms.

The default objective J (ALGORITHM section 6, + beyond the paper) is relative to a reference
policy on the same traffic:

    J = ln(tok_s/tok_s0) - 0.5 ln(p95_short/p95_short0) - 0.5 ln(slow_long/slow_long0)
        - (overdue - overdue0) - 0.02 (Q - Q0)/32

with p95_short the p95 TTFT of short requests, slow_long the p95 slowdown of long ones, overdue
the share of requests that waited too long, Q the number of queues, and the subscript 0 the
reference.  J is 0 for the reference itself, whatever the traffic.  A class without requests
contributes nothing.

`OBJECTIVES` holds this one (`relative`) and its alternatives.  Each gives raw terms, larger is
better; the reward is their weighted sum, and the weights can be set by the name of the term.
What a window must not do is said apart, see `constraints`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated

from ewsjf_env.config import Among, ConfigError, Positive, Range, nearest, settings
from ewsjf_env.measure.records import PartMetrics, WindowMetrics
from ewsjf_env.measure.traffic import QueueStatistics

MAX_QUEUES = 32
MAX_WEIGHT = 1e9  # sums of squares of rewards stay finite
Weight = Annotated[float, Range(-MAX_WEIGHT, MAX_WEIGHT)]
SMALLEST_S = 1e-3  # a latency below this is as good as this: a logarithm needs a floor


@dataclass(frozen=True)
class Reward:
    """A reward, larger is better, and the named terms that add up to it."""

    total: float
    terms: Mapping[str, float]


@dataclass(frozen=True)
class Outcome:
    """What an objective may judge: one window.

    Attributes:
        metrics: of the window.
        reference: of the reference policy on the same traffic; None without one.
        queues: how the partition in force fits the window's arrivals.
    """

    metrics: WindowMetrics | PartMetrics
    reference: WindowMetrics | PartMetrics | None
    queues: QueueStatistics


@settings
class ObjectiveSettings:
    """Which objective, with which weights."""

    kind: Annotated[str, Among("objective", lambda: OBJECTIVES)] = "relative"
    """What a window is judged by: `relative` (J), `paper`, `goodput` or `weighted`."""
    weights: Mapping[str, Weight] = field(default_factory=dict)
    """Weights by name of a term, instead of its default. For `weighted` the terms are metrics of
    `WindowMetrics`: positive weights for what should be large.
    """
    ttft_target_s: Positive = 5.0
    """Target of the latency penalty of `paper`, seconds."""

    def __post_init__(self) -> None:
        spec = OBJECTIVES[self.kind]
        valid = METRIC_NAMES if spec.weights is None else tuple(spec.weights)
        for name in self.weights:
            if name not in valid:
                raise ConfigError(f"weights: unknown term {name!r}{nearest(name, valid)}")
        if spec.weights is None and not self.weights:
            raise ConfigError(f"weights: objective {self.kind!r} needs at least one metric")

    @property
    def needs_reference(self) -> bool:
        """True when a window can only be judged beside a reference window."""
        return OBJECTIVES[self.kind].needs_reference

    def reward(self, outcome: Outcome) -> Reward:
        """Judge a window.

        Raises:
            ConfigError: the objective needs a reference and the outcome has none.
        """
        spec = OBJECTIVES[self.kind]
        if spec.needs_reference and outcome.reference is None:
            raise ConfigError(f"objective {self.kind!r} needs the window of a reference policy")
        weights = {**(spec.weights or {}), **self.weights}
        raw = spec.terms(outcome, self)
        terms = {name: weight * raw[name] for name, weight in weights.items()}
        return Reward(total=sum(terms.values()), terms=terms)


Terms = Callable[[Outcome, ObjectiveSettings], Mapping[str, float]]


@dataclass(frozen=True)
class ObjectiveSpec:
    """One entry of the registry: its raw terms and their default weights.

    Weights of None leave the choice of terms to the settings.
    """

    terms: Terms
    weights: Mapping[str, float] | None
    needs_reference: bool = False


def relative_objective(
    metrics: WindowMetrics | PartMetrics, reference: WindowMetrics | PartMetrics
) -> Reward:
    """J of `metrics` against `reference`, two windows of the same traffic; 0 is as good."""
    return ObjectiveSettings().reward(
        Outcome(metrics, reference, QueueStatistics(metrics.queues, 0.0, 0.0))
    )


def _relative_terms(outcome: Outcome, settings: ObjectiveSettings) -> Mapping[str, float]:
    metrics, reference = outcome.metrics, outcome.reference
    assert reference is not None  # checked by ObjectiveSettings.reward
    return {
        "throughput": _log_ratio(metrics.output_tokens_per_s, reference.output_tokens_per_s),
        "ttft_short": -_log_ratio(metrics.ttft_short_p95_s, reference.ttft_short_p95_s),
        "slowdown_long": -_log_ratio(metrics.slowdown_long_p95, reference.slowdown_long_p95),
        "overdue": _or_zero(reference.overdue_share - metrics.overdue_share),
        "queues": (reference.queues - metrics.queues) / MAX_QUEUES,
    }


def _paper_terms(outcome: Outcome, settings: ObjectiveSettings) -> Mapping[str, float]:
    """The published reward (=): compactness, load balance, proliferation, latency."""
    return {
        "compactness": -outcome.queues.length_cv,
        "load_balance": -outcome.queues.work_cv,
        "proliferation": -outcome.queues.queues / MAX_QUEUES,
        "latency": -_or_zero(outcome.metrics.ttft_p95_s) / settings.ttft_target_s,
    }


def _goodput_terms(outcome: Outcome, settings: ObjectiveSettings) -> Mapping[str, float]:
    """Good requests by arrivals: one that never finishes counts, as not good.

    The service levels are those of the engine's `MetricSettings`.
    """
    metrics = outcome.metrics
    good = metrics.goodput_requests_per_s * metrics.window_s
    return {"goodput": good / max(1, metrics.arrivals)}


def _metric_terms(outcome: Outcome, settings: ObjectiveSettings) -> Mapping[str, float]:
    metrics = outcome.metrics
    return {name: _or_zero(float(getattr(metrics, name))) for name in settings.weights}


METRIC_NAMES = tuple(
    f.name
    for f in dataclasses.fields(WindowMetrics)
    if f.name not in ("exact", "scheduler_us_per_step")
)
"""Metrics that an objective or a constraint may name: numbers that can be repeated."""

OBJECTIVES: dict[str, ObjectiveSpec] = {
    "relative": ObjectiveSpec(
        _relative_terms,
        {
            "throughput": 1.0,
            "ttft_short": 0.5,
            "slowdown_long": 0.5,
            "overdue": 1.0,
            "queues": 0.02,
        },
        needs_reference=True,
    ),
    "paper": ObjectiveSpec(
        _paper_terms,
        {"compactness": 1.0, "load_balance": 1.0, "proliferation": 0.5, "latency": 1.0},
    ),
    "goodput": ObjectiveSpec(_goodput_terms, {"goodput": 1.0}),
    "weighted": ObjectiveSpec(_metric_terms, None),
}


def _log_ratio(value: float, reference: float) -> float:
    if math.isnan(value) or math.isnan(reference):
        return 0.0
    return math.log(max(value, SMALLEST_S) / max(reference, SMALLEST_S))


def _or_zero(value: float) -> float:
    return 0.0 if math.isnan(value) else value
