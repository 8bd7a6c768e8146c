"""The surrogate: what the windows so far say of reward and constraints, anywhere, in any context.

One Gaussian process for the reward and one for each constraint margin, over parameters and
context.  Old windows count less: their noise variance doubles every half-life.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from agents.bayes.acquisition import Score, log_expected_improvement, log_feasibility
from agents.bayes.gp import GaussianProcess, Hyperparameters, condition, fit, one_thread
from agents.bayes.prior import GPPrior, default_prior
from agents.core.encoding import POINT_TOLERANCE, Encoding, Points

REWARD = "reward"
AS_LIKELY_WITHIN = 0.05  # probability: what is less likely by no more than this is as likely
_OUTLIER_SDS = 5.0  # robust standard deviations
_MAX_HALVINGS = 30.0  # noise beyond 2^30 times changes nothing but the conditioning
Vector = NDArray[np.float64]
Prior = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


@dataclass(frozen=True)
class Observations:
    """What n windows showed, oldest first.

    Attributes:
        points: (n, d) snapped points of the cube.
        contexts: (n, c) features in [-1, 1]; c may be 0.
        rewards: (n,) larger is better.
        standard_errors: (n,) of the rewards, >= 0; 0 when unknown.
        margins: name -> (n,), feasible when <= 0, NaN where not measured.
        halvings: (n,) ages in half-lives, >= 0.
    """

    points: Points
    contexts: Points
    rewards: Vector
    standard_errors: Vector
    margins: Mapping[str, Vector]
    halvings: Vector

    def __len__(self) -> int:
        return len(self.rewards)

    @property
    def inflation(self) -> Vector:
        """Factors of the noise variance by age, (n,) >= 1."""
        return np.asarray(2.0 ** np.minimum(self.halvings, _MAX_HALVINGS), dtype=float)


@dataclass(frozen=True)
class Target:
    """A process over a standardised quantity: quantity = center + scale * target [+ prior].

    `prior` gives mean and variance of a part that is known apart, in the quantity's own unit.
    """

    process: GaussianProcess
    center: float
    scale: float
    prior: Prior | None = None

    def posterior(self, inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and variance of the latent target, (m,) each, differentiable in `inputs`."""
        mean, variance = self.process.posterior(inputs)
        if self.prior is not None:
            known, uncertain = self.prior(inputs)
            mean, variance = mean + known / self.scale, variance + uncertain / self.scale**2
        return mean, variance

    def log_below_zero(self, inputs: torch.Tensor, by_window: bool) -> torch.Tensor:
        """Log probability, (m,), that a window's value is <= 0, or that the mean of many is."""
        mean, variance = self.posterior(inputs)
        if by_window:
            variance = variance + self.process.hyperparameters.floor
        return log_feasibility(mean, variance, -self.center / self.scale)

    def predict(self, inputs: torch.Tensor) -> tuple[Vector, Vector]:
        """Mean and standard deviation of the latent quantity, (m,) each, in its own unit."""
        with torch.no_grad(), one_thread():
            mean, variance = self.posterior(inputs)
        return (
            self.center + self.scale * mean.numpy(),
            self.scale * np.sqrt(variance.numpy()),
        )


@dataclass(frozen=True)
class Surrogate:
    """The fitted model.

    Attributes:
        tried: (t, d) distinct points among the observations, in order of first use.
        windows: (t,) how many windows each of them had.
    """

    encoding: Encoding
    context_size: int
    tried: Points
    windows: NDArray[np.int64]
    reward: Target
    constraints: Mapping[str, Target]

    @property
    def hyperparameters(self) -> dict[str, Hyperparameters]:
        """Of every process, by name of its constraint; that of the reward is "reward"."""
        margins = {name: t.process.hyperparameters for name, t in self.constraints.items()}
        return {REWARD: self.reward.process.hyperparameters, **margins}

    @property
    def noise_floor_sd(self) -> float:
        """Learnt standard deviation of a reward beyond its known standard error, its unit."""
        return self.reward.scale * math.sqrt(float(self.reward.process.hyperparameters.floor))

    def predict(self, points: Points, context: Sequence[float]) -> tuple[Vector, Vector]:
        """Posterior mean and standard deviation of the reward, (m,) each, at points (m, d)."""
        return self.reward.predict(self._inputs(points, context))

    def feasibility(
        self, points: Points, context: Sequence[float], by_window: bool = True
    ) -> Vector:
        """Probability, (m,), that all constraints hold at points (m, d).

        Args:
            points: of the unit cube.
            context: features of the traffic.
            by_window: in a window, its noise included; else for the mean of many windows.
        """
        with torch.no_grad(), one_thread():
            logs = self._log_feasibility(self._inputs(points, context), by_window)
        return np.asarray(np.exp(logs.numpy()), dtype=float)

    def feasible_enough(
        self, points: Points, context: Sequence[float], fallback: Points, least: float
    ) -> NDArray[np.bool_]:
        """Which of the points (m, d) meet the constraints likely enough, (m,).

        That is with probability `least`, or about as probably as the fallback, (d,).
        """
        probability = self.feasibility(np.vstack([points, fallback]), context)
        return np.asarray(probability[:-1] >= min(least, float(probability[-1]) - AS_LIKELY_WITHIN))

    def recommend(
        self,
        context: Sequence[float],
        fallback: Points,
        least_feasibility: float,
        caution: float = 0.0,
        least_windows: int = 1,
    ) -> Points:
        """The best point, (d,), of those tried often enough and a fallback, by the posterior.

        Of what is `feasible_enough` it is that of the largest mean less `caution` standard
        deviations.

        Args:
            context: features of the traffic.
            fallback: (d,) the point that is served when nothing better is known.
            least_feasibility: in [0, 1].
            caution: >= 0.
            least_windows: >= 1.
        """
        points = np.vstack([self.tried[self.windows >= least_windows], fallback])
        enough = self.feasible_enough(points, context, fallback, least_feasibility)
        mean, deviation = self.predict(points, context)
        chosen = np.argmax(np.where(enough, mean - caution * deviation, -np.inf))
        return np.array(points[int(chosen)], dtype=float)

    def ranking(self, context: Sequence[float]) -> Points:
        """Tried points, (t, d): likely feasible ones first, each group by posterior mean."""
        mean, _ = self.predict(self.tried, context)
        infeasible = self.feasibility(self.tried, context) < 0.5
        return np.array(self.tried[np.lexsort((-mean, infeasible))], dtype=float)

    def acquisition(self, context: Sequence[float]) -> Score:
        """log-CEI in a context: parameter inputs (k, inputs) -> scores (k,)."""
        reward = self.reward
        likely = self.feasibility(self.tried, context, by_window=False) >= 0.5
        best: float | None = None
        if likely.any():
            with torch.no_grad():
                mean, _ = reward.posterior(self._inputs(self.tried[likely], context))
            best = float(mean.max())
        row = self._context_row(context)

        def score(parameters: torch.Tensor) -> torch.Tensor:
            inputs = torch.cat([parameters, row.expand(len(parameters), -1)], dim=1)
            log_feasible = self._log_feasibility(inputs, by_window=False)
            if best is None:  # nothing to improve on before anything feasible is known
                return log_feasible
            return log_feasible + log_expected_improvement(*reward.posterior(inputs), best)

        return score

    def _log_feasibility(self, inputs: torch.Tensor, by_window: bool) -> torch.Tensor:
        total = torch.zeros(len(inputs), dtype=inputs.dtype)
        for target in self.constraints.values():
            total = total + target.log_below_zero(inputs, by_window)
        return total

    def _inputs(self, points: Points, context: Sequence[float]) -> torch.Tensor:
        parameters = torch.from_numpy(self.encoding.to_inputs(points))
        return torch.cat([parameters, self._context_row(context).expand(len(points), -1)], dim=1)

    def _context_row(self, context: Sequence[float]) -> torch.Tensor:
        if len(context) != self.context_size:
            raise ValueError(f"context: expected {self.context_size} numbers, got {len(context)}")
        return torch.from_numpy(context_inputs(np.array(context, dtype=float)))[None]


