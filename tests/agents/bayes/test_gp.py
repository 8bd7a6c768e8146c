import math

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal

from agents.bayes.gp import (
    Hyperparameters,
    condition,
    fit,
    log_posterior,
    matern52,
    one_thread,
    robust_cholesky,
)
from agents.bayes.prior import LogNormal, default_prior


def tensor(values: object) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def hyper(lengthscales: list[float], signal: float, floor: float) -> Hyperparameters:
    return Hyperparameters(tensor(lengthscales), tensor(signal), tensor(floor))


def test_matern52_is_its_formula():
    a, b = tensor([[0.0, 0.0], [1.0, 2.0]]), tensor([[0.0, 0.0], [0.5, 1.0], [3.0, 0.0]])
    found = matern52(a, b, tensor([0.5, 2.0])).numpy()
    for i, p in enumerate(a.numpy()):
        for j, q in enumerate(b.numpy()):
            r = math.sqrt(5.0 * np.sum(((p - q) / np.array([0.5, 2.0])) ** 2))
            assert found[i, j] == pytest.approx((1 + r + r * r / 3) * math.exp(-r), rel=1e-12)


def test_matern52_has_a_gradient_at_distance_zero():
    query = tensor([[0.3]]).requires_grad_()
    (gradient,) = torch.autograd.grad(matern52(query, tensor([[0.3]]), tensor([1.0])).sum(), query)
    assert gradient.item() == 0.0


def test_one_observation_shrinks_by_signal_over_signal_plus_noise():
    gp = condition(
        tensor([[0.4]]), tensor([2.0]), tensor([0.3]), tensor([4.0]), hyper([1.0], 1.5, 0.2)
    )
    mean, variance = gp.posterior(tensor([[0.4], [100.0]]))
    noise = 4.0 * (0.3 + 0.2)
    assert mean.tolist() == pytest.approx([2.0 * 1.5 / (1.5 + noise), 0.0])
    assert variance.tolist() == pytest.approx([1.5 - 1.5**2 / (1.5 + noise), 1.5])


def test_marginal_likelihood_is_scipys():
    random = np.random.default_rng(0)
    x, y = random.random((7, 2)), random.standard_normal(7)
    noise, inflation = random.random(7), 1.0 + random.random(7)
    h, prior = hyper([0.4, 1.1], 0.8, 0.05), default_prior(2)
    arguments = [torch.from_numpy(a) for a in (x, y, noise, inflation)]
    found = log_posterior(*arguments, h, prior).item()
    correlations = matern52(arguments[0], arguments[0], h.lengthscales).numpy()
    covariance = 0.8 * correlations + np.diag(inflation * (noise + 0.05))
    logs = torch.log(torch.cat([h.lengthscales, h.signal[None], h.floor[None]]))
    priors = prior.log_density(logs).item()
    assert found == pytest.approx(multivariate_normal(cov=covariance).logpdf(y) + priors)


def test_posterior_is_the_conditional_normal():
    random = np.random.default_rng(1)
    x, y, q = random.random((6, 2)), random.standard_normal(6), random.random((4, 2))
    noise = 0.1 + random.random(6)
    h = hyper([0.5, 0.9], 1.3, 0.01)
    xt, yt, qt = (torch.from_numpy(a) for a in (x, y, q))
    gp = condition(xt, yt, torch.from_numpy(noise), torch.ones(6, dtype=torch.float64), h)
    mean, variance = (a.numpy() for a in gp.posterior(qt))
    a = 1.3 * matern52(xt, xt, h.lengthscales).numpy() + np.diag(noise + 0.01)
    cross = 1.3 * matern52(qt, xt, h.lengthscales).numpy()
    assert mean == pytest.approx(cross @ np.linalg.solve(a, y))
    full = 1.3 - np.einsum("ij,ji->i", cross, np.linalg.solve(a, cross.T))
    assert variance == pytest.approx(full)


