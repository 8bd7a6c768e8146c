"""One window as values: the plan that `SchedulerTuningEnv.run` is given, and the outcome.

`info` shows an outcome to users of Gymnasium, a line of windows.jsonl keeps its parts, and the
tags of their fields name them in TensorBoard and in progress.csv.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ewsjf_env.config import to_dict
from ewsjf_env.env.episode import AbortRule
from ewsjf_env.measure.records import WindowMetrics
from ewsjf_env.measure.tags import tag
from ewsjf_env.measure.traffic import TrafficStatistics
from ewsjf_env.parameters import Value

Observation = NDArray[np.float32]
Action = NDArray[np.float32]
Values = Mapping[str, Any]
"""Parameter values by name: float, int or str, each as the parameter has it."""


@dataclass(frozen=True)
class WindowPlan:
    """What one window is served under.

    Attributes:
        values: of the tuned parameters.
        trusted: what an engine may go on with when its tuner is gone; None: as before.
        abort: when the window is broken off; None: never.
    """

    values: Mapping[str, Value]
    trusted: Mapping[str, Value] | None = None
    abort: AbortRule | None = None


@dataclass(frozen=True)
class DrawnTrace:
    """The trace of an episode; None as the rate is the workload's own."""

    name: str
    seed: int
    rate_per_s: float | None


@dataclass(frozen=True, kw_only=True)
class Served:
    """What really ran.

    Attributes:
        values: of the tuned parameters, as they were in force.
        start_s: start of the measured time in engine seconds.
        end_s: its end.
        cuts: of the partition in force, upper prompt lengths in tokens.
        aborted: the window was broken off, or the engine failed.
        failure: why nothing was measured at all, or None.
    """

    values: Values = tag("parameters/{}")
    start_s: float
    end_s: float
    cuts: tuple[int, ...] = tag("partition/cut_{}", default=())
    aborted: bool = tag("safety/aborted", default=False)
    failure: str | None = tag("safety/failure", is_set=True, default=None)


@dataclass(frozen=True)
class Score:
    """How good it was.

    Attributes:
        reward: larger is better.
        reward_se: its standard error, same unit, >= 0; 0 when unknown.
        terms: what adds up to the reward.
        margins: constraint -> margin, feasible when <= 0.
        violation: a margin is above 0.
    """

    reward: float = tag("reward/total")
    reward_se: float = tag("reward/standard_error")
    terms: Mapping[str, float] = tag("reward/{}")
    margins: Mapping[str, float] = tag("safety/margin_{}")
    violation: bool = tag("safety/violation")


@dataclass(frozen=True)
class WindowOutcome:
    """One window, typed.

    Attributes:
        observation: (n,) float32, what a tuner sees.
        action: (d,) float32, the values in force as an action.
        parameters: all values of the policy in force, the tuned ones among them.
        trace: of the episode.
        served: what ran.
        score: how good it was.
        metrics: of the window; None after a failure.
        reference: of the reference policy over the same seconds; None without one.
        traffic: arrivals of the window and backlog at its end; None after a failure.
    """

    observation: Observation
    action: Action
    parameters: Values
    trace: DrawnTrace
    served: Served
    score: Score
    metrics: WindowMetrics | None = None
    reference: WindowMetrics | None = None
    traffic: TrafficStatistics | None = None

    def info(self) -> dict[str, Any]:
        """Plain values in new objects; see `SchedulerTuningEnv`, Information."""
        served, score = self.served, self.score
        return {
            "parameters": dict(self.parameters),
            "executed_action": self.action.copy(),
            "trace": to_dict(self.trace),
            **{name: plain(getattr(self, name)) for name in ("metrics", "reference", "traffic")},
            "cuts": list(served.cuts),
            "reward_terms": dict(score.terms),
            "reward_se": score.reward_se,
            "constraints": dict(score.margins),
            "aborted": served.aborted,
            "error": served.failure,
            "start_s": served.start_s,
            "end_s": served.end_s,
        }


def plain(measured: WindowMetrics | TrafficStatistics | None) -> dict[str, Any] | None:
    """Plain values for JSON; NaN becomes None."""
    return None if measured is None else measured.to_dict()
