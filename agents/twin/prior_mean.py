"""The prior mean: what live windows say, where a twin has had its say before.

    y(x) = a + b m(x) + g(x) + noise

with y a live reward (or margin), m what the twin says, b how much of that is true, a its bias and
g what it misses: a Gaussian process of small variance.  For a window that was served, m is the
twin's replay of that window itself, of the queue that it inherited too: so a queue that a bad
candidate left is not blamed on the next one.  For a policy to be judged, m is the mean over the
twin's blocks, with its own uncertainty.

b is believed to be 1, give or take `trust`, and is found by regression; a twin whose ranking is
wrong gets a small one.  Below `least_trust` it is not listened to any more.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from agents.bayes.gp import fit
from agents.bayes.prior import GPPrior, LogNormal, default_prior
from agents.bayes.surrogate import (
    Observations,
    Prior,
    Surrogate,
    Target,
    context_inputs,
    distinct,
)
from agents.core.encoding import Encoding

# In the unit of rewards and margins, both of which are mostly logarithms of ratios:
SCALE = 0.2  # that counts as 1 in the process
MISSED_SD = 0.1  # of g, believed beforehand
NOISE_SD = 0.15  # of a window beyond its known standard error, believed beforehand
BIAS_SD = 0.1  # of a, believed beforehand
FARTHEST = 1.0  # beyond it an observation is as far off as can be: one must not decide all
MOST_TRUST = 1.5  # largest b
Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Said:
    """What the twin said of n live windows, with what they had inherited; NaN: nothing.

    Attributes:
        rewards: (n,).
        margins: by constraint, (n,).
    """

    rewards: Vector
    margins: Mapping[str, Vector]


def trust_in(
    measured: Vector, said: Vector, variance: Vector, spread: float
) -> tuple[float, float]:
    """Factor b in [0, `MOST_TRUST`] and bias a of the twin.

    Args:
        measured: (n,) live values.
        said: (n,) those of the twin, finite.
        variance: (n,) of the live values' noise, > 0.
        spread: standard deviation of b round 1, beforehand, > 0.
    """
    weights = 1.0 / variance
    total = float(weights.sum())
    x = np.clip(said - float(weights @ said) / total, -FARTHEST, FARTHEST)
    y = np.clip(measured - float(weights @ measured) / total, -FARTHEST, FARTHEST)
    belief = 1.0 / spread**2
    b = (float(weights @ (x * y)) + belief) / (float(weights @ (x * x)) + belief)
    b = min(MOST_TRUST, max(0.0, b))
    a = float(weights @ (measured - b * said)) / (total + 1.0 / BIAS_SD**2)
    return b, a


def combine(
    observations: Observations,
    said: Said,
    twin: Surrogate,
    encoding: Encoding,
    spread: float,
) -> tuple[Surrogate, float]:
    """The model of live windows upon a twin, and the trust in it, b of the reward.

    Args:
        observations: live windows, at least one.
        said: of the same windows.
        twin: the twin's model, without context.
        encoding: of the search space.
        spread: see `trust_in`.
    """
    parameters = encoding.to_inputs(observations.points)
    x = np.hstack([parameters, context_inputs(observations.contexts)])
    base = default_prior(encoding.inputs, observations.contexts.shape[1], encoding.minor)
    belief = GPPrior(
        base.lengthscales,
        signal=LogNormal(2.0 * float(np.log(MISSED_SD / SCALE)), 0.7),
        floor=LogNormal(2.0 * float(np.log(NOISE_SD / SCALE)), 1.0),
    )

    def target(
        values: Vector, errors: Vector, heard: Vector, source: Target | None
    ) -> tuple[Target, float]:
        known = ~np.isnan(values)
        if source is None:
            heard, b, prior = np.zeros(len(values)), 0.0, None
        else:
            there, _ = source.predict(torch.from_numpy(parameters))
            heard = np.where(np.isnan(heard), there, heard)
        variance = (errors**2 + NOISE_SD**2) * observations.inflation
        if source is not None:
            b, a = trust_in(values[known], heard[known], variance[known], spread)
            prior = _scaled(source, b, encoding.inputs)
        else:
            a = float(values[known].mean())
        left = np.clip((values - a - b * heard)[known] / SCALE, -FARTHEST / SCALE, FARTHEST / SCALE)
        process = fit(
            x[known], left, (errors[known] / SCALE) ** 2, observations.inflation[known], belief
        )
        return Target(process, a, SCALE, prior), b

    reward, b = target(
        observations.rewards, observations.standard_errors, said.rewards, twin.reward
    )
    constraints = {}
    nothing = np.full(len(observations), np.nan)
    for name, values in observations.margins.items():
        heard, source = said.margins.get(name, nothing), twin.constraints.get(name)
        constraints[name], _ = target(values, np.zeros(len(values)), heard, source)
    contexts = observations.contexts.shape[1]
    tried, windows = distinct(observations.points)
    return Surrogate(encoding, contexts, tried, windows, reward, constraints), b


def _scaled(source: Target, factor: float, columns: int) -> Prior:
    def prior(inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mean, variance = source.posterior(inputs[:, :columns])
        return (
            factor * (source.center + source.scale * mean),
            (factor * source.scale) ** 2 * variance,
        )

    return prior
