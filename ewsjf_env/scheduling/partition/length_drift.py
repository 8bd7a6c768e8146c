"""A test for a change in the mix of prompt lengths.

Two signs, each a number in [0, 1]: the Kolmogorov-Smirnov distance between the lengths of late
and a reference sample, and the share of the traffic that has moved to other queues.

Source: ALGORITHM 6, guards: drift of lengths re-partitions (+).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ewsjf_env.config import check_range
from ewsjf_env.scheduling.partition.partition import Partition

Array = NDArray[np.float64]

_KS_ONE_IN_A_THOUSAND = 1.95  # sqrt(-ln(0.001 / 2) / 2)


@dataclass(frozen=True)
class DriftSettings:
    """When a change of the mix counts as drift.

    Attributes:
        window: latest arrivals that are compared, >= 50.
        check_interval_s: least time between two comparisons, >= 0.
        ks_distance: least Kolmogorov-Smirnov distance, (0, 1]; it must also be significant at
            one in a thousand.  Arrivals of real traffic depend on each other, so that
            significance alone fires all the time.
        share_shift: least share of the traffic in other queues than before, (0, 1].
    """

    window: int = 512
    check_interval_s: float = 60.0
    ks_distance: float = 0.15
    share_shift: float = 0.2

    def __post_init__(self) -> None:
        check_range("window", self.window, 50)
        check_range("check_interval_s", self.check_interval_s, 0.0)
        check_range("ks_distance", self.ks_distance, 0.0, 1.0, low_open=True)
        check_range("share_shift", self.share_shift, 0.0, 1.0, low_open=True)


@dataclass(frozen=True)
class Reference:
    """A sample to compare with: lengths ascending, their cumulative shares, effective size."""

    lengths: Array
    shares: Array
    size: float

    @classmethod
    def build(cls, lengths: ArrayLike, weights: ArrayLike) -> Reference:
        """Sort a sample, shape (n,) with n >= 1, of positive weights."""
        b, w = np.asarray(lengths, dtype=np.float64), np.asarray(weights, dtype=np.float64)
        order = np.argsort(b, kind="stable")
        total = np.cumsum(w[order])
        size = float(total[-1]) ** 2 / float(np.sum(w * w))
        return cls(b[order], total / total[-1], size)


def ks_distance(recent: Array, reference: Reference) -> float:
    """Largest difference of the two distribution functions, [0, 1].

    Args:
        recent: lengths, any order, shape (n,), n >= 1.
        reference: what they are compared with.
    """
    late = np.sort(recent)
    points = np.concatenate((late, reference.lengths))  # one that comes twice changes nothing
    of_late = np.searchsorted(late, points, side="right") / len(late)
    before = np.concatenate(([0.0], reference.shares))
    of_reference = before[np.searchsorted(reference.lengths, points, side="right")]
    return float(np.max(np.abs(of_late - of_reference)))


def share_shift(recent: Array, partition: Partition) -> float:
    """Share of the traffic in other queues than the partition's masses say, [0, 1]."""
    queue = np.searchsorted(np.asarray(partition.cuts, dtype=np.float64), recent)
    shares = np.bincount(queue, minlength=partition.queues) / len(recent)
    return float(np.sum(np.abs(shares - np.asarray(partition.masses)))) / 2.0


def has_drifted(
    recent: Array, reference: Reference | None, partition: Partition, settings: DriftSettings
) -> bool:
    """Whether one of the two signs is large enough; without a reference only the shares count."""
    if share_shift(recent, partition) >= settings.share_shift:
        return True
    if reference is None:
        return False
    least = least_ks_distance(len(recent), reference, settings)
    return ks_distance(recent, reference) >= least


def least_ks_distance(recent: int, reference: Reference, settings: DriftSettings) -> float:
    """The distance from which on so many late lengths have drifted away from a reference."""
    size = recent * reference.size / (recent + reference.size)
    return max(settings.ks_distance, _KS_ONE_IN_A_THOUSAND / math.sqrt(size))
