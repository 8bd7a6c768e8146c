"""A sample of prompt lengths, sorted, counted and summed.

Notation, arrays over the sorted distinct lengths of the sample:
    D   distinct lengths in tokens, ascending, shape (n,)    w   their weights, shape (n,)
    f   fixed cost of a prefill, in tokens (1 where nothing is known about it)
    x   ln(f + D): a factor in cost is the same step everywhere
    N   effective sample size, (sum w)^2 / sum w^2 over samples; w is scaled so that it sums to N
A segment is a range [lo, hi) of positions in D; a border is the position where one begins.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ewsjf_env.config import ConfigError
from ewsjf_env.scheduling.partition.gaps import significant_gaps

Array = NDArray[np.float64]

_NARROW = 0.2  # width as a share of the mean
_NEGLIGIBLE = 1e-9  # a weight this far below the largest would drown in rounding errors


@dataclass(frozen=True)
class LengthSample:
    """Distinct lengths with their weights and running sums.

    Attributes:
        distinct: D, tokens, shape (n,).
        x: shape (n,).
        weights: w, shape (n,), sum N.
        size: N; 0 for an empty sample.
        fixed_cost_tokens: f.
        sum_w, sum_wd, sum_wx: running sums of w, wD and wx, shape (n+1,), beginning with 0.
    """

    distinct: Array
    x: Array
    weights: Array
    size: float
    fixed_cost_tokens: float
    sum_w: Array
    sum_wd: Array
    sum_wx: Array

    @classmethod
    def build(
        cls, lengths: ArrayLike, weights: ArrayLike | None, fixed_cost_tokens: float = 1.0
    ) -> LengthSample:
        """Check, sort and count a sample; the order of the samples does not matter to the bit.

        Args:
            lengths: prompt tokens, whole numbers >= 1, shape (samples,).
            weights: one per sample, >= 0, any scale; None means equal.  Those below 1e-9 of the
                largest are left out.
            fixed_cost_tokens: f > 0.

        Raises:
            ConfigError: a value out of range, or different shapes.
        """
        b = np.asarray(lengths, dtype=np.float64)
        w = np.ones(b.shape) if weights is None else np.asarray(weights, dtype=np.float64)
        if b.ndim != 1 or b.shape != w.shape:
            raise ConfigError(f"weights: shape {w.shape} must be that of lengths, {b.shape}, 1-D")
        bad = ~((b >= 1) & (b < 2**31) & (b == np.floor(b)))
        if bad.any():
            raise ConfigError(f"lengths: {b[bad][0]:g} is no whole number in [1, {2**31})")
        bad = ~((w >= 0) & np.isfinite(w))
        if bad.any():
            raise ConfigError(f"weights: {w[bad][0]:g} is outside [0, inf)")
        # Sorted by weight too, so that sums do not depend on the order of the sample.
        order = np.lexsort((w, b))
        b, w = b[order], w[order]
        largest = float(np.max(w, initial=0.0))
        if largest == 0.0:
            empty = np.zeros(0)
            zero = np.zeros(1)
            return cls(empty, empty, empty, 0.0, fixed_cost_tokens, zero, zero, zero)
        w = w / largest  # squares of tiny or huge weights would leave the float range
        b, w = b[w > _NEGLIGIBLE], w[w > _NEGLIGIBLE]
        size = float(np.sum(w)) ** 2 / float(np.sum(w * w))
        starts = np.flatnonzero(np.diff(b, prepend=0.0))
        distinct = b[starts]
        mass = np.add.reduceat(w, starts)
        mass = mass * (size / float(np.sum(mass)))
        x = np.log(fixed_cost_tokens + distinct)
        sums = (np.concatenate(([0.0], np.cumsum(v))) for v in (mass, mass * distinct, mass * x))
        return cls(distinct, x, mass, float(np.sum(mass)), fixed_cost_tokens, *sums)

    # Single numbers of an array take several times as long as those of a list.

    @cached_property
    def _lengths(self) -> list[float]:
        return _listed(self.distinct)

    @cached_property
    def _masses(self) -> list[float]:
        return _listed(self.sum_w)

    @cached_property
    def _works(self) -> list[float]:
        return _listed(self.sum_wd)

    def mass(self, lo: int, hi: int) -> float:
        """Weight of a segment, of N in all."""
        return self._masses[hi] - self._masses[lo]

    def work(self, lo: int, hi: int) -> float:
        """Sum of wD of a segment."""
        return self._works[hi] - self._works[lo]

    def mean_tokens(self, lo: int, hi: int) -> float:
        """Mean length of a segment; rounding errors of the sums never take it outside."""
        mean = self.work(lo, hi) / self.mass(lo, hi)
        return min(max(mean, self._lengths[lo]), self._lengths[hi - 1])

    def ratio(self, lo: int, hi: int) -> float:
        """How many times the cost of the shortest is that of the longest."""
        f = self.fixed_cost_tokens
        return (f + self._lengths[hi - 1]) / (f + self._lengths[lo])

    def is_narrow(self, lo: int, hi: int) -> bool:
        """Whether the lengths of a segment are too much alike to be told apart."""
        width = self._lengths[hi - 1] - self._lengths[lo]
        return width < _NARROW * self.mean_tokens(lo, hi)

    def significant_gaps(
        self, lo: int, hi: int, alpha: float, min_mass: float
    ) -> NDArray[np.bool_]:
        """Shape (hi-lo-1,): true where the segment may be split, see `gaps`."""
        segment = slice(lo, hi)
        return significant_gaps(
            self.distinct[segment], self.weights[segment], alpha, min_mass, len(self.distinct) - 1
        )


def _listed(array: Array) -> list[float]:
    found: list[float] = array.tolist()
    return found
