"""Capacities of policies from their ladders, with paired intervals over draws.

Capacity at a share is the rate at which attainment falls below it, between two rungs by a straight
line.  Attainment is made to fall with the rate first (isotonic regression), as noise does not.
Draws are resampled for all policies together, so that a ratio's interval is of pairs.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression

from agents.analysis.statistics import UNKNOWN, Estimate, interval_of
from agents.experiments.capacity.attainment import ALL, CLASSES, EACH, attained

RESAMPLES = 500
BASE = "fcfs"  # that ratios are to
Floats = NDArray[np.float64]
Ladder = Mapping[str, Any]


@dataclass(frozen=True)
class Capacity:
    """A capacity by all draws, and by each resample of them; NaN beyond the ladder.

    Attributes:
        value: requests/s.
        resampled: requests/s, shape (RESAMPLES,); the same draws for every policy.
        draws: how many there are.
    """

    value: float
    resampled: Floats
    draws: int

    @property
    def estimate(self) -> Estimate:
        """With its 95 % interval."""
        return _estimate(self.value, self.resampled, self.draws)

    def over(self, other: Capacity | None) -> Estimate:
        """The ratio to another one."""
        if other is None:
            return UNKNOWN
        ratios = self.resampled / other.resampled
        return _estimate(self.value / other.value, ratios, self.draws)


def capacity_of(ladder: Ladder, judged: str, share: float) -> Capacity:
    """The rate up to which a share of the requests keeps the level.

    Args:
        ladder: of `attainment.play_ladders`.
        judged: `all`, or `each`: every class of requests has to.
        share: in (0, 1).
    """
    rates = np.array([rung["rate_per_s"] for rung in ladder["rungs"]])
    kept, counted = (
        np.array([[rung[part][name] for name in CLASSES] for rung in ladder["rungs"]], np.float64)
        for part in ("kept", "counted")
    )  # (rungs, classes, draws)
    draws = kept.shape[2]
    if judged == ALL:
        kept, counted = kept.sum(1, keepdims=True), counted.sum(1, keepdims=True)
    weights = _weights(draws)
    good, total = kept @ weights.T, counted @ weights.T  # (rungs, classes, samples)
    with np.errstate(invalid="ignore", divide="ignore"):
        attained = np.where(total > 0.0, good / total, 1.0).min(1)
    found = np.array([_crossing(rates, column, share) for column in attained.T])
    return Capacity(float(found[0]), found[1:], draws)


def capacity_rows(
    ladders: Sequence[Ladder], shares: Sequence[float], engine: str, price_per_hour: float | None
) -> list[dict[str, Any]]:
    """One row of plain values for each policy, traffic and share.

    Args:
        ladders: of `attainment.play_ladders`.
        shares: of requests that keep the level.
        engine: its name.
        price_per_hour: of the GPU; None: no cost is told.
    """
    rows = []
    for workload in dict.fromkeys(ladder["workload"] for ladder in ladders):
        there = {one["policy"]: one for one in ladders if one["workload"] == workload}
        for share in shares:
            everybody, each = (
                {name: capacity_of(one, judged, share) for name, one in there.items()}
                for judged in (ALL, EACH)
            )
            for name, one in there.items():
                own = everybody[name]
                rivals = {n for n in there if n != name and not there[n]["oracle"]}
                best = _best({n: c for n, c in everybody.items() if n in rivals})
                row = {
                    "policy": name,
                    "oracle": one["oracle"],
                    "workload": workload,
                    "engine": engine,
                    "level": share,
                    **_plain("requests_per_s", own.estimate),
                    **_plain("ratio_to_fcfs", own.over(everybody.get(BASE))),
                    "best_rival": best,
                    **_plain("ratio_to_best_rival", own.over(everybody.get(best))),
                    **_plain("each_requests_per_s", each[name].estimate),
                    **_plain("each_ratio_to_fcfs", each[name].over(each.get(BASE))),
                    "kept_by_class": _kept_by_class(one, own.value),
                    "limit_requests_per_s": one["limit_requests_per_s"],
                }
                if price_per_hour is not None:
                    dollars = 1e6 * price_per_hour / (3600.0 * share * own.value)
                    row["price_per_million_good"] = _or_none(dollars)
                rows.append(row)
    return rows


def _crossing(rates: Floats, attained: Floats, share: float) -> float:
    falling = np.asarray(isotonic_regression(attained, increasing=False).x)
    below = np.flatnonzero(falling < share)
    if not len(below) or below[0] == 0:
        return math.nan
    i = below[0]
    part = (falling[i - 1] - share) / (falling[i - 1] - falling[i])
    return float(rates[i - 1] + part * (rates[i] - rates[i - 1]))


@functools.lru_cache(maxsize=8)
def _weights(draws: int) -> Floats:
    """How often each draw is in a sample, shape (1 + RESAMPLES, draws); the first has each once."""
    random = np.random.default_rng(draws)
    drawn = random.multinomial(draws, np.full(draws, 1.0 / draws), size=RESAMPLES)
    return np.concatenate((np.ones((1, draws)), drawn.astype(np.float64)))


def _estimate(value: float, resampled: Floats, draws: int) -> Estimate:
    inside = resampled[np.isfinite(resampled)]
    if not math.isfinite(value) or len(inside) < RESAMPLES // 2:
        return Estimate(value, math.nan, math.nan)
    return interval_of(value, inside, draws)


def _best(rivals: Mapping[str, Capacity]) -> str:
    """The name of the rival with the largest capacity; "" where there is none."""
    known = {name: c.value for name, c in rivals.items() if math.isfinite(c.value)}
    return max(known, key=known.__getitem__, default="")


def _kept_by_class(ladder: Ladder, rate_per_s: float) -> dict[str, float | None]:
    """Shares that keep the level in each class, on the rung next to a rate."""
    if not math.isfinite(rate_per_s):
        return dict.fromkeys(CLASSES)
    rung = min(ladder["rungs"], key=lambda one: abs(one["rate_per_s"] - rate_per_s))
    return {name: attained(rung, name) if sum(rung["counted"][name]) else None for name in CLASSES}


def _plain(name: str, found: Estimate) -> dict[str, float | None]:
    """A value and its limits; those of `requests_per_s` are called `low` and `high` alone."""
    prefix = "" if name == "requests_per_s" else f"{name}_"
    return {
        name: _or_none(found.value),
        f"{prefix}low": _or_none(found.low),
        f"{prefix}high": _or_none(found.high),
    }


def _or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None
