"""Which of Optuna's samplers are arms beside ours, and how is each made to resume exactly?"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, CmaEsSampler
from optuna.study import Study
from optuna.trial import FrozenTrial

from agents.bayes.config import SamplerName
from agents.bayes.trials import IGNORED


def optuna_sampler(name: SamplerName, seed: int, startup: int) -> BaseSampler:
    """A new sampler.

    One is built for every proposal, so that none depends on what an earlier process held in
    memory.

    Args:
        name: any but `contextual_gp`, which is ours.
        seed: of its draws, >= 0.
        startup: trials before its model takes over.
    """
    return _SAMPLERS[name](seed, startup)


class _ResumableCmaEs(CmaEsSampler):
    """CMA-ES that draws the same however often the run was killed.

    Optuna seeds its draws by the trial's number, and a proposal that was never run uses one up.
    """

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """As of CMA-ES, with the trials that are ignored left out of the count."""
        trials = study.get_trials(deepcopy=False)
        renumbered = copy.copy(trial)
        renumbered.number = sum(
            t.number < trial.number and IGNORED not in t.user_attrs for t in trials
        )
        return super().sample_relative(study, renumbered, search_space)


_SAMPLERS: dict[SamplerName, Callable[[int, int], BaseSampler]] = {
    "tpe": lambda seed, startup: optuna.samplers.TPESampler(seed=seed, n_startup_trials=startup),
    "gp": lambda seed, startup: optuna.samplers.GPSampler(
        seed=seed, n_startup_trials=startup, warn_independent_sampling=False
    ),
    "cmaes": lambda seed, startup: _ResumableCmaEs(seed=seed, warn_independent_sampling=False),
    "random": lambda seed, startup: optuna.samplers.RandomSampler(seed=seed),
}
