from collections.abc import Callable

import optuna
import pytest
from optuna.distributions import FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler
from optuna.testing.pytest_samplers import (
    BasicSamplerTestCase,
    RelativeSamplerTestCase,
    SingleOnlySamplerTestCase,
)
from optuna.trial import TrialState

from agents.bayes.config import SearchConfig
from agents.bayes.sampler import ContextualGPSampler
from agents.bayes.trials import CONTEXT
from ewsjf_env.config import ConfigError

SMALL = SearchConfig(candidates=64, refinements=1)
SPACE = {"x": FloatDistribution(0.0, 1.0), "k": IntDistribution(1, 8)}


@pytest.fixture(autouse=True)
def quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)


class TestConformance(BasicSamplerTestCase, RelativeSamplerTestCase, SingleOnlySamplerTestCase):
    """Optuna's own contract tests for samplers."""

    @pytest.fixture
    def sampler(self) -> Callable[[], BaseSampler]:
        return lambda: ContextualGPSampler(seed=0, n_startup_trials=2, search=SMALL)


def ask_and_tell(study: optuna.Study, trials: int, space=SPACE) -> list[dict[str, object]]:
    proposals = []
    for _ in range(trials):
        trial = study.ask(space)
        proposals.append(trial.params)
        study.tell(trial, -((trial.params["x"] - 0.3) ** 2))
    return proposals


def make_sampler(seed: int = 1) -> ContextualGPSampler:
    return ContextualGPSampler(seed=seed, n_startup_trials=3, search_space=SPACE, search=SMALL)


def test_context_is_stored_with_the_trial():
    sampler = make_sampler()
    study = optuna.create_study(sampler=sampler, direction="maximize")
    sampler.context = (0.25, -1.0)
    study.ask(SPACE)
    assert study.trials[0].user_attrs[CONTEXT] == [0.25, -1.0]


def test_proposals_depend_on_the_context():
    sampler = make_sampler()
    study = optuna.create_study(sampler=sampler, direction="maximize")
    for i in range(16):
        sampler.context = (-1.0,) if i % 2 else (1.0,)
        trial = study.ask(SPACE)
        best = 0.2 if i % 2 else 0.8
        study.tell(trial, -((trial.params["x"] - best) ** 2))
    found = []
    for context in (-1.0, 1.0):
        sampler.context = (context,)
        trial = study.ask(SPACE)
        found.append(trial.params["x"])
        study.tell(trial, state=TrialState.FAIL)
    assert found[0] < 0.45
    assert found[1] > 0.55


def test_new_sampler_continues_as_the_old_one():
    whole = optuna.create_study(sampler=make_sampler(), direction="maximize")
    expected = ask_and_tell(whole, 8)
    split = optuna.create_study(sampler=make_sampler(), direction="maximize")
    first = ask_and_tell(split, 2)
    split.sampler = make_sampler()
    second = ask_and_tell(split, 4)
    split.sampler = make_sampler()
    assert first + second + ask_and_tell(split, 2) == expected
    assert len({p["x"] for p in expected}) > 4


def test_seeds_differ():
    one, two = (
        ask_and_tell(optuna.create_study(sampler=make_sampler(s), direction="maximize"), 2)
        for s in (1, 2)
    )
    assert one != two


def test_failed_trials_are_avoided():
    study = optuna.create_study(sampler=make_sampler(), direction="maximize")
    for _ in range(12):
        trial = study.ask(SPACE)
        if trial.params["x"] > 0.5:
            study.tell(trial, state=TrialState.FAIL)
        else:
            study.tell(trial, trial.params["x"])
    late = [t for t in study.trials[6:] if t.state == TrialState.FAIL]
    assert len(late) <= 3


def test_minimises_when_the_study_does():
    study = optuna.create_study(sampler=make_sampler(), direction="minimize")
    for _ in range(14):
        trial = study.ask(SPACE)
        study.tell(trial, (trial.params["x"] - 0.7) ** 2)
    assert abs(study.best_params["x"] - 0.7) < 0.1


@pytest.mark.parametrize("argument", ["seed", "n_startup_trials"])
def test_negative_numbers_are_refused(argument: str):
    with pytest.raises(ConfigError, match=argument):
        ContextualGPSampler(**{argument: -1})
