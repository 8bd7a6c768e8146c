"""The cost model C(b): what `scheduling.cost.PrefillCostModel` does with a batch of steps.

Notation and formulas as there.  Sums are taken in another order than by its linear algebra, so
that coefficients agree to about thirteen digits.
"""

from __future__ import annotations

import numpy as np

from ewsjf_env.engine.compiled.compiler import inner
from ewsjf_env.engine.compiled.state import LEARNT_STEPS
from ewsjf_env.engine.compiled.views import batch_of, clock_of, fit_of, gram_of, model_of, policy_of, View
from ewsjf_env.scheduling import cost

SCALES = cost.SCALES
RIDGE, CLIP = cost._RIDGE, cost._CLIP
LEAST_SPREAD, SPREAD_MEMORY = cost._LEAST_SPREAD, cost._SPREAD_MEMORY
LEAST_JUDGED = cost._R2_LEAST_STEPS
COUNT = len(SCALES)


@inner
def learn(s: View) -> None:
    """Judge a batch of steps by the coefficients so far, then learn from it."""
    batch, fit, gram = batch_of(s), fit_of(s), gram_of(s)
    c, p, m = clock_of(s), policy_of(s), model_of(s)
    theta, prior, moment, gram = fit[0], fit[1], fit[2], gram
    features = batch[:, :COUNT] / SCALES
    measured = batch[:, COUNT]
    expected = np.zeros(LEARNT_STEPS)
    for row in range(LEARNT_STEPS):
        for j in range(COUNT):
            expected[row] += features[row, j] * theta[j]
    clipped = _clip(s, measured, expected)
    weights = m.forgetting ** np.arange(LEARNT_STEPS - 1, -1, -1.0)
    kept = m.forgetting ** float(LEARNT_STEPS)
    m.observed += LEARNT_STEPS
    if m.observed > LEARNT_STEPS:
        _judge(s, clipped, clipped - expected, weights, kept)
    gram *= kept
    moment *= kept
    for row in range(LEARNT_STEPS):
        for j in range(COUNT):
            weighted = features[row, j] * weights[row]
            moment[j] += weighted * clipped[row]
            for k in range(COUNT):
                gram[j, k] += weighted * features[row, k]
    level = _prior_level(s, features, clipped, weights, kept)
    loaded, target = gram.copy(), np.empty(COUNT)
    for j in range(COUNT):
        loaded[j, j] += RIDGE + 1e-12 * gram[j, j]
        target[j] = moment[j] + RIDGE * (level * prior[j])
    theta[:] = non_negative_solution(loaded, target, theta > 0.0)
    if m.r2 >= m.least_r2 and m.judged_steps >= LEAST_JUDGED:
        p.c0, p.c1, p.c2 = theta[0] / SCALES[0], theta[1] / SCALES[1], theta[2] / SCALES[2] / 2.0
    else:
        p.c0, p.c1, p.c2 = m.prior_c0, m.prior_c1, m.prior_c2
    c.batch = 0


