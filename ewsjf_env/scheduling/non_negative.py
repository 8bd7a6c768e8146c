"""Least squares with coefficients that are not negative, by active sets.

The one solver of the cost model, which learns on a scheduler's path, and of the fits of latency
models; SciPy has one, too, but a server would load it for nothing else.

Source: Lawson, Hanson, "Solving least squares problems", ch. 23, in the normal-equation form
of Bro, De Jong, "A fast non-negativity-constrained least squares algorithm" (1997).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
_RIDGE = 1e-13  # of columns that say the same, any one will do


def non_negative_least_squares(columns: Array, target: Array) -> Array:
    """The x >= 0 with the least |columns x - target|, for a handful of columns.

    Args:
        columns: shape (n, d).
        target: shape (n,).

    Returns:
        Shape (d,), each >= 0.
    """
    scale = np.linalg.norm(columns, axis=0)
    scale[scale == 0] = 1.0
    scaled = columns / scale
    gram = scaled.T @ scaled
    free = non_negative_solution(gram + _RIDGE * np.eye(len(scale)), scaled.T @ target) > 0.0
    solution = np.zeros(len(scale))
    if free.any():  # normal equations tell which coefficients are positive, but lose digits
        solution[free] = np.linalg.lstsq(scaled[:, free], target, rcond=None)[0]
    found: Array = np.maximum(solution, 0.0) / scale
    return found


def non_negative_solution(
    gram: Array, moment: Array, likely: NDArray[np.bool_] | None = None
) -> Array:
    """The theta >= 0 with the least theta G theta / 2 - h theta, by active sets.

    Args:
        gram: G, symmetric positive definite, shape (n, n).
        moment: h, shape (n,).
        likely: which are probably positive, shape (n,), for example those of the last solution.
            The one solution does not depend on it, only the time to find it.

    Returns:
        Shape (n,), each >= 0.
    """
    count = len(moment)
    tolerance = 1e-12 * float(np.max(np.abs(moment), initial=0.0))
    if likely is not None and likely.any():
        theta = _solution_on(likely, gram, moment)
        slope = (moment - gram @ theta)[~likely]
        if theta[likely].min() > 0.0 and slope.max(initial=-np.inf) <= tolerance:
            return theta
    theta, free = np.zeros(count), np.zeros(count, dtype=bool)
    for _ in range(4 * count):  # each pass frees one; more would be cycling by rounding errors
        slope = np.where(free, -np.inf, moment - gram @ theta)
        if float(np.max(slope)) <= tolerance:
            break
        free[np.argmax(slope)] = True
        while True:
            trial = _solution_on(free, gram, moment)
            negative = free & (trial <= 0.0)
            if not negative.any():
                break
            # Walk towards the trial until the first coefficient reaches zero, and fix that one.
            ratios = np.full(count, np.inf)
            ratios[negative] = theta[negative] / (theta[negative] - trial[negative])
            theta = theta + float(np.min(ratios)) * (trial - theta)
            free[np.argmin(ratios)] = False
            theta[~free] = 0.0
        theta = trial
    return np.maximum(theta, 0.0)


def _solution_on(free: NDArray[np.bool_], gram: Array, moment: Array) -> Array:
    """Least squares with all coefficients zero but the free ones; at least one is free."""
    theta = np.zeros(len(moment))
    theta[free] = np.linalg.solve(gram[np.ix_(free, free)], moment[free])
    return theta
