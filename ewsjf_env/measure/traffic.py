"""Statistics of a window's traffic, and of what is left of it at its end.

Everything is read off an engine's requests, so it is the same for every engine.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ewsjf_env.measure.requests import Requests
from ewsjf_env.measure.tags import tag

LENGTH_EDGES = (128, 512, 1024, 2048, 4096)
"""Upper limits in tokens of the classes of the length histograms; a last open one follows."""

_BURST_BIN_S = 1.0


@dataclass(frozen=True, kw_only=True)
class TrafficStatistics:
    """Arrivals of one window and the backlog at its end; NaN where there was no arrival.

    Attributes:
        arrival_rate_per_s: arrivals per second of the window.
        burst_index: variance over mean of the arrivals in bins of 1 s; 1 for Poisson.
        prompt_tokens_mean: of the arrivals.
        count_shares: share of the arrivals in each class of `LENGTH_EDGES`, shape (6,).
        work_shares: share of their prefill cost C(b), shape (6,).
        queue_depth: requests without a first token at the end.
        oldest_age_s: age of the oldest of them; 0 when there is none.
        running: requests with a first token that have not finished at the end.
    """

    arrival_rate_per_s: float = tag("traffic/arrival_rate_per_s")
    burst_index: float = tag("traffic/burst_index")
    prompt_tokens_mean: float = tag("traffic/prompt_tokens_mean")
    count_shares: tuple[float, ...]
    work_shares: tuple[float, ...]
    queue_depth: int = tag("queue/depth")
    oldest_age_s: float = tag("queue/oldest_age_s")
    running: int = tag("queue/running")

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; NaN becomes None."""
        return {
            name: [_none_for_nan(v) for v in value]
            if isinstance(value, tuple)
            else _none_for_nan(value)
            for name, value in vars(self).items()
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TrafficStatistics:
        """Inverse of `to_dict`."""
        values: dict[str, Any] = {
            name: tuple(map(_nan_for_none, value))
            if isinstance(value, (list, tuple))
            else _nan_for_none(value)
            for name, value in data.items()
        }
        return cls(**values)


@dataclass(frozen=True)
class QueueStatistics:
    """How well a partition fits the arrivals of one window (paper, reward of the optimizer).

    Attributes:
        queues: number of queues, >= 1.
        length_cv: mean over queues, weighted by arrivals, of the coefficient of variation of
            prompt lengths inside; 0 when all prompts of a queue are alike.
        work_cv: coefficient of variation over queues of their share of C(b).
    """

    queues: int
    length_cv: float
    work_cv: float


def traffic_statistics(requests: Requests, start_s: float, end_s: float) -> TrafficStatistics:
    """Statistics of the window [start_s, end_s), end_s > start_s.

    Args:
        requests: that the engine had in the window; events after `end_s` are ignored.
        start_s: start of the window in engine seconds.
        end_s: its end.
    """
    arrived = requests.take(requests.arrival_s >= start_s)
    gone = requests.finish_s < end_s
    waiting = ~(requests.first_token_s < end_s) & ~gone
    finished = int(np.count_nonzero(gone))
    depth = int(np.count_nonzero(waiting))
    classes = np.searchsorted(LENGTH_EDGES, arrived.prompt_tokens)
    oldest_s = float(requests.arrival_s[waiting].min()) if depth else end_s
    return TrafficStatistics(
        arrival_rate_per_s=len(arrived) / (end_s - start_s),
        burst_index=_burst_index(arrived.arrival_s - start_s, end_s - start_s),
        prompt_tokens_mean=float(arrived.prompt_tokens.mean()) if len(arrived) else math.nan,
        count_shares=_shares(classes, np.ones(len(arrived))),
        work_shares=_shares(classes, arrived.cost_s),
        queue_depth=depth,
        oldest_age_s=end_s - oldest_s,
        running=len(requests) - depth - finished,
    )


def queue_statistics(requests: Requests, cuts: Sequence[int], start_s: float) -> QueueStatistics:
    """How the requests that arrived from `start_s` on fill the queues between `cuts`.

    Args:
        requests: that the engine had in the window.
        cuts: upper prompt lengths in tokens, ascending.
        start_s: start of the window in engine seconds.
    """
    arrived = requests.take(requests.arrival_s >= start_s)
    prompt = arrived.prompt_tokens
    index = np.searchsorted(np.asarray(cuts, np.int64), prompt)
    queues = len(cuts) + 1
    work = np.bincount(index, weights=arrived.cost_s, minlength=queues)
    spread = 0.0
    for queue in np.unique(index).tolist():
        inside = prompt[index == queue]
        spread += len(inside) / len(prompt) * float(inside.std() / inside.mean())
    work_cv = float(work.std() / work.mean()) if work.sum() > 0 else 0.0
    return QueueStatistics(queues, spread, work_cv)


def _shares(classes: NDArray[np.intp], weights: NDArray[np.float64]) -> tuple[float, ...]:
    totals = np.bincount(classes, weights=weights, minlength=len(LENGTH_EDGES) + 1)
    if not totals.sum() > 0:
        return (math.nan,) * len(totals)
    return tuple((totals / totals.sum()).tolist())


def _burst_index(moments_s: NDArray[np.float64], window_s: float) -> float:
    bins = int(window_s / _BURST_BIN_S)  # the last, partial second would look like a lull
    inside = moments_s[moments_s < bins * _BURST_BIN_S]
    if bins < 2 or not len(inside):
        return math.nan
    counts = np.bincount((inside / _BURST_BIN_S).astype(np.int64), minlength=bins)
    return float(counts.var() / counts.mean())


def _none_for_nan(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value


def _nan_for_none(value: Any) -> Any:
    return math.nan if value is None else value