def fit_surrogate(
    observations: Observations,
    encoding: Encoding,
    hyperparameters: Mapping[str, Hyperparameters] | None = None,
) -> Surrogate:
    """Fit all processes; the same arguments give the same model.

    Args:
        observations: at least one window.
        encoding: of the search space.
        hyperparameters: of processes that are only conditioned on the data, not fitted to it:
            those of an earlier model, for a small part of the time.
    """
    kept = hyperparameters or {}
    parameters = encoding.to_inputs(observations.points)
    x = np.hstack([parameters, context_inputs(observations.contexts)])
    inflation = observations.inflation
    rewards = _without_disasters(observations.rewards)
    prior = default_prior(encoding.inputs, observations.contexts.shape[1], encoding.minor)
    errors = observations.standard_errors
    reward = _fit_target(x, rewards, errors, inflation, kept.get(REWARD, prior))
    constraints = {}
    for name, margins in observations.margins.items():
        known = ~np.isnan(margins)
        values = -_without_disasters(-margins[known])
        constraints[name] = _fit_target(
            x[known], values, np.zeros(len(values)), inflation[known], kept.get(name, prior)
        )
    contexts = observations.contexts.shape[1]
    return Surrogate(encoding, contexts, *distinct(observations.points), reward, constraints)


def distinct(points: Points) -> tuple[Points, NDArray[np.int64]]:
    """Each point once, in order of first use, and how often it was used.

    Points that differ by no more than a value loses on its way through an action are one.
    """
    tried: list[NDArray[np.float64]] = []
    counts: list[int] = []
    for point in points:
        apart = [float(np.abs(point - other).max()) for other in tried]
        nearest = int(np.argmin(apart)) if apart else -1
        if apart and apart[nearest] < POINT_TOLERANCE:
            counts[nearest] += 1
        else:
            tried.append(point)
            counts.append(1)
    return np.array(tried, dtype=float), np.array(counts)


def _fit_target(
    x: Points,
    values: Vector,
    errors: Vector,
    inflation: Vector,
    belief: GPPrior | Hyperparameters,
) -> Target:
    """Condition on the data by hyperparameters, or by those found under a prior."""
    weights = 1.0 / inflation
    center = float(np.average(values, weights=weights))
    scale = math.sqrt(float(np.average((values - center) ** 2, weights=weights)))
    if scale < 1e-9:  # equal values have no scale of their own
        error = float(errors.max(initial=0.0))
        scale = error if error > 1e-9 else 1.0
    data = (x, (values - center) / scale, (errors / scale) ** 2, inflation)
    if isinstance(belief, GPPrior):
        process = fit(*data, belief)
    else:
        with torch.no_grad(), one_thread():
            tensors = [torch.from_numpy(np.asarray(part, dtype=float)) for part in data]
            process = condition(tensors[0], tensors[1], tensors[2], tensors[3], belief)
    return Target(process, center, scale)


def _without_disasters(values: Vector) -> Vector:
    """Values with the far low tail cut: how bad a disaster was must not flatten all the rest."""
    median = float(np.median(values))
    spread = 1.4826 * float(np.median(np.abs(values - median)))
    return np.maximum(values, median - _OUTLIER_SDS * spread) if spread > 0 else values


def context_inputs(contexts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Features in [-1, 1] as columns of the unit cube."""
    return 0.5 * (contexts + 1.0)
