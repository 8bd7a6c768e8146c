"""The cost model C(b): what `scheduling.cost.PrefillCostModel` does with a batch of steps.

Notation and formulas as there.  Sums are taken in another order than by its linear algebra, so
that coefficients agree to about thirteen digits.  Plain loops, because arithmetic on whole arrays
takes several times as long to compile.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ewsjf_env.engine.compiled.kernel.compiler import inner
from ewsjf_env.engine.compiled.kernel.state import LEARNT_STEPS, STEP_FEATURES
from ewsjf_env.engine.compiled.kernel.views import (
    View,
    batch_of,
    clock_of,
    fit_of,
    gram_of,
    model_of,
    policy_of,
)
from ewsjf_env.scheduling.cost import (
    CLIP,
    LEAST_SPREAD,
    R2_LEAST_STEPS,
    RIDGE,
    SCALES,
    SPREAD_MEMORY,
)

COUNT = STEP_FEATURES - 1


@inner
def learn(s: View) -> None:
    """Judge a batch of steps by the coefficients so far, then learn from it."""
    c, p, m = clock_of(s), policy_of(s), model_of(s)
    batch, fit, gram = batch_of(s), fit_of(s), gram_of(s)
    theta, prior, moment = fit[0], fit[1], fit[2]
    expected = np.zeros(LEARNT_STEPS)
    for row in range(LEARNT_STEPS):
        for j in range(COUNT):
            batch[row, j] /= SCALES[j]
            expected[row] += batch[row, j] * theta[j]
    clipped = _clip(s, expected)
    kept = m.forgetting ** float(LEARNT_STEPS)
    m.observed += LEARNT_STEPS
    if m.observed > LEARNT_STEPS:  # before, there is nothing learned that could be judged
        _judge(s, clipped, expected, kept)
    for j in range(COUNT):
        moment[j] *= kept
        for k in range(COUNT):
            gram[j, k] *= kept
    for row in range(LEARNT_STEPS):
        weight = m.forgetting ** float(LEARNT_STEPS - 1 - row)
        for j in range(COUNT):
            weighted = batch[row, j] * weight
            moment[j] += weighted * clipped[row]
            for k in range(COUNT):
                gram[j, k] += weighted * batch[row, k]
    level = _prior_level(s, clipped, kept)
    loaded, target = np.empty((COUNT, COUNT)), np.empty(COUNT)
    likely = np.zeros(COUNT, np.bool_)
    for j in range(COUNT):
        target[j] = moment[j] + RIDGE * (level * prior[j])
        likely[j] = theta[j] > 0.0
        for k in range(COUNT):
            loaded[j, k] = gram[j, k]
        loaded[j, j] += RIDGE + 1e-12 * gram[j, j]
    solution = non_negative_solution(loaded, target, likely)
    for j in range(COUNT):
        theta[j] = solution[j]
    if m.r2 >= m.least_r2 and m.judged_steps >= R2_LEAST_STEPS:
        p.c0, p.c1, p.c2 = theta[0] / SCALES[0], theta[1] / SCALES[1], theta[2] / SCALES[2] / 2.0
    else:
        p.c0, p.c1, p.c2 = m.prior_c0, m.prior_c1, m.prior_c2
    c.batch = 0


@inner
def _clip(s: View, expected: Any) -> Any:
    """Step times with outliers pulled towards what was expected."""
    m, p, batch = model_of(s), policy_of(s), batch_of(s)
    relative, size = np.empty(LEARNT_STEPS), np.empty(LEARNT_STEPS)
    for row in range(LEARNT_STEPS):
        base = max(expected[row], p.least_cost_s)
        relative[row] = (batch[row, COUNT] - base) / base
        size[row] = abs(relative[row])
    if m.spread != m.spread:
        for row in range(1, LEARNT_STEPS):  # sorted by insertion, for the median
            value, place = size[row], row
            while place > 0 and size[place - 1] > value:
                size[place] = size[place - 1]
                place -= 1
            size[place] = value
        half = LEARNT_STEPS // 2
        m.spread = max((size[half - 1] + size[half]) / 2.0, LEAST_SPREAD)
    limit, total = CLIP * m.spread, 0.0
    clipped = np.empty(LEARNT_STEPS)
    for row in range(LEARNT_STEPS):
        value = min(max(relative[row], -limit), limit)
        total += abs(value)
        clipped[row] = max(expected[row], p.least_cost_s) * (1.0 + value)
    memory = SPREAD_MEMORY ** float(LEARNT_STEPS)
    spread = memory * m.spread + (1.0 - memory) * (total / LEARNT_STEPS)
    m.spread = max(spread, LEAST_SPREAD)
    return clipped


@inner
def _judge(s: View, measured: Any, expected: Any, kept: float) -> None:
    """How much of the variance of step times was foretold."""
    m = model_of(s)
    total = first = second = squared = 0.0
    for row in range(LEARNT_STEPS):
        weight, y = m.forgetting ** float(LEARNT_STEPS - 1 - row), measured[row]
        error = y - expected[row]
        total += weight
        first += weight * y
        second += weight * (y * y)
        squared += weight * (error * error)
    m.judged_total = kept * m.judged_total + total
    m.judged_first = kept * m.judged_first + first
    m.judged_second = kept * m.judged_second + second
    m.judged_squared = kept * m.judged_squared + squared
    m.judged_steps += LEARNT_STEPS
    variation = m.judged_second - m.judged_first * m.judged_first / m.judged_total
    explained = variation > 1e-9 * m.judged_second
    m.r2 = max(-1.0, 1.0 - m.judged_squared / variation) if explained else 0.0


@inner
def _prior_level(s: View, measured: Any, kept: float) -> float:
    """How many times as long as the prior says steps with prefill take."""
    m, batch, prior = model_of(s), batch_of(s), fit_of(s)[1]
    product = square = 0.0
    for row in range(LEARNT_STEPS):
        if batch[row, 1] <= 0.0:
            continue
        weight, prior_s = m.forgetting ** float(LEARNT_STEPS - 1 - row), 0.0
        for j in range(COUNT):
            prior_s += batch[row, j] * prior[j]
        product += measured[row] * prior_s * weight
        square += prior_s * prior_s * weight
    m.level_product = kept * m.level_product + product
    m.level_square = kept * m.level_square + square
    return m.level_product / m.level_square if m.level_square > 0.0 else 1.0


@inner
def non_negative_solution(gram: Any, moment: Any, likely: Any) -> Any:
    """Non-negative least squares by active sets, as `cost.non_negative_solution`."""
    largest, some = 0.0, False
    for j in range(COUNT):
        largest = max(largest, abs(moment[j]))
        some = some or likely[j]
    tolerance = 1e-12 * largest
    if some:
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
            # Walk towards the trial until the first coefficient reaches zero, and fix that one.
            free[first] = False
            for j in range(COUNT):
                theta[j] = theta[j] + least * (trial[j] - theta[j]) if free[j] else 0.0
        theta = trial
    for j in range(COUNT):
        theta[j] = max(theta[j], 0.0)
    return theta


@inner
def _slope(gram: Any, moment: Any, theta: Any, j: int) -> float:
    product = 0.0
    for k in range(COUNT):
        product += gram[j, k] * theta[k]
    return moment[j] - product


@inner
def _solution_on(free: Any, gram: Any, moment: Any) -> Any:
    """Least squares with all coefficients zero but the free ones; at least one is free."""
    chosen, size = np.empty(COUNT, np.int64), 0
    for j in range(COUNT):
        if free[j]:
            chosen[size] = j
            size += 1
    a, b, theta = np.empty((COUNT, COUNT)), np.empty(COUNT), np.zeros(COUNT)
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
    for column in range(size - 1, -1, -1):
        value = b[column]
        for k in range(column + 1, size):
            value -= a[column, k] * theta[chosen[k]]
        theta[chosen[column]] = value / a[column, column]
    return theta
