"""Gaps between prompt lengths that are no accident.

Notation, arrays over the sorted distinct lengths of a segment:
    D    distinct lengths in tokens, ascending, shape (n,)     w    their weights, shape (n,)
    e    missing lengths, e[j] = D[j+1] - D[j] - 1, shape (n-1,)
    loc  1 + mean of e over the k <= 2 NEIGHBOURS gaps around j, without j, shape (n-1,)
    T    alpha (ln(gaps of the whole sample) + 2.97)

The gaps of a random sample are close to exponential around a slowly changing local mean, and the
largest of g exponential gaps exceeds their mean ln(g) + G times, G after the Gumbel law: one
sample in twenty has a gap above ln(g) + 2.97 means.  The mean itself is estimated from k gaps, so
the ratio has the tail (1 + t/k)^-k rather than exp(-t); a gap counts where e > t loc with
t = k (exp(T/k) - 1), which has the tail exp(-T) again.
"""

from __future__ import annotations

import functools
import math

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

NEIGHBOURS = 25
GUMBEL_5_PERCENT = 2.97  # -ln(-ln 0.95)
_LEAST_COUNT = 8  # a handful of lengths, each repeated, is no continuous sample: stop correcting


def local_means(missing: Array) -> tuple[Array, NDArray[np.int64]]:
    """The mean of the up to NEIGHBOURS gaps on each side, the gap itself left out.

    Args:
        missing: e, missing lengths of each gap, shape (g,).

    Returns:
        loc >= 1, shape (g,), and k, the number of gaps in each mean, shape (g,).
    """
    total = np.concatenate(((0.0,), missing.cumsum()))
    index = np.arange(len(missing))
    before = np.minimum(index, NEIGHBOURS)
    behind = before[::-1]
    count = before + behind
    # Whole numbers far below 2**53: the difference of the sums is exact, never negative.
    others = total[index + behind + 1] - total[index - before] - missing
    return 1.0 + others / np.maximum(count, 1), count


def significant_gaps(
    lengths: Array, weights: Array, alpha: float, min_mass: float, sample_gaps: int
) -> NDArray[np.bool_]:
    """Where a sample of lengths has a gap that chance does not explain.

    Args:
        lengths: D, distinct prompt tokens of one segment, ascending, shape (n,), n >= 1.
        weights: w, shape (n,).
        alpha: severity, > 0; 1.5 makes a false alarm on random lengths rarer than one per cent.
        min_mass: least weight on each side of a gap; outliers form no class of traffic.
        sample_gaps: gaps between distinct lengths in the whole sample, >= n - 1.

    Returns:
        Shape (n-1,), true where the sample may be split between D[j] and D[j+1].

    Source: ALGORITHM 3, refine (~), with three changes that measurement asked for.  The threshold
    allows for the error of the local mean, and counts the gaps of the whole sample instead of the
    segment's, because all segments are tested: without them uniform lengths were split in up to
    three per cent of the samples at alpha 1.5.  Every gap is tested, not only the eight largest:
    the largest gaps of a heavy tail all lie in the tail and hid a true gap further down.
    """
    missing = lengths[1:] - lengths[:-1] - 1.0
    severity = alpha * (math.log(max(2, sample_gaps)) + GUMBEL_5_PERCENT)
    thresholds = _thresholds(severity)
    if not len(missing) or missing.max() <= thresholds[-1]:  # the lowest, and no mean is below 1
        return np.zeros(len(missing), np.bool_)
    means, count = local_means(missing)
    found: NDArray[np.bool_] = missing > thresholds[count] * means
    if found.any():
        left = np.cumsum(weights)[:-1]
        right = float(np.sum(weights)) - left
        found &= (left >= min_mass) & (right >= min_mass)
    return found


@functools.lru_cache(maxsize=16)
def _thresholds(severity: float) -> Array:
    """Values of t for each number of gaps in the mean, shape (2 NEIGHBOURS + 1,), not ascending."""
    count = np.maximum(np.arange(2.0 * NEIGHBOURS + 1.0), _LEAST_COUNT)
    found: Array = count * np.expm1(np.minimum(severity / count, 50.0))
    return found
