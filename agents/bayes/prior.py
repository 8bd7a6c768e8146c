"""The prior: what is believed of a Gaussian process's hyperparameters before any data.

All targets are standardised and all inputs lie in the unit cube, so one choice serves every
study.  Lengthscales grow with the root of the number of inputs, after Hvarfner et al., "Vanilla
Bayesian Optimization Performs Great in High Dimensions", 2024: without it a model of ten inputs
would expect a far more complicated function than a model of two.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
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
        lengthscales: of each of the p inputs, in units of the cube's edge.
        signal: variance of the latent function; targets have variance 1.
        floor: variance of noise beyond the known measurement errors.
    """

    lengthscales: tuple[LogNormal, ...]
    signal: LogNormal = LogNormal(0.0, 0.7)
    floor: LogNormal = LogNormal(-4.0, 1.5)

    @property
    def medians(self) -> list[float]:
        """Logarithms of the medians: p lengthscales, signal, floor."""
        return [belief.location for belief in (*self.lengthscales, self.signal, self.floor)]

    def log_density(self, logs: torch.Tensor) -> torch.Tensor:
        """Of the logarithms, (p + 2,) in the order of `medians`, up to a constant."""
        beliefs = (*self.lengthscales, self.signal, self.floor)
        densities = [b.log_density(x) for b, x in zip(beliefs, logs, strict=True)]
        return torch.stack(densities).sum()


def default_prior(parameters: int, contexts: int = 0, minor: Sequence[bool] = ()) -> GPPrior:
    """The prior for columns of parameters (>= 1), followed by context features.

    The median lengthscale of one of p parameters is 0.5 sqrt(p), that of a context feature or of
    a minor parameter, which p does not count, three times as long: most of them matter little,
    and one that does shows it soon.

    Args:
        parameters: number of columns, >= 1.
        contexts: number of columns, >= 0.
        minor: of each parameter, whether it is minor; empty: none is.
    """
    minor = minor or (False,) * parameters
    median = math.log(0.5) + 0.5 * math.log(parameters - sum(minor) or parameters)
    own, others = LogNormal(median, 1.2), LogNormal(median + math.log(3.0), 1.2)
    columns = tuple(others if is_minor else own for is_minor in minor)
    return GPPrior(lengthscales=columns + (others,) * contexts)
