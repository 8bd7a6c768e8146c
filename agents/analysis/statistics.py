"""Paired differences of policies that met the same traces, with intervals.

The resampling unit is the seed: all windows, requests and policies of a seed share one drawn
trace, so policies are compared seed by seed and seeds are resampled together (paired
bootstrap).  With few seeds the plain percentile interval is too narrow; its percentiles are
moved outwards by the factors of a t interval (Hesterberg, "What Teachers Should Know About the
Bootstrap", 2015, "expanded percentile").  One seed has a value but no interval.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

RESAMPLES = 10_000
LEVEL = 0.95

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A value with the limits of its 95 % interval; NaN where nothing can be said."""

    value: float
    low: float
    high: float

    @property
    def known(self) -> bool:
        """False where the value is NaN."""
        return not math.isnan(self.value)

    @property
    def bounded(self) -> bool:
        """False where there is no interval: unknown, or a single seed."""
        return not (math.isnan(self.low) or math.isnan(self.high))


UNKNOWN = Estimate(math.nan, math.nan, math.nan)


def mean(values: ArrayLike) -> Estimate:
    """Mean over seeds, shape (seeds,); NaN entries are left out."""
    array = np.asarray(values, dtype=np.float64)
    kept = array[np.isfinite(array)]
    if not len(kept):
        return UNKNOWN
    return interval_of(float(kept.mean()), _resampled_means(kept), len(kept))


def ratio(values: ArrayLike, reference: ArrayLike) -> Estimate:
    """Ratio of the means of two paired samples, shape (seeds,) each."""
    a, b = _pairs(values, reference)
    if not len(a) or b.mean() == 0.0:
        return UNKNOWN
    above, below = _resampled_means(a), _resampled_means(b)
    drawn = above[below != 0] / below[below != 0]
    return interval_of(float(a.mean() / b.mean()), drawn, len(a))


def difference(values: ArrayLike, reference: ArrayLike) -> Estimate:
    """Mean of the paired differences `values` - `reference`, shape (seeds,) each."""
    a, b = _pairs(values, reference)
    return mean(a - b)


def interval_of(value: float, drawn: Floats, n: int) -> Estimate:
    """A value with its interval, from what bootstrap samples of n seeds gave, shape (samples,)."""
    if n < 2:
        return Estimate(value, math.nan, math.nan)
    tail = _tail_percent(n)
    low, high = np.percentile(drawn, (tail, 100.0 - tail))
    return Estimate(value, float(low), float(high))


def _pairs(values: ArrayLike, reference: ArrayLike) -> tuple[Floats, Floats]:
    a, b = np.asarray(values, dtype=np.float64), np.asarray(reference, dtype=np.float64)
    if a.shape != b.shape:
        raise ValueError(f"paired samples differ in shape: {a.shape} and {b.shape}")
    both = np.isfinite(a) & np.isfinite(b)
    return a[both], b[both]


def _resampled_means(values: Floats) -> Floats:
    """Means of bootstrap samples, shape (RESAMPLES,); equal lengths draw equal seeds: paired."""
    return np.asarray(_weights(len(values)) @ values, dtype=np.float64)


@functools.lru_cache(maxsize=32)
def _weights(n: int) -> Floats:
    """Share of each of n seeds in each bootstrap sample, shape (RESAMPLES, n)."""
    counts = np.random.default_rng(n).multinomial(n, np.full(n, 1.0 / n), size=RESAMPLES)
    return np.asarray(counts / n, dtype=np.float64)


@functools.lru_cache(maxsize=32)
def _tail_percent(n: int) -> float:
    """Percentile of the lower limit for n seeds, in percent."""
    t = float(stats.t.ppf(0.5 + 0.5 * LEVEL, n - 1))
    return 100.0 * float(stats.norm.cdf(-t * math.sqrt(n / (n - 1))))
