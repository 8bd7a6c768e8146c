"""The acquisition: what a window at a point of the cube is worth, and where that is most.

The score is the logarithm of the expected improvement over the best *posterior mean* among the
points tried, plus the log probability of every constraint (log-CEI).  In logarithms the score
has a slope even where the improvement underflows, so that a local search can climb
(Ament et al., "Unexpected Improvements to Expected Improvement for Bayesian Optimization", 2023).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from scipy.optimize import minimize

from agents.bayes.config import SearchConfig
from agents.bayes.gp import one_thread
from agents.core.encoding import Encoding, Points, box_around, sobol_points

Score = Callable[[torch.Tensor], torch.Tensor]

_LOG_SQRT_2PI = 0.5 * math.log(2.0 * math.pi)
_HALF_LOG_HALF_PI = 0.5 * math.log(0.5 * math.pi)
_TAIL_SDS = (
    -1e4
)  # standard deviations: below it 1 - |z| Phi(z)/phi(z) loses its digits, and z^-2 is as good
_MOVE_SDS = (0.03, 0.15)  # edges of the cube: of moves round the best points tried


def log_improvement(z: torch.Tensor) -> torch.Tensor:
    """Log of h(z) = phi(z) + z Phi(z), finite and differentiable for every finite z."""
    # Each branch is evaluated within its own range only: a NaN of a branch that `where` drops
    # would still poison the gradient.
    near, middle = z.clamp_min(-1.0), z.clamp(_TAIL_SDS, -1.0)
    far = z.clamp_max(_TAIL_SDS)
    density = torch.exp(-0.5 * near * near - _LOG_SQRT_2PI)
    log_near = torch.log(density + near * torch.special.ndtr(near))
    ratio = torch.special.erfcx(-middle / math.sqrt(2.0)) * -middle
    log_ratio = torch.log(ratio) + _HALF_LOG_HALF_PI
    log_middle = -0.5 * middle * middle - _LOG_SQRT_2PI + _log1mexp(log_ratio)
    log_far = -0.5 * far * far - _LOG_SQRT_2PI - 2.0 * torch.log(-far)
    return torch.where(z > -1.0, log_near, torch.where(z > _TAIL_SDS, log_middle, log_far))


def _log1mexp(x: torch.Tensor) -> torch.Tensor:
    """log(1 - exp(x)) for x < 0, without loss of digits at either end."""
    cut = -math.log(2.0)
    close, distant = x.clamp(cut, -1e-15), x.clamp_max(cut)
    return torch.where(x > cut, torch.log(-torch.expm1(close)), torch.log1p(-torch.exp(distant)))


def log_expected_improvement(
    mean: torch.Tensor, variance: torch.Tensor, best: float
) -> torch.Tensor:
    """Log E[max(0, f - best)] for f ~ N(mean, variance); all shapes alike."""
    deviation = torch.sqrt(variance)
    return log_improvement((mean - best) / deviation) + torch.log(deviation)


def log_feasibility(mean: torch.Tensor, variance: torch.Tensor, bound: float = 0.0) -> torch.Tensor:
    """Log P(c <= bound) for c ~ N(mean, variance); all shapes alike."""
    logs: torch.Tensor = torch.special.log_ndtr((bound - mean) / torch.sqrt(variance))
    return logs


def maximise(
    score: Score,
    encoding: Encoding,
    tried: Points,
    seed: int,
    settings: SearchConfig,
    center: Points | None = None,
) -> Points:
    """The snapped point, (d,), of the highest score that was found.

    Sobol points and moves round the tried points are scored; the best of them are refined in
    turns: continuous columns together by L-BFGS, discrete ones by trying every level.

    Args:
        score: model inputs (k, inputs) -> scores (k,), differentiable.
        encoding: of the search space.
        tried: (t, d) points worth a look at their neighbourhood, best first; t >= 0.
        seed: of the candidates.
        settings: numbers of candidates and refinements, and the radius of the search.
        center: (d,) the middle of the search; None: it goes everywhere.
    """
    random = np.random.default_rng(seed)
    d = encoding.dimensions
    radius = 1.0 if center is None else settings.radius
    box = box_around(np.full(d, 0.5) if center is None else center, radius)
    sobol = sobol_points(d, settings.candidates, int(random.integers(2**31)))
    blocks = [box[0] + sobol * (box[1] - box[0]), tried]
    for point in tried[: settings.refinements]:
        for spread in _MOVE_SDS:
            moves = spread * random.standard_normal((settings.candidates // 32, d))
            # A move of few columns reaches what a move of all of them misses in many dimensions.
            moves *= random.random(moves.shape) < max(0.5, 2.0 / d)
            blocks.append(point + moves)
    with one_thread():
        candidates = np.unique(encoding.snap(np.clip(np.vstack(blocks), *box)), axis=0)
        scores = _evaluate(score, encoding, candidates)
        best = np.argsort(-scores, kind="stable")[: settings.refinements]
        refined = [_refine(score, encoding, candidates[i], float(scores[i]), box) for i in best]
    return max(refined, key=lambda pair: pair[1])[0]


def _evaluate(score: Score, encoding: Encoding, points: Points) -> Points:
    with torch.no_grad():
        values = score(torch.from_numpy(encoding.to_inputs(points))).numpy()
    # A score may be NaN where two infinities meet; such a point is never worth a window.
    return np.where(np.isnan(values), -np.inf, values)


def _refine(
    score: Score, encoding: Encoding, point: Points, value: float, box: Points, rounds: int = 2
) -> tuple[Points, float]:
    for _ in range(rounds):
        before = value
        for move in (_refine_continuous, _refine_discrete):
            candidates = encoding.snap(move(score, encoding, point, box))
            values = _evaluate(score, encoding, candidates)
            winner = int(np.argmax(values))
            if values[winner] > value:
                point, value = candidates[winner], float(values[winner])
        if value <= before:
            break
    return point, value


def _refine_continuous(score: Score, encoding: Encoding, point: Points, box: Points) -> Points:
    """One candidate, (1, d): the local maximum over the continuous columns."""
    pairs = encoding.continuous_inputs
    if not pairs:
        return point[np.newaxis]
    columns, inputs = [c for c, _ in pairs], [i for _, i in pairs]
    base = torch.from_numpy(encoding.to_inputs(point[np.newaxis]))

    def loss(coordinates: Points) -> tuple[float, Points]:
        moving = torch.from_numpy(coordinates).requires_grad_()
        row = base.clone()
        row[0, inputs] = moving
        value = -score(row)[0]
        (gradient,) = torch.autograd.grad(value, moving)
        if not (torch.isfinite(value) and bool(torch.isfinite(gradient).all())):
            return 1e10, np.zeros_like(coordinates)
        return float(value.detach()), gradient.numpy()

    result = minimize(
        loss,
        point[columns],
        jac=True,
        bounds=list(zip(box[0, columns], box[1, columns], strict=True)),
        method="L-BFGS-B",
        options={"maxiter": 30},
    )
    moved = point.copy()
    moved[columns] = result.x
    return moved[np.newaxis]


def _refine_discrete(score: Score, encoding: Encoding, point: Points, box: Points) -> Points:
    """All points, (k, d), of the box that differ from `point` in at most one discrete column."""
    neighbours = [point]
    for column in range(encoding.dimensions):
        levels = encoding.levels(column)
        for level in levels if levels is not None else ():
            if not box[0, column] <= level <= box[1, column]:
                continue
            neighbour = point.copy()
            neighbour[column] = level
            neighbours.append(neighbour)
    return np.array(neighbours)
