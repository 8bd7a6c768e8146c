"""How sure is a difference between two policies that met the same traces?

The resampling unit is the seed: all windows, requests and policies of a seed share one drawn
trace, so policies are compared seed by seed and seeds are resampled together (Efron's
percentile bootstrap, paired).  With five seeds an interval is rough; it never is narrower than
what five traces can tell.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

RESAMPLES = 4000
LEVEL = 0.95

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A value with the limits of its 95 % interval; all NaN where nothing can be said."""

    value: float
    low: float
    high: float

    @property
    def known(self) -> bool:
        """False where the value is NaN."""
        return not math.isnan(self.value)


UNKNOWN = Estimate(math.nan, math.nan, math.nan)


def mean(values: ArrayLike) -> Estimate:
    """Mean over seeds, shape (seeds,); NaN entries are left out."""
    kept = _kept(values)
    return _estimate(kept.mean(), _resample(len(kept), kept)) if len(kept) else UNKNOWN


def ratio(values: ArrayLike, reference: ArrayLike) -> Estimate:
    """Ratio of the means of two paired samples, shape (seeds,) each."""
    a, b = _pairs(values, reference)
    if not len(a) or b.mean() == 0.0:
        return UNKNOWN
    above, below = _resample(len(a), a), _resample(len(b), b)
    drawn = np.divide(above, below, out=np.full_like(above, np.nan), where=below != 0)
    return _estimate(a.mean() / b.mean(), drawn)


def difference(values: ArrayLike, reference: ArrayLike) -> Estimate:
    """Mean of the paired differences `values` - `reference`, shape (seeds,) each."""
    a, b = _pairs(values, reference)
    return mean(a - b) if len(a) else UNKNOWN


def _kept(values: ArrayLike) -> Floats:
    array = np.asarray(values, dtype=np.float64)
    return np.asarray(array[np.isfinite(array)], dtype=np.float64)


def _pairs(values: ArrayLike, reference: ArrayLike) -> tuple[Floats, Floats]:
    a, b = np.asarray(values, dtype=np.float64), np.asarray(reference, dtype=np.float64)
    if a.shape != b.shape:
        raise ValueError(f"paired samples differ in shape: {a.shape} and {b.shape}")
    both = np.isfinite(a) & np.isfinite(b)
    return a[both], b[both]


def _resample(n: int, values: Floats) -> Floats:
    """Means of bootstrap samples, shape (RESAMPLES,); equal n draws equal seeds: paired."""
    index = np.random.default_rng(n).integers(0, n, size=(RESAMPLES, n))
    return np.asarray(values[index].mean(axis=1), dtype=np.float64)


def _estimate(value: float, drawn: Floats) -> Estimate:
    tail = 50.0 * (1.0 - LEVEL)
    low, high = np.nanpercentile(drawn, (tail, 100.0 - tail))
    return Estimate(float(value), float(low), float(high))