@inner
def _clip(s: View, measured: np.ndarray, expected: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
    m = model_of(s)
    base = np.maximum(expected, policy_of(s).least_cost_s)
    relative = (measured - base) / base
    if m.spread != m.spread:
        m.spread = max(np.median(np.abs(relative)), LEAST_SPREAD)
    limit = CLIP * m.spread
    relative = np.minimum(np.maximum(relative, -limit), limit)
    memory = SPREAD_MEMORY ** float(len(relative))
    spread = memory * m.spread + (1.0 - memory) * np.mean(np.abs(relative))
    m.spread = max(spread, LEAST_SPREAD)
    return base * (1.0 + relative)


@inner
def _judge(
    s: View,
    measured: np.ndarray,  # type: ignore[type-arg]
    errors: np.ndarray,  # type: ignore[type-arg]
    weights: np.ndarray,  # type: ignore[type-arg]
    kept: float,
) -> None:
    m = model_of(s)
    total = first = second = squared = 0.0
    for row in range(len(measured)):
        weight, y = weights[row], measured[row]
        total += weight
        first += weight * y
        second += weight * y * y
        squared += weight * errors[row] * errors[row]
    m.judged_total = kept * m.judged_total + total
    m.judged_first = kept * m.judged_first + first
    m.judged_second = kept * m.judged_second + second
    m.judged_squared = kept * m.judged_squared + squared
    m.judged_steps += len(measured)
    variation = m.judged_second - m.judged_first * m.judged_first / m.judged_total
    explained = variation > 1e-9 * m.judged_second
    m.r2 = max(-1.0, 1.0 - m.judged_squared / variation) if explained else 0.0


@inner
def _prior_level(
    s: View,
    features: np.ndarray,  # type: ignore[type-arg]
    measured: np.ndarray,  # type: ignore[type-arg]
    weights: np.ndarray,  # type: ignore[type-arg]
    kept: float,
) -> float:
    fit = fit_of(s)
    m, prior = model_of(s), fit[1]
    product = square = 0.0
    for row in range(len(measured)):
        if features[row, 1] <= 0.0:
            continue
        prior_s = 0.0
        for j in range(COUNT):
            prior_s += features[row, j] * prior[j]
        product += measured[row] * prior_s * weights[row]
        square += prior_s * prior_s * weights[row]
    m.level_product = kept * m.level_product + product
    m.level_square = kept * m.level_square + square
    return m.level_product / m.level_square if m.level_square > 0.0 else 1.0


@inner
def non_negative_solution(gram, moment, likely):  # type: ignore[no-untyped-def]
    """Non-negative least squares by active sets, as `cost.non_negative_solution`."""
    tolerance = 1e-12 * np.max(np.abs(moment))
    if likely.any():
        theta = _solution_on(likely, gram, moment)
        good = True
        for j in range(COUNT):
            if likely[j]:
                good = good and theta[j] > 0.0
            else:
                good = good and _slope(gram, moment, theta, j) <= tolerance
        if good:
            return theta
    theta, free = np.zeros(COUNT), np.zeros(COUNT, np.bool_)
    for _ in range(4 * COUNT):
        steepest, most = -1, -np.inf
        for j in range(COUNT):
            if not free[j]:
                slope = _slope(gram, moment, theta, j)
                if slope > most:
                    steepest, most = j, slope
        if most <= tolerance:
            break
        free[steepest] = True
        while True:
            trial = _solution_on(free, gram, moment)
            first, least = -1, np.inf
            for j in range(COUNT):
                if free[j] and trial[j] <= 0.0:
                    ratio = theta[j] / (theta[j] - trial[j])
                    if ratio < least:
                        first, least = j, ratio
            if first < 0:
                break
            theta = theta + least * (trial - theta)
            free[first] = False
            for j in range(COUNT):
                if not free[j]:
                    theta[j] = 0.0
        theta = trial
    return np.maximum(theta, 0.0)


@inner
def _slope(gram, moment, theta, j):  # type: ignore[no-untyped-def]
    product = 0.0
    for k in range(COUNT):
        product += gram[j, k] * theta[k]
    return moment[j] - product


@inner
def _solution_on(free, gram, moment):  # type: ignore[no-untyped-def]
    """Least squares with all coefficients zero but the free ones; at least one is free."""
    chosen = np.flatnonzero(free)
    size = len(chosen)
    a, b = np.empty((size, size)), np.empty(size)
    for j in range(size):
        b[j] = moment[chosen[j]]
        for k in range(size):
            a[j, k] = gram[chosen[j], chosen[k]]
    for column in range(size):  # elimination with row pivots
        pivot = column
        for j in range(column + 1, size):
            if abs(a[j, column]) > abs(a[pivot, column]):
                pivot = j
        if pivot != column:
            b[column], b[pivot] = b[pivot], b[column]
            for k in range(size):
                a[column, k], a[pivot, k] = a[pivot, k], a[column, k]
        for j in range(column + 1, size):
            factor = a[j, column] / a[column, column]
            b[j] -= factor * b[column]
            for k in range(column, size):
                a[j, k] -= factor * a[column, k]
    theta = np.zeros(len(moment))
    for column in range(size - 1, -1, -1):
        value = b[column]
        for k in range(column + 1, size):
            value -= a[column, k] * theta[chosen[k]]
        theta[chosen[column]] = value / a[column, column]
    return theta
