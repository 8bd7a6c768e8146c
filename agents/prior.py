"""What is believed of a Gaussian process's hyperparameters before any data?

All targets are standardised and all inputs lie in the unit cube, so one choice serves every
study.  Lengthscales grow with the root of the number of inputs, after Hvarfner et al., "Vanilla
Bayesian Optimization Performs Great in High Dimensions", 2024: without it a model of ten inputs
would expect a far more complicated function than a model of two.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class LogNormal:
    """Prior on a positive quantity: its logarithm is normal(location, scale)."""

    location: float
    scale: float

    def log_density(self, log_value: torch.Tensor) -> torch.Tensor:
        """Log density of the *logarithm*, up to a constant, shape as given.

        The mode then does not depend on whether one optimises a value or its logarithm.
        """
        return -0.5 * ((log_value - self.location) / self.scale) ** 2


@dataclass(frozen=True)
class GPPrior:
    """Priors of a process over p inputs.

    Attributes:
        lengthscale: of each input, in units of the cube's edge.
        signal: variance of the latent function; targets have variance 1.
        floor: variance of noise beyond the known measurement errors.
    """

    lengthscale: LogNormal
    signal: LogNormal = LogNormal(0.0, 0.7)
    floor: LogNormal = LogNormal(-4.0, 1.5)


def default_prior(inputs: int) -> GPPrior:
    """The prior for `inputs` >= 1 columns; the median lengthscale is 0.8 sqrt(inputs)."""
    return GPPrior(lengthscale=LogNormal(math.log(0.8) + 0.5 * math.log(inputs), 1.2))
