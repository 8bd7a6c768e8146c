"""Scores of arms over several workloads, given one score for each run.

Scores are tables of shape (seeds, workloads), larger is better, made comparable between
workloads beforehand (for example default = 0, best found by anyone = 1).  Measures after
Agarwal et al., "Deep RL at the Edge of the Statistical Precipice", 2021.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from agents.analysis.statistics import Estimate, interval_of


def iqm(scores: ArrayLike) -> float:
    """Interquartile mean: of the middle half of all scores, any shape."""
    return float(stats.trim_mean(np.asarray(scores, dtype=np.float64), 0.25, axis=None))


def probability_of_improvement(scores: ArrayLike, reference: ArrayLike) -> float:
    """Chance that a run scores above one of the reference, ties counting half, in [0, 1].

    Numbers of seeds may differ.  All pairs of runs of a workload are compared, and workloads
    count alike.

    Raises:
        ValueError: not two tables with the same number of workloads.
    """
    a, b = np.asarray(scores, dtype=np.float64), np.asarray(reference, dtype=np.float64)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise ValueError(f"expected two tables (seeds, workloads), got {a.shape} and {b.shape}")
    gaps = a[:, np.newaxis, :] - b[np.newaxis, :, :]
    return float(np.mean(0.5 * (np.sign(gaps) + 1.0)))


def stratified(
    statistic: Callable[..., float], *arms: ArrayLike, resamples: int = 2000, seed: int = 0
) -> Estimate:
    """A statistic of whole tables, with the 95 % interval of a paired, stratified bootstrap.

    Args:
        statistic: called as statistic(*arms), for example `iqm`, or a difference of two.
        *arms: tables of one shape; row s of every arm met the same traces.  Seeds are resampled
            inside every workload, for all arms with the same draws.
        resamples: number of bootstrap samples, >= 1.
        seed: of the draws.

    Raises:
        ValueError: the tables differ in shape, are empty, or have not two dimensions.
    """
    tables = [np.asarray(arm, dtype=np.float64) for arm in arms]
    shapes = sorted({table.shape for table in tables})
    if len(shapes) != 1 or len(shapes[0]) != 2 or 0 in shapes[0]:
        raise ValueError(f"expected tables (seeds, workloads) of one shape, got {shapes}")
    n, workloads = shapes[0]
    random, columns = np.random.default_rng(seed), np.arange(workloads)
    drawn = []
    for _ in range(resamples):
        rows = random.integers(0, n, size=(n, workloads))
        drawn.append(statistic(*(table[rows, columns] for table in tables)))
    return interval_of(float(statistic(*tables)), np.array(drawn, dtype=np.float64), n)
