import math

import numpy as np
import pytest
import torch
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from agents.bayes.acquisition import (
    log_expected_improvement,
    log_feasibility,
    log_improvement,
    maximise,
)
from agents.bayes.config import SearchConfig
from agents.core.encoding import Encoding

SEARCH = SearchConfig(candidates=256, refinements=2)
NOTHING = np.zeros((0, 2))


def tensor(values: object) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize(
    ("mean", "sd", "best"), [(0.0, 1.0, 0.5), (2.0, 0.3, 1.0), (-1.0, 2.0, 1.0)]
)
def test_expected_improvement_is_that_of_monte_carlo(mean: float, sd: float, best: float):
    draws = np.random.default_rng(0).normal(mean, sd, size=400_000)
    gains = np.maximum(0.0, draws - best)
    found = math.exp(log_expected_improvement(tensor([mean]), tensor([sd**2]), best).item())
    assert found == pytest.approx(gains.mean(), abs=4.0 * gains.std() / math.sqrt(len(gains)))


def test_log_improvement_is_smooth_across_its_branches():
    for cut in (-1.0, -1e4):
        near = tensor([cut * (1 - 1e-9), cut * (1 + 1e-9)]).requires_grad_()
        values = log_improvement(near)
        (slopes,) = torch.autograd.grad(values.sum(), near)
        assert values[0].item() == pytest.approx(values[1].item(), rel=1e-7)
        assert slopes[0].item() == pytest.approx(slopes[1].item(), rel=1e-4)


@pytest.mark.parametrize(
    ("z", "expected"),
    # log(phi(z) + z Phi(z)) with 50 digits
    [
        (-10.0, -55.5531220361224),
        (-40.0, -808.29856835662),
        (0.0, -0.918938533204673),
        (5.0, 1.60943792312643),
    ],
)
def test_log_improvement_known_values(z: float, expected: float):
    assert log_improvement(tensor([z])).item() == pytest.approx(expected, rel=1e-12)


def test_log_improvement_rises_where_it_underflows():
    z = tensor([-1e6, -1e5, -1e3, -100.0, -40.0, -10.0, -1.0, 0.0, 3.0, 100.0]).requires_grad_()
    values = log_improvement(z)
    assert torch.isfinite(values).all()
    assert (values.diff() > 0).all()
    (slopes,) = torch.autograd.grad(values.sum(), z)
    assert (slopes > 0).all()


def test_log_feasibility_is_that_of_monte_carlo():
    draws = np.random.default_rng(1).normal(0.5, 2.0, size=200_000)
    found = math.exp(log_feasibility(tensor([0.5]), tensor([4.0]), -1.0).item())
    assert found == pytest.approx(np.mean(draws <= -1.0), abs=0.005)
    assert log_feasibility(tensor([100.0]), tensor([1.0])).item() < -4000


def test_maximise_finds_a_smooth_peak():
    encoding = Encoding({"a": FloatDistribution(0.0, 1.0), "b": FloatDistribution(0.0, 1.0)})
    peak = tensor([0.237, 0.871])
    found = maximise(lambda x: -((x - peak) ** 2).sum(dim=1), encoding, NOTHING, 0, SEARCH)
    assert found == pytest.approx(peak.numpy(), abs=1e-4)


def test_maximise_climbs_from_the_tried_points():
    # A peak so narrow that no quasi-random candidate sees it.
    encoding = Encoding({f"x{i}": FloatDistribution(0.0, 1.0) for i in range(6)})
    peak = np.full(6, 0.37)

    def score(x: torch.Tensor) -> torch.Tensor:
        near: torch.Tensor = torch.exp(-((x - torch.from_numpy(peak)) ** 2).sum(dim=1) / 1e-3)
        return near

    found = maximise(score, encoding, peak[np.newaxis] + 0.03, 0, SEARCH)
    assert found == pytest.approx(peak, abs=1e-3)


def test_maximise_in_a_mixed_space():
    encoding = Encoding(
        {
            "mode": CategoricalDistribution(["a", "b", "c"]),
            "depth": IntDistribution(1, 9),
            "size": IntDistribution(1, 1000, log=True),
            "share": FloatDistribution(0.0, 1.0),
            "step": FloatDistribution(0.0, 1.0, step=0.25),
        }
    )
    best = {"mode": "c", "depth": 7, "size": 37, "share": 0.6, "step": 0.75}
    target = torch.from_numpy(encoding.to_inputs(encoding.to_point(best)[np.newaxis]))
    tried = np.zeros((0, encoding.dimensions))
    found = maximise(lambda x: -((x - target) ** 2).sum(dim=1), encoding, tried, 0, SEARCH)
    values = encoding.to_values(found)
    assert values.pop("share") == pytest.approx(best.pop("share"), abs=1e-3)
    assert values == best


def test_maximise_repeats_and_survives_nan():
    encoding = Encoding({"a": FloatDistribution(0.0, 1.0), "b": FloatDistribution(0.0, 1.0)})

    def score(x: torch.Tensor) -> torch.Tensor:
        return torch.where(x[:, 0] < 0.5, x.sum(dim=1), torch.nan)

    one, two = (maximise(score, encoding, NOTHING, 3, SEARCH) for _ in range(2))
    assert one.tolist() == two.tolist()
    assert one[0] < 0.5
    assert one[1] > 0.9
