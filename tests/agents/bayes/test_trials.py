"""The model of a study depends on its trials alone, not on when somebody asked for it."""

from __future__ import annotations

import numpy as np
import optuna
import pytest
from optuna.distributions import FloatDistribution

from agents.bayes.config import SurrogateConfig
from agents.bayes.surrogate import Surrogate
from agents.bayes.trials import CONTEXT, STANDARD_ERROR, TrialModel
from agents.core.encoding import Encoding

SPACE = {"x": FloatDistribution(0.0, 1.0), "y": FloatDistribution(0.0, 1.0)}
GRID = np.random.default_rng(9).random((50, 2))


def trial(number: int) -> optuna.trial.FrozenTrial:
    random = np.random.default_rng([4, number])
    x, y = random.random(2)
    value = -3.0 * (x - 0.3) ** 2 - (y - 0.6) ** 2 + 0.1 * random.standard_normal()
    attributes = {CONTEXT: [float(random.uniform(-1, 1))], STANDARD_ERROR: 0.1}
    made = optuna.trial.create_trial(
        value=value,
        params={"x": x, "y": y},
        distributions=dict(SPACE),
        user_attrs=attributes,
        constraints={"limit": x - 0.8},
    )
    made.number = number
    return made


def model(settings: SurrogateConfig) -> TrialModel:
    return TrialModel(Encoding(SPACE), 1, settings)


def predictions(surrogate: Surrogate | None) -> list[np.ndarray]:
    assert surrogate is not None
    return [*surrogate.predict(GRID, (0.2,)), surrogate.feasibility(GRID, (0.2,))]


@pytest.mark.parametrize("change_at", [None, 14], ids=["steady", "shifted"])
@pytest.mark.parametrize("max_windows", [300, 10])
def test_asked_always_or_once_it_is_the_same(max_windows: int, change_at: int | None) -> None:
    settings = SurrogateConfig(refit_every=4, max_windows=max_windows)
    trials, changes = [], []
    always = model(settings)
    for number in range(19):
        trials.append(trial(number))
        if number == change_at:
            changes.append(number)
        ours = predictions(always.surrogate(trials, changes))
        if number in (0, 11, 12, 14, 15, 18):
            once = predictions(model(settings).surrogate(trials, changes))
            for a, b in zip(ours, once, strict=True):
                np.testing.assert_array_equal(a, b)


def test_windows_before_a_change_count_less() -> None:
    trials = [trial(number) for number in range(14)]
    steady, changed = (
        predictions(model(SurrogateConfig()).surrogate(trials, c)) for c in ([], [9])
    )
    assert changed[1].mean() > steady[1].mean()  # less is known


def test_hyperparameters_are_fitted_every_fourth_window() -> None:
    trials = []
    fitted = model(SurrogateConfig(refit_every=4))
    found = []
    for number in range(21):
        trials.append(trial(number))
        surrogate = fitted.surrogate(trials)
        assert surrogate is not None
        found.append(repr(surrogate.reward.process.hyperparameters))
    changed = [n + 1 for n in range(1, 21) if found[n] != found[n - 1]]
    assert [n for n in changed if n > 12] == [16, 20]
    assert set(range(6, 13)) <= set(changed)  # early on with every window


def test_in_between_it_learns_from_new_windows() -> None:
    fitted = model(SurrogateConfig(refit_every=4))
    trials = [trial(number) for number in range(13)]
    before = predictions(fitted.surrogate(trials))
    trials.append(trial(13))
    after = predictions(fitted.surrogate(trials))
    assert not np.array_equal(before[0], after[0])
    assert (after[1] <= before[1] + 1e-2).all()  # one window more, not less sure


def test_nothing_to_learn_from() -> None:
    assert model(SurrogateConfig()).surrogate([]) is None
    failed = optuna.trial.create_trial(
        state=optuna.trial.TrialState.FAIL, params={"x": 0.5, "y": 0.5}, distributions=dict(SPACE)
    )
    assert model(SurrogateConfig()).surrogate([failed]) is None
