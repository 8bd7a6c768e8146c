"""Our sampler: log expected improvement under a Gaussian process over parameters and context.

`ContextualGPSampler` is an ordinary Optuna sampler with two additions, set just before
`study.ask`: `context`, features of the traffic, becomes an input of its Gaussian process, so that
it proposes for the traffic at hand and learns from all other traffic, too; `center`, values that
are known to be good, is where the search begins (see `SearchConfig.radius`).
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.search_space import IntersectionSearchSpace
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial

from agents.bayes.acquisition import maximise
from agents.bayes.config import SearchConfig, SurrogateConfig
from agents.bayes.surrogate import Surrogate
from agents.bayes.trials import CONTEXT, TrialModel
from agents.core.encoding import Encoding, sobol_points
from ewsjf_env.config import check_range


class ContextualGPSampler(BaseSampler):
    """Log expected improvement under a Gaussian process over parameters and context.

    It keeps no state between trials: whatever it draws is a function of `seed` and of the
    trials in the study, so a resumed study continues as an uninterrupted one would, and
    `reseed_rng` has nothing to do.  It reads from each trial

    * the user attribute `context`, written here when the trial is asked for;
    * the user attribute `standard_error` of the value, if known;
    * its constraints (`trial.set_constraint`), feasible when <= 0.

    Failed trials count as bad as the worst value.

    Args:
        seed: >= 0.
        n_startup_trials: Sobol points before the model takes over, >= 0.
        search_space: what to sample jointly; None: the intersection of all trials' spaces.
        surrogate: settings of the model.
        search: settings of the search for the next point.
    """

    def __init__(
        self,
        *,
        seed: int = 0,
        n_startup_trials: int = 6,
        search_space: Mapping[str, BaseDistribution] | None = None,
        surrogate: SurrogateConfig | None = None,
        search: SearchConfig | None = None,
    ) -> None:
        check_range("seed", seed, 0)
        check_range("n_startup_trials", n_startup_trials, 0)
        self.context: tuple[float, ...] = ()
        self.center: Mapping[str, Any] | None = None
        self._seed = seed
        self._startup = n_startup_trials
        self._given = None if search_space is None else dict(search_space)
        self._intersection = IntersectionSearchSpace()
        self._settings = surrogate or SurrogateConfig()
        self._search = search or SearchConfig()
        self._shared: Surrogate | None = None
        self._model: tuple[str, TrialModel] | None = None  # of the study of that name

    def use(self, surrogate: Surrogate | None) -> None:
        """Take the caller's model of the same trials, so that it is fitted once for both."""
        self._shared = surrogate

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """The parameters sampled jointly: those of more than one possible value."""
        space = self._given
        if space is None:
            space = self._intersection.calculate(study)
        return {name: space[name] for name in sorted(space) if not space[name].single()}

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Store the context with the trial."""
        if self.context:
            study._storage.set_trial_user_attr(trial._trial_id, CONTEXT, list(self.context))

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Values of all parameters in `search_space`.

        Raises:
            ValueError: the study has several objectives.
        """
        _refuse_several_objectives(study)
        if not search_space:
            return {}
        encoding = Encoding(search_space)
        before = trial.number
        surrogate = None
        if before >= self._startup:
            surrogate = self._shared or self._fitted(study, encoding)
        if surrogate is None:
            point = sobol_points(encoding.dimensions, before + 1, self._seed)[before]
            return encoding.to_values(point)
        seed = int(np.random.SeedSequence([self._seed, before]).generate_state(1)[0])
        point = maximise(
            surrogate.acquisition(self.context),
            encoding,
            surrogate.ranking(self.context),
            seed,
            self._search,
            None if self.center is None else encoding.to_point(self.center),
        )
        return encoding.to_values(point)

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """A uniform value of one parameter that is not in the joint search space.

        Raises:
            ValueError: the study has several objectives.
        """
        _refuse_several_objectives(study)
        name = zlib.crc32(param_name.encode())
        random = np.random.default_rng([self._seed, trial.number, name])
        return Encoding({param_name: param_distribution}).to_values([random.random()])[param_name]

    def _fitted(self, study: Study, encoding: Encoding) -> Surrogate | None:
        size, kept = len(self.context), self._model
        if (
            kept is None
            or kept[0] != study.study_name
            or kept[1].context_size != size
            or kept[1].encoding.search_space != encoding.search_space
        ):
            model = TrialModel(encoding, size, self._settings)
            kept = self._model = study.study_name, model
        sign = 1.0 if study.direction == StudyDirection.MAXIMIZE else -1.0
        trials = [t for t in study.get_trials(deepcopy=False) if t.state.is_finished()]
        return kept[1].surrogate(trials, sign=sign)


def _refuse_several_objectives(study: Study) -> None:
    if len(study.directions) > 1:
        raise ValueError("ContextualGPSampler: a study of several objectives is not supported")
