"""The model of few, noisy windows: its beliefs, and whom it recommends."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from optuna.distributions import FloatDistribution

from agents.bayes.surrogate import Observations, Surrogate, fit_surrogate
from agents.core.encoding import Encoding

ENCODING = Encoding({"x": FloatDistribution(0.0, 1.0)})
START, OTHER = np.array([0.2]), np.array([0.8])


def model(rewards: dict[float, list[float]], margins: dict[float, list[float]]) -> Surrogate:
    """Windows at points x, those of a point in the order given."""
    x = [point for point, values in rewards.items() for _ in values]
    return fit_surrogate(
        Observations(
            points=np.array(x)[:, None],
            contexts=np.zeros((len(x), 0)),
            rewards=np.concatenate(list(rewards.values())),
            standard_errors=np.zeros(len(x)),
            margins={"limit": np.concatenate(list(margins.values()))},
            halvings=np.zeros(len(x)),
        ),
        ENCODING,
    )


def test_a_constraint_is_kept_by_windows_not_by_their_mean() -> None:
    """One window in three breaks the limit, at a point whose mean margin is surely below it."""
    noisy = np.tile([-0.35, -0.25, 0.15], 10)
    found = model({0.8: [0.0] * 30}, {0.8: list(noisy)})
    limit = found.constraints["limit"]
    mean, deviation = limit.predict(np_inputs(OTHER))
    assert mean[0] + 3.0 * deviation[0] < 0.0
    assert found.feasibility(OTHER[None], ())[0] == pytest.approx(2 / 3, abs=0.1)
    assert found.feasibility(OTHER[None], (), by_window=False)[0] > 0.99


def test_a_lucky_window_of_a_wild_point_is_not_recommended() -> None:
    """Its reward is the best, but it has kept the constraint by a hair, beside wild neighbours."""
    found = model(
        {0.2: [0.0, 0.02, -0.02], 0.8: [0.3], 0.9: [-1.0], 0.7: [-0.8], 0.6: [0.1]},
        {0.2: [-0.2, -0.25, -0.2], 0.8: [-0.02], 0.9: [0.8], 0.7: [-0.3], 0.6: [0.5]},
    )
    assert found.recommend((), START, 0.95).tolist() == START.tolist()


def test_the_start_is_likely_enough_where_nothing_is_sure() -> None:
    """Where the start itself breaks the limit now and then, what does so less may replace it."""
    found = model(
        {0.2: [0.0, 0.1, -0.1, 0.0], 0.8: [0.5, 0.4, 0.6, 0.5]},
        {0.2: [0.1, -0.1, 0.1, -0.1], 0.8: [-0.1, -0.3, 0.1, -0.1]},
    )
    start, other = found.feasibility(np.array([START, OTHER]), ())
    assert start < other < 0.95
    assert found.recommend((), START, 0.95).tolist() == OTHER.tolist()


def test_about_as_likely_as_the_start_is_enough() -> None:
    found = model({0.2: [0.0] * 4, 0.8: [0.3] * 4}, {0.2: [-0.2, -0.1] * 2, 0.8: [-0.2, -0.1] * 2})
    start, other = found.feasibility(np.array([START, OTHER]), ())
    points = np.array([OTHER])
    assert found.feasible_enough(points, (), START, least=1.0)[0] == (other >= start - 0.05)
    assert found.feasible_enough(np.array([START]), (), START, least=1.0).all()
    assert found.feasible_enough(points, (), START, least=0.0).all()


def np_inputs(point: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(ENCODING.to_inputs(point[None]))
