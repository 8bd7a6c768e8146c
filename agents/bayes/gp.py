"""The Gaussian process, of known, unequal and ageing noise: how it is fitted and asked.

Notation, used throughout (float64, on the CPU):

    n, m    numbers of training and of query points
    p       number of input columns (parameters, then context)
    x       (n, p)  training inputs, each column within about [0, 1]
    y       (n,)    standardised targets: mean 0, variance 1
    s2      (n,)    known measurement variance of each target (window standard error squared)
    w       (n,)    age factor >= 1 on the noise, 2^(age / half-life)
    l       (p,)    lengthscales
    v       ()      signal variance
    f       ()      noise floor: what the known variances do not explain
    K       (n, n)  v * matern52(|x - x'| / l)
    A       (n, n)  K + diag(w * (s2 + f))
    L       (n, n)  lower Cholesky factor of A
    alpha   (n,)    A^-1 y

l, v and f are the maximum a posteriori values under `agents.bayes.prior`.  Fitting costs O(n^3) a
step: about 0.1 s for n = 50 and 1.5 s for n = 300 on one core.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize

from agents.bayes.prior import GPPrior, default_prior

# Box of log l, log v, log f: wide enough never to matter, narrow enough to stay factorisable.
_BOUNDS = {"lengthscale": (0.02, 200.0), "signal": (1e-2, 1e2), "floor": (1e-6, 4.0)}
_STARTS = (1.0, 0.3)  # multiples of the prior's median lengthscale; the likelihood has two ends
_JITTERS = (0.0, 1e-9, 1e-7, 1e-5, 1e-3)


@dataclass(frozen=True)
class Hyperparameters:
    """l of shape (p,), v and f: see the notation above."""

    lengthscales: torch.Tensor
    signal: torch.Tensor
    floor: torch.Tensor


@contextmanager
def one_thread() -> Iterator[None]:
    """Keep torch on one thread: faster at this size, reproducible, and kind to the engine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def matern52(a: torch.Tensor, b: torch.Tensor, lengthscales: torch.Tensor) -> torch.Tensor:
    """Correlations of shape (n, m) between rows of `a` (n, p) and `b` (m, p)."""
    # The matrix-product form of cdist loses the digits of small distances.
    distance = torch.cdist(
        a / lengthscales, b / lengthscales, compute_mode="donot_use_mm_for_euclid_dist"
    )
    r = math.sqrt(5.0) * distance
    correlations: torch.Tensor = (1.0 + r + r * r / 3.0) * torch.exp(-r)
    return correlations


def robust_cholesky(matrix: torch.Tensor) -> torch.Tensor:
    """Lower Cholesky factor, (n, n), with the least jitter that makes it exist.

    Raises:
        ArithmeticError: the matrix is not positive definite by far, or not finite.
    """
    scale = matrix.diagonal().mean()
    eye = torch.eye(len(matrix), dtype=matrix.dtype)
    for jitter in _JITTERS:
        factor, info = torch.linalg.cholesky_ex(matrix + jitter * scale * eye)
        if int(info) == 0 and bool(torch.isfinite(factor).all()):
            lower: torch.Tensor = factor
            return lower
    raise ArithmeticError("covariance matrix is not positive definite")


@dataclass(frozen=True)
class GaussianProcess:
    """A fitted process; see the notation of the module."""

    x: torch.Tensor
    hyperparameters: Hyperparameters
    factor: torch.Tensor
    alpha: torch.Tensor

    def posterior(self, query: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and variance of the latent function, (m,) each, at `query`, (m, p).

        Differentiable in `query`.
        """
        h = self.hyperparameters
        cross = h.signal * matern52(query, self.x, h.lengthscales)
        mean = cross @ self.alpha
        half = torch.linalg.solve_triangular(self.factor, cross.T, upper=False)
        variance = h.signal - (half * half).sum(dim=0)
        return mean, variance.clamp_min(1e-12)


def condition(
    x: torch.Tensor,
    y: torch.Tensor,
    noise: torch.Tensor,
    inflation: torch.Tensor,
    hyperparameters: Hyperparameters,
) -> GaussianProcess:
    """The process given data and hyperparameters; arguments as in `fit`."""
    factor = _factor(x, noise, inflation, hyperparameters)
    alpha = torch.cholesky_solve(y[:, None], factor)[:, 0]
    return GaussianProcess(x, hyperparameters, factor, alpha)


def fit(
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    noise: NDArray[np.float64],
    inflation: NDArray[np.float64],
    prior: GPPrior | None = None,
) -> GaussianProcess:
    """Fit by maximum a posteriori, from fixed starts: the same data give the same process.

    Args:
        x: (n, p) inputs, n >= 1.
        y: (n,) standardised targets.
        noise: (n,) known variances s2 >= 0.
        inflation: (n,) age factors w >= 1.
        prior: of the hyperparameters; None: `default_prior(p)`.
    """
    xt, yt, s2, w = (torch.from_numpy(np.array(a, dtype=float)) for a in (x, y, noise, inflation))
    p = xt.shape[1]
    prior = prior or default_prior(p)

    def loss(theta: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        logs = torch.from_numpy(theta).requires_grad_()
        try:
            value = -log_posterior(xt, yt, s2, w, _unpack(logs), prior) / len(yt)
        except ArithmeticError:
            return math.inf, np.zeros_like(theta)
        (gradient,) = torch.autograd.grad(value, logs)
        return float(value.detach()), gradient.numpy()

    names = ["lengthscale"] * p + ["signal", "floor"]
    bounds = [(math.log(_BOUNDS[k][0]), math.log(_BOUNDS[k][1])) for k in names]
    medians = np.array(prior.medians)
    with one_thread():
        results = []
        for multiple in _STARTS:
            start = medians + np.array([math.log(multiple)] * p + [0.0, 0.0])
            start = np.clip(start, [b[0] for b in bounds], [b[1] for b in bounds])
            results.append(
                minimize(
                    loss, start, jac=True, bounds=bounds, method="L-BFGS-B", options={"maxiter": 60}
                )
            )
        best = min(results, key=lambda r: float(r.fun))
        return condition(xt, yt, s2, w, _unpack(torch.from_numpy(best.x)))


def log_posterior(
    x: torch.Tensor,
    y: torch.Tensor,
    noise: torch.Tensor,
    inflation: torch.Tensor,
    hyperparameters: Hyperparameters,
    prior: GPPrior,
) -> torch.Tensor:
    """Log marginal likelihood plus log prior, up to a constant of the prior."""
    factor = _factor(x, noise, inflation, hyperparameters)
    half = torch.linalg.solve_triangular(factor, y[:, None], upper=False)[:, 0]
    likelihood = (
        -0.5 * half @ half
        - torch.log(factor.diagonal()).sum()
        - 0.5 * len(y) * math.log(2.0 * math.pi)
    )
    h = hyperparameters
    logs = torch.log(torch.cat([h.lengthscales, h.signal[None], h.floor[None]]))
    posterior: torch.Tensor = likelihood + prior.log_density(logs)
    return posterior


def _factor(
    x: torch.Tensor, noise: torch.Tensor, inflation: torch.Tensor, h: Hyperparameters
) -> torch.Tensor:
    covariance = h.signal * matern52(x, x, h.lengthscales)
    return robust_cholesky(covariance + torch.diag(inflation * (noise + h.floor)))


def _unpack(logs: torch.Tensor) -> Hyperparameters:
    values = torch.exp(logs)
    return Hyperparameters(values[:-2], values[-2], values[-1])
