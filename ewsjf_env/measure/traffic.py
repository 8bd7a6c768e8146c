"""Statistics of a window's traffic, and of what is left of it at its end.

Everything is read off request records, so it is the same for every engine.  Notation:
    b_i  prompt tokens of request i      C(b)  its prefill cost alone, in seconds
"""

from __future__ import annotations

import dataclasses
import math
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ewsjf_env.measure.records import RequestRecord
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
            for name, value in dataclasses.asdict(self).items()
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


def traffic_statistics(
    records: Sequence[RequestRecord],
    start_s: float,
    end_s: float,
    prefill_cost_s: Callable[[int], float],
) -> TrafficStatistics:
    """Statistics of the window [start_s, end_s), end_s > start_s.

    Args:
        records: any superset of the window's requests; events after `end_s` are ignored.
        start_s: start of the window in engine seconds.
        end_s: its end.
        prefill_cost_s: C(b): prompt tokens -> seconds, > 0.
    """
    prompt = prompts_arrived(records, start_s, end_s)
    cost = np.array([prefill_cost_s(int(b)) for b in prompt])
    seen = [r for r in records if r.arrival_s < end_s]
    waiting = [r for r in seen if r.first_token_s is None or r.first_token_s >= end_s]
    started = len(seen) - len(waiting)
    finished = sum(r.finish_s is not None and r.finish_s < end_s for r in seen)
    classes = np.searchsorted(LENGTH_EDGES, prompt)
    moments = np.array([r.arrival_s for r in seen if r.arrival_s >= start_s])
    return TrafficStatistics(
        arrival_rate_per_s=len(prompt) / (end_s - start_s),
        burst_index=_burst_index(moments - start_s, end_s - start_s),
        prompt_tokens_mean=float(prompt.mean()) if len(prompt) else math.nan,
        count_shares=_shares(classes, np.ones(len(prompt))),
        work_shares=_shares(classes, cost),
        queue_depth=len(waiting),
        oldest_age_s=max((end_s - r.arrival_s for r in waiting), default=0.0),
        running=started - finished,
    )


def queue_statistics(
    prompt_tokens: Sequence[int] | NDArray[np.int64],
    cuts: Sequence[int],
    prefill_cost_s: Callable[[int], float],
) -> QueueStatistics:
    """How the prompts (n,) fill the queues between `cuts` (ascending tokens)."""
    prompt = np.asarray(prompt_tokens, dtype=np.int64)
    index = np.array([bisect_left(cuts, int(b)) for b in prompt], dtype=np.int64)
    cost = np.array([prefill_cost_s(int(b)) for b in prompt])
    queues = len(cuts) + 1
    work = np.bincount(index, weights=cost, minlength=queues)
    spread = 0.0
    for queue in range(queues):
        inside = prompt[index == queue]
        if len(inside):
            spread += len(inside) / len(prompt) * float(inside.std() / inside.mean())
    work_cv = float(work.std() / work.mean()) if work.sum() > 0 else 0.0
    return QueueStatistics(queues, spread, work_cv)


def prompts_arrived(
    records: Sequence[RequestRecord], start_s: float, end_s: float
) -> NDArray[np.int64]:
    """Prompt tokens (n,) of the requests that arrived in [start_s, end_s)."""
    chosen = [r.prompt_tokens for r in records if start_s <= r.arrival_s < end_s]
    return np.array(chosen, dtype=np.int64)


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