def sample(n: int, noise: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    x = random.random((n, 3))
    clean = np.sin(6.0 * x[:, 0]) + 0.5 * x[:, 1]
    y = clean + noise * random.standard_normal(n)
    return x, (y - y.mean()) / y.std()


def test_fit_finds_what_matters():
    x, y = sample(60, 0.05)
    gp = fit(x, y, np.zeros(60), np.ones(60))
    lengthscales = gp.hyperparameters.lengthscales.tolist()
    assert lengthscales[0] < lengthscales[1] < lengthscales[2]
    mean, _ = gp.posterior(torch.from_numpy(x))
    assert np.corrcoef(mean.numpy(), y)[0, 1] > 0.98


def test_fit_learns_unknown_noise():
    quiet, loud = (
        fit(*sample(60, noise), np.zeros(60), np.ones(60)).hyperparameters.floor.item()
        for noise in (0.02, 0.8)
    )
    assert quiet < 0.03
    assert 0.1 < loud < 1.0


def test_known_noise_leaves_little_to_learn():
    x, y = sample(80, 0.8)
    share = 0.8**2 / (np.var(np.sin(6.0 * x[:, 0]) + 0.5 * x[:, 1]) + 0.8**2)
    unknown = fit(x, y, np.zeros(80), np.ones(80)).hyperparameters.floor.item()
    known = fit(x, y, np.full(80, share), np.ones(80)).hyperparameters.floor.item()
    assert known < 0.5 * unknown


def test_fit_repeats_to_the_bit():
    x, y = sample(25, 0.3)
    one, two = (fit(x, y, np.zeros(25), np.ones(25)).alpha for _ in range(2))
    assert torch.equal(one, two)


@pytest.mark.parametrize("n", [1, 2])
def test_fit_of_almost_nothing(n: int):
    gp = fit(np.full((n, 2), 0.5), np.zeros(n), np.zeros(n), np.ones(n))
    mean, variance = gp.posterior(tensor([[0.5, 0.5], [0.0, 1.0]]))
    assert mean.tolist() == [0.0, 0.0]
    assert variance[0] < variance[1]


def test_aged_points_count_less():
    # The same place measured 0 long ago and 1 now.
    x, y = tensor([[0.5], [0.5]]), tensor([0.0, 1.0])
    h = hyper([1.0], 1.0, 0.1)
    young, old = (
        condition(x, y, tensor([0.0, 0.0]), tensor([w, 1.0]), h).posterior(x)[0][0].item()
        for w in (1.0, 1024.0)
    )
    assert young == pytest.approx(0.5, abs=0.05)
    assert old > 0.85


def test_robust_cholesky_adds_the_least_jitter():
    good = tensor([[2.0, 1.0], [1.0, 2.0]])
    assert torch.equal(robust_cholesky(good), torch.linalg.cholesky(good))
    singular = torch.ones(3, 3, dtype=torch.float64)
    lower = robust_cholesky(singular)
    assert torch.allclose(lower @ lower.T, singular, atol=1e-6)


@pytest.mark.parametrize("value", [-1.0, math.nan])
def test_robust_cholesky_gives_up(value: float):
    with pytest.raises(ArithmeticError, match="not positive definite"):
        robust_cholesky(torch.full((2, 2), value, dtype=torch.float64))


def test_prior_density_peaks_at_its_location():
    belief = LogNormal(math.log(2.0), 0.5)
    densities = [belief.log_density(torch.log(tensor(v))).item() for v in (1.0, 2.0, 4.0)]
    assert densities[1] == 0.0
    assert densities[0] == pytest.approx(densities[2])
    assert densities[0] < 0.0


def test_default_prior_expects_less_of_contexts_and_of_many_inputs():
    prior = default_prior(4, 2)
    medians = np.exp(prior.medians)
    assert medians[:4].tolist() == pytest.approx([1.0] * 4)
    assert medians[4:6].tolist() == pytest.approx([3.0] * 2)
    assert len(medians) == 8
    assert prior.log_density(tensor(prior.medians)).item() == 0.0
    assert default_prior(16).medians[0] > default_prior(4).medians[0]


def test_default_prior_expects_less_of_minor_parameters_and_does_not_count_them():
    prior = default_prior(3, minor=(False, True, True))
    own, minor, _ = prior.lengthscales
    assert own == default_prior(1).lengthscales[0]
    assert minor.location > own.location


def test_one_thread_is_undone():
    before = torch.get_num_threads()
    with one_thread():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before
