"""The proposer: an Optuna sampler, ours or one of Optuna's own, asked for one point at a time.

Nothing waits between two proposals.  Each is asked of a new sampler on a study in memory, made of
the windows so far, so that a proposal is a function of the seed and of those windows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial

from agents.bayes.config import SamplerName, StudyConfig
from agents.bayes.journal import quiet
from agents.bayes.sampler import ContextualGPSampler
from agents.bayes.surrogate import Surrogate
from agents.core.encoding import Encoding
from ewsjf_env.parameters import Value


class Proposer:
    """See the module.

    Args:
        config: which sampler, and the settings of ours.
        encoding: of the parameters of more than one value.
        distributions: of all parameters.
        seed: of everything drawn, >= 0.
    """

    def __init__(
        self,
        config: StudyConfig,
        encoding: Encoding,
        distributions: Mapping[str, BaseDistribution],
        seed: int,
    ) -> None:
        self._config, self._encoding, self._seed = config, encoding, seed
        self._distributions = dict(distributions)

    def propose(
        self,
        trials: Sequence[FrozenTrial],
        own: int,
        surrogate: Surrogate | None,
        context: tuple[float, ...],
        center: Mapping[str, Value],
    ) -> dict[str, Value]:
        """The next point to try.

        Args:
            trials: windows that count, oldest first.
            own: how many of them are this run's own.
            surrogate: the model of them; None before anything is known.
            context: features of the traffic.
            center: the search of our sampler begins here.
        """
        if self._config.sampler != "contextual_gp":
            return self._ask(self._optuna_sampler(own), trials).params
        sampler = ContextualGPSampler(
            seed=self._seed,
            n_startup_trials=0,
            search_space=self._encoding.search_space,
            surrogate=self._config.surrogate,
            search=self._config.search,
        )
        sampler.use(surrogate)
        sampler.context, sampler.center = context, center
        return self._ask(sampler, trials).params

    def notes(self, trials: Sequence[FrozenTrial], own: int) -> dict[str, Any]:
        """What the sampler keeps with the trial of its own proposal, asked for before it ran.

        CMA-ES keeps its generation and its state; the others keep nothing.
        """
        if self._config.sampler != "cmaes":
            return {}
        return self._ask(self._optuna_sampler(own), trials).system_attrs

    def _optuna_sampler(self, own: int) -> BaseSampler:
        seed = int(np.random.SeedSequence([self._seed, own]).generate_state(1)[0])
        return _SAMPLERS[self._config.sampler](seed, 1 + self._config.startup_points)

    def _ask(self, sampler: BaseSampler, trials: Sequence[FrozenTrial]) -> FrozenTrial:
        study = study_of(trials, sampler=sampler)
        number = study.ask(self._distributions).number
        return study.get_trials(deepcopy=False)[number]


def study_of(
    trials: Sequence[FrozenTrial], name: str = "ewsjf", sampler: BaseSampler | None = None
) -> Study:
    """A study in memory, to be maximised, of some finished trials."""
    with quiet():
        study = optuna.create_study(direction="maximize", study_name=name, sampler=sampler)
    study.add_trials(trials)
    return study


_SAMPLERS: dict[SamplerName, Callable[[int, int], BaseSampler]] = {
    "tpe": lambda seed, startup: optuna.samplers.TPESampler(seed=seed, n_startup_trials=startup),
    "gp": lambda seed, startup: optuna.samplers.GPSampler(
        seed=seed, n_startup_trials=startup, warn_independent_sampling=False
    ),
    "cmaes": lambda seed, startup: optuna.samplers.CmaEsSampler(
        seed=seed, warn_independent_sampling=False
    ),
    "random": lambda seed, startup: optuna.samplers.RandomSampler(seed=seed),
}
