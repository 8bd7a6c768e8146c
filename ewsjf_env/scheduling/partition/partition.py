"""The partition of prompt lengths into queues, and Refine-and-Prune, which finds it.

Notation: D, x, w, N, segments and borders as in `length_sample`;
    n_min   max(20, 0.005 N): a class of traffic smaller than this is not worth a queue
"""

from __future__ import annotations

import itertools
import math
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike

from ewsjf_env.config import ConfigError, check_range, closest, from_dict, to_dict
from ewsjf_env.scheduling.partition.length_sample import LengthSample

PruneRule = Literal["ward", "delay", "paper_low", "paper_high"]

REFERENCE_TOKENS = 512.0  # the mean of a queue about which nothing is known
_COARSE_SEGMENTS = 3
_MASS_TOLERANCE = 1e-6


@dataclass(frozen=True)
class Partition:
    """Contiguous queues over prompt lengths, short to long; every length belongs to one.

    Attributes:
        cuts: tokens, ascending, >= 1; queue i holds cuts[i-1] < b <= cuts[i], the first from 0,
            the last without limit.
        means: mean prompt tokens per queue, one more than cuts, not descending.
        masses: share of the traffic per queue, >= 0, sum 1.

    Raises:
        ConfigError: one of the above does not hold.
    """

    cuts: tuple[int, ...]
    means: tuple[float, ...]
    masses: tuple[float, ...]

    def __post_init__(self) -> None:
        for index, cut in enumerate(self.cuts):
            check_range(f"cuts[{index}]", cut, 1)
            if index and cut <= self.cuts[index - 1]:
                raise ConfigError(
                    f"cuts[{index}]: {cut} must be above the cut before it, {self.cuts[index - 1]}"
                )
        for name, values in (("means", self.means), ("masses", self.masses)):
            if len(values) != self.queues:
                raise ConfigError(
                    f"{name}: {len(values)} values for {self.queues} queues "
                    "(one more than cuts is allowed)"
                )
        for index, mean in enumerate(self.means):
            check_range(f"means[{index}]", mean, self.means[index - 1] if index else 0.0)
        for index, mass in enumerate(self.masses):
            check_range(f"masses[{index}]", mass, 0.0, 1.0 + _MASS_TOLERANCE)
        if abs(math.fsum(self.masses) - 1.0) > _MASS_TOLERANCE:
            raise ConfigError(f"masses: the sum {math.fsum(self.masses):g} must be 1")

    @property
    def queues(self) -> int:
        """Number of queues, >= 1."""
        return len(self.cuts) + 1

    def route(self, tokens: int) -> int:
        """Index of the queue for a prompt of `tokens`; O(log Q)."""
        return bisect_left(self.cuts, tokens)

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, for JSON; inverse of `from_dict`."""
        return {name: list(values) for name, values in to_dict(self).items()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], where: str) -> Partition:
        """Read a partition from plain values; ConfigError names `where` and the field."""
        return from_dict(cls, data, where)


@dataclass(frozen=True)
class PartitionSettings:
    """How a sample of lengths is divided.

    Attributes:
        alpha: severity of the gap test, (0, 100]; smaller splits more.
        max_queues: Q_max, 1 to 64.
        max_depth: splits of a coarse segment that may be nested, 0 to 16.
        min_samples: effective sample size below which all traffic is one queue, >= 2.
        min_count, min_share: n_min = max(min_count, min_share N).
        cost_homogeneity: also split a segment whose longest prompt costs more than
            `homogeneous_ratio` times its shortest, gap or none; cost is f + b, see next but one.
        homogeneous_ratio: see there, (1, 100]; smaller makes more queues.
        fixed_cost_tokens: f, what a prefill costs at any length, in tokens, > 0: below it,
            lengths do not differ in cost and need no queues of their own.
        prune: which neighbours are merged first: the pair with the least increase of the Ward
            cost (+), with the least delay m1 m2 (mean2 - mean1) that short requests suffer behind
            long ones in one queue (+), or with the lowest or highest utility of the paper (=).
            `delay` also splits for cost at the geometric middle instead of the median, and lets
            a segment count by its share of the work, where that is the larger: a few huge
            prompts are worth a queue, since in another one they block everybody behind them.
    """

    alpha: float = 1.5
    max_queues: int = 16
    max_depth: int = 8
    min_samples: int = 200
    min_count: float = 20.0
    min_share: float = 0.005
    cost_homogeneity: bool = True
    homogeneous_ratio: float = 4.0
    fixed_cost_tokens: float = 1.0
    prune: PruneRule = "ward"

    def __post_init__(self) -> None:
        check_range("alpha", self.alpha, 0.0, 100.0, low_open=True)
        check_range("max_queues", self.max_queues, 1, 64)
        check_range("homogeneous_ratio", self.homogeneous_ratio, 1.0, 100.0, low_open=True)
        check_range("fixed_cost_tokens", self.fixed_cost_tokens, 0.0, 1e6, low_open=True)
        check_range("max_depth", self.max_depth, 0, 16)
        check_range("min_samples", self.min_samples, 2)
        check_range("min_count", self.min_count, 1.0)
        check_range("min_share", self.min_share, 0.0, 0.5)
        rules = get_args(PruneRule)
        if self.prune not in rules:
            hint = closest(str(self.prune), rules)
            raise ConfigError(f"prune: {self.prune!r} is not one of {list(rules)}{hint}")


DEFAULT_SETTINGS = PartitionSettings()


def refine_and_prune(
    lengths: ArrayLike,
    weights: ArrayLike | None = None,
    settings: PartitionSettings = DEFAULT_SETTINGS,
) -> Partition:
    """Divide prompt lengths into queues: k-means, splits at true gaps, merges of what is too fine.

    Deterministic, and the order of the sample does not matter.

    Args:
        lengths: prompt tokens, whole numbers >= 1, shape (samples,).
        weights: one per sample, >= 0, any scale; None means equal.
        settings: see `PartitionSettings`.

    Returns:
        The partition; one queue where the effective sample size is below `min_samples` or all
        lengths are equal.

    Raises:
        ConfigError: lengths or weights out of range, or of different shapes.

    Source: ALGORITHM 3 (~), with two changes that measurement asked for.  A border of the coarse
    k-means (or of a cost split) stays only where it is a significant gap or keeps a queue's
    costs within the homogeneous ratio: k-means by itself cuts every sample in three, noise too.
    A segment that is too small is merged with its nearer neighbour, not the globally nearest pair.
    """
    return divide(LengthSample.build(lengths, weights, settings.fixed_cost_tokens), settings)


def divide(sample: LengthSample, settings: PartitionSettings = DEFAULT_SETTINGS) -> Partition:
    """`refine_and_prune` of a sample that was built with f of the settings."""
    if len(sample.distinct) < 2 or sample.size < settings.min_samples:
        mean = sample.mean_tokens(0, len(sample.distinct)) if sample.size else REFERENCE_TOKENS
        return Partition((), (mean,), (1.0,))
    borders, gap_borders = _refine(sample, _coarse_borders(sample), settings)
    borders = _prune(sample, borders, gap_borders, settings)
    segments = list(itertools.pairwise(borders))
    # isqrt keeps max_left <= cut < min_right exactly, however large the lengths.
    cuts = tuple(
        math.isqrt((1 + int(sample.distinct[b - 1])) * (1 + int(sample.distinct[b]))) - 1
        for b in borders[1:-1]
    )
    return Partition(
        cuts,
        tuple(sample.mean_tokens(lo, hi) for lo, hi in segments),
        tuple(sample.mass(lo, hi) / sample.size for lo, hi in segments),
    )


def ward_cost(
    lengths: ArrayLike,
    weights: ArrayLike | None,
    partition: Partition,
    fixed_cost_tokens: float = 1.0,
) -> float:
    """Weighted mean squared distance of x = ln(f+b) from its queue's mean; 0 for no samples.

    Args:
        lengths: prompt tokens, whole numbers >= 1, shape (samples,).
        weights: one per sample, >= 0; None means equal.
        partition: the queues to judge.
        fixed_cost_tokens: f > 0.
    """
    return cost_of(LengthSample.build(lengths, weights, fixed_cost_tokens), partition)


def cost_of(sample: LengthSample, partition: Partition) -> float:
    """`ward_cost` of a sample."""
    if not sample.size:
        return 0.0
    queue = np.searchsorted(np.asarray(partition.cuts, dtype=np.float64), sample.distinct)
    mass = np.bincount(queue, sample.weights, partition.queues)
    total = np.bincount(queue, sample.weights * sample.x, partition.queues)
    mean = total / np.where(mass > 0, mass, 1.0)
    return float(np.sum(sample.weights * (sample.x - mean[queue]) ** 2) / sample.size)


def remeasure(lengths: ArrayLike, weights: ArrayLike | None, partition: Partition) -> Partition:
    """The same cuts with means and masses of another sample; a queue that got none keeps its mean.

    Args:
        lengths: prompt tokens, whole numbers >= 1, shape (samples,).
        weights: one per sample, >= 0; None means equal.
        partition: the queues to keep.
    """
    return measured_on(LengthSample.build(lengths, weights), partition)


def measured_on(sample: LengthSample, partition: Partition) -> Partition:
    """`remeasure` on a sample, whatever its f."""
    if not sample.size:
        return partition
    borders = np.searchsorted(sample.distinct, partition.cuts, side="right")
    segments = list(itertools.pairwise([0, *borders.tolist(), len(sample.distinct)]))
    kept = zip(segments, partition.means, strict=True)
    means = [sample.mean_tokens(lo, hi) if hi > lo else mean for (lo, hi), mean in kept]
    # A kept mean may have been set by hand outside of its queue.
    ascending = tuple(itertools.accumulate(means, max))
    masses = tuple(sample.mass(lo, hi) / sample.size for lo, hi in segments)
    return Partition(partition.cuts, ascending, masses)


def _least_mass(sample: LengthSample, settings: PartitionSettings) -> float:
    """n_min."""
    return max(settings.min_count, settings.min_share * sample.size)


def _coarse_borders(sample: LengthSample) -> list[int]:
    """Borders, with both ends, of weighted 1-D k-means on x; seeds at weighted quantiles."""
    levels = (2.0 * np.arange(_COARSE_SEGMENTS) + 1.0) / (2.0 * _COARSE_SEGMENTS) * sample.size
    seeds = np.minimum(np.searchsorted(sample.sum_w[1:], levels), len(sample.x) - 1)
    centres = np.unique(sample.x[seeds])
    borders = np.array([0, len(sample.x)])
    for _ in range(100):
        inner = np.searchsorted(sample.x, (centres[:-1] + centres[1:]) / 2.0)
        # A segment that has lost all its lengths is dropped.
        found = np.unique(np.concatenate(([0], inner, [len(sample.x)])))
        if np.array_equal(found, borders):
            break
        borders = found
        centres = np.diff(sample.sum_wx[borders]) / np.diff(sample.sum_w[borders])
    return [int(b) for b in borders]


def _refine(
    sample: LengthSample, borders: list[int], settings: PartitionSettings
) -> tuple[list[int], set[int]]:
    """Split segments at significant gaps, else for homogeneous cost.

    Returns:
        All borders, ascending, and those of them that lie in a significant gap.
    """
    n_min = _least_mass(sample, settings)
    found, gap_borders = set(borders), set[int]()
    stack = [(lo, hi, 0) for lo, hi in itertools.pairwise(borders)]
    while stack:
        lo, hi, depth = stack.pop()
        if depth >= settings.max_depth or hi - lo < 2:
            continue
        if _importance(sample, lo, hi, settings) < n_min or sample.is_narrow(lo, hi):
            continue
        border = _largest_gap(sample, lo, hi, settings.alpha, n_min / 2.0)
        if border is not None:
            gap_borders.add(border)
        elif settings.cost_homogeneity and sample.ratio(lo, hi) > settings.homogeneous_ratio:
            border = _cost_border(sample, lo, hi, settings)
        else:
            continue
        found.add(border)
        stack += [(lo, border, depth + 1), (border, hi, depth + 1)]
    return sorted(found), gap_borders


def _importance(sample: LengthSample, lo: int, hi: int, settings: PartitionSettings) -> float:
    """What a segment is worth, of N in all: its requests, or with rule `delay` also its work."""
    mass = sample.mass(lo, hi)
    if settings.prune != "delay":
        return mass
    work = sample.work(lo, hi) / sample.work(0, len(sample.distinct))
    return max(mass, work * sample.size)


def _cost_border(sample: LengthSample, lo: int, hi: int, settings: PartitionSettings) -> int:
    """Where a segment of unlike costs is split."""
    if settings.prune == "delay":
        border = int(np.searchsorted(sample.x, (sample.x[lo] + sample.x[hi - 1]) / 2.0))
    else:
        half = (sample.sum_w[lo] + sample.sum_w[hi]) / 2.0
        border = int(np.searchsorted(sample.sum_w, half))
    return min(max(border, lo + 1), hi - 1)


def _largest_gap(
    sample: LengthSample, lo: int, hi: int, alpha: float, min_mass: float
) -> int | None:
    """The border in the widest significant gap of a segment, in tokens."""
    found = sample.significant_gaps(lo, hi, alpha, min_mass)
    if not found.any():
        return None
    return lo + 1 + int(np.argmax(np.where(found, np.diff(sample.distinct[lo:hi]), 0.0)))


def _prune(
    sample: LengthSample, borders: list[int], gap_borders: set[int], settings: PartitionSettings
) -> list[int]:
    """Merge neighbours: segments too small, borders without a reason, more than Q_max queues."""
    least = _least_mass(sample, settings) / 2.0
    reasons: dict[tuple[int, int, int], bool] = {}

    def has_reason(lo: int, border: int, hi: int) -> bool:
        if border in gap_borders:
            return True
        if settings.cost_homogeneity and sample.ratio(lo, hi) > settings.homogeneous_ratio:
            return True
        key = (lo, border, hi)
        if key not in reasons:
            found = sample.significant_gaps(lo, hi, settings.alpha, least)[border - lo - 1]
            reasons[key] = bool(found) and not sample.is_narrow(lo, hi)
        return reasons[key]

    while len(borders) > 2:
        worth = [_importance(sample, lo, hi, settings) for lo, hi in itertools.pairwise(borders)]
        smallest = int(np.argmin(worth))
        inner = range(1, len(borders) - 1)
        if worth[smallest] < least:
            candidates = [i for i in (smallest, smallest + 1) if i in inner]
        else:
            candidates = [
                i for i in inner if not has_reason(borders[i - 1], borders[i], borders[i + 1])
            ]
        if not candidates:
            if len(borders) - 1 <= settings.max_queues:
                break
            candidates = list(inner)
        order = _merge_order(sample, borders, settings.prune)
        del borders[min(candidates, key=lambda i: order[i - 1])]
    return borders


def _merge_order(sample: LengthSample, borders: list[int], rule: PruneRule) -> list[float]:
    """Of each inner border: the smaller, the sooner its two segments are merged."""
    mass = np.diff(sample.sum_w[borders])
    if rule == "ward":
        mean = np.diff(sample.sum_wx[borders]) / mass
        order = mass[:-1] * mass[1:] / (mass[:-1] + mass[1:]) * np.diff(mean) ** 2
    elif rule == "delay":
        mean = np.diff(sample.sum_wd[borders]) / mass
        order = mass[:-1] * mass[1:] * np.diff(mean)
    else:
        ends = np.asarray(borders)
        width = sample.distinct[ends[1:] - 1] - sample.distinct[ends[:-1]] + 1.0
        density = mass / sample.size / width
        mean = np.diff(sample.sum_wd[borders]) / mass
        order = (density[:-1] + density[1:]) / (np.abs(np.diff(mean)) + 1e-9)
        if rule == "paper_high":
            order = -order
    return [float(v) for v in order]
