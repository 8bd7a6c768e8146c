"""The model of a study depends on its trials alone, not on when somebody asked for it."""

from __future__ import annotations

import numpy as np
import optuna
import pytest
from optuna.distributions import FloatDistribution

from agents.bayes.config import SurrogateConfig
from agents.bayes.surrogate import Surrogate
from agents.bayes.trials import (
    CHANGE,
    CONTEXT,
    IGNORED,
    STANDARD_ERROR,
    TrialModel,
    counted,
)
from agents.core.encoding import Encoding

SPACE = {"x": FloatDistribution(0.0, 1.0), "y": FloatDistribution(0.0, 1.0)}
GRID = np.random.default_rng(9).random((50, 2))


def trial(number: int, void: bool = False) -> optuna.trial.FrozenTrial:
    random = np.random.default_rng([4, number])
    x, y = random.random(2)
    value = -3.0 * (x - 0.3) ** 2 - (y - 0.6) ** 2 + 0.1 * random.standard_normal()
    attributes = {CONTEXT: [float(random.uniform(-1, 1))], STANDARD_ERROR: 0.1}
    if void:
        attributes |= {IGNORED: "void", CHANGE: number}
    return optuna.trial.create_trial(
        state=optuna.trial.TrialState.FAIL if void else optuna.trial.TrialState.COMPLETE,
        value=None if void else value,
        params={"x": x, "y": y},
        distributions=dict(SPACE),
        user_attrs=attributes,
        constraints={} if void else {"limit": x - 0.8},
    )


def model(settings: SurrogateConfig) -> TrialModel:
    return TrialModel(Encoding(SPACE), 1, settings)


def predictions(surrogate: Surrogate | None) -> list[np.ndarray]:
    assert surrogate is not None
    return [*surrogate.predict(GRID, (0.2,)), surrogate.feasibility(GRID, (0.2,))]


@pytest.mark.parametrize("void_at", [None, 14], ids=["steady", "shifted"])
@pytest.mark.parametrize("max_windows", [300, 10])
def test_asked_always_or_once_it_is_the_same(max_windows: int, void_at: int | None) -> None:
    settings = SurrogateConfig(refit_every=4, max_windows=max_windows)
    study = optuna.create_study(direction="maximize")
    always = model(settings)
    for number in range(19):
        study.add_trial(trial(number, void=number == void_at))
        ours = predictions(always.surrogate(study))
        if number in (0, 11, 12, 14, 15, 18):
            once = predictions(model(settings).surrogate(study))
            for a, b in zip(ours, once, strict=True):
                np.testing.assert_array_equal(a, b)


def test_hyperparameters_are_fitted_every_fourth_window() -> None:
    study = optuna.create_study(direction="maximize")
    fitted = model(SurrogateConfig(refit_every=4))
    found = []
    for number in range(21):
        study.add_trial(trial(number))
        surrogate = fitted.surrogate(study)
        assert surrogate is not None
        found.append(repr(surrogate.reward.process.hyperparameters))
    changed = [n + 1 for n in range(1, 21) if found[n] != found[n - 1]]
    assert [n for n in changed if n > 12] == [16, 20]
    assert set(range(6, 13)) <= set(changed)  # early on with every window


def test_in_between_it_learns_from_new_windows() -> None:
    study = optuna.create_study(direction="maximize")
    fitted = model(SurrogateConfig(refit_every=4))
    study.add_trials([trial(number) for number in range(13)])
    before = predictions(fitted.surrogate(study))
    study.add_trial(trial(13))
    after = predictions(fitted.surrogate(study))
    assert not np.array_equal(before[0], after[0])
    assert (after[1] <= before[1] + 1e-2).all()  # one window more, not less sure


def test_only_windows_that_count_are_counted() -> None:
    study = optuna.create_study(direction="maximize")
    study.add_trials([trial(0), trial(1, void=True), trial(2)])
    study.ask(SPACE)
    assert [t.number for t in counted(study.get_trials())] == [0, 2]


def test_nothing_to_learn_from() -> None:
    study = optuna.create_study(direction="maximize")
    assert model(SurrogateConfig()).surrogate(study) is None
    study.add_trial(trial(0, void=True))
    assert model(SurrogateConfig()).surrogate(study) is None
