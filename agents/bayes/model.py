"""The model of a tuning run: what its windows so far have taught, as a fold over them.

A window that counts becomes a trial; a void one does not, and teaches at most that the traffic
has shifted.  The surrogate is fitted to the trials, of which those before a change count less.
A change is detected by the surrogate's own errors (`cusum.py`) where it was sure.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState

from agents.bayes.config import StudyConfig
from agents.bayes.cusum import Cusum
from agents.bayes.fleet import Found
from agents.bayes.surrogate import Surrogate
from agents.bayes.trials import (
    CHANGE,
    CONTEXT,
    FAILURE,
    ROLE,
    SHARED,
    STANDARD_ERROR,
    SURPRISE,
    VOID,
    WINDOW,
    TrialModel,
)
from agents.core.agent import Transition
from agents.core.encoding import Encoding
from ewsjf_env.parameters import ParameterSpace, Value


class Model:
    """See the module.

    Args:
        space: what is tuned; its defaults are recommended while nothing is known.
        encoding: of the same space.
        distributions: of all parameters, by name.
        config: of the study.
        fitted: turns trials into a surrogate.

    Attributes:
        trials: windows that count, ours and those of other runs, oldest first.
        changes: for each detected change, how many trials were before it.
        taken: keys of the windows of other runs.
    """

    def __init__(
        self,
        space: ParameterSpace,
        encoding: Encoding,
        distributions: Mapping[str, BaseDistribution],
        config: StudyConfig,
        fitted: TrialModel,
    ) -> None:
        self._space, self._encoding, self._config = space, encoding, config
        self._distributions, self._fitted = dict(distributions), fitted
        self._cusum = Cusum(config.drift.slack, config.drift.threshold)
        self.trials: list[FrozenTrial] = []
        self.changes: list[int] = []
        self.taken: set[str] = set()

    @property
    def tried(self) -> list[dict[str, Value]]:
        """Values of all trials."""
        return [t.params for t in self.trials]

    def surrogate(self) -> Surrogate | None:
        """The surrogate of all trials; None when nothing can be learnt yet."""
        return self._fitted.surrogate(self.trials, self.changes)

    def learn(
        self,
        transition: Transition,
        role: str,
        values: dict[str, Value],
        *,
        calm: bool,
        beside: Mapping[str, Any],
        notes: Mapping[str, Any],
    ) -> FrozenTrial:
        """Take a window of this run in; its trial, whether it counts or not.

        Args:
            transition: the window.
            role: see `phases.py`.
            values: in force, as they were before they became an action.
            calm: an error of the surrogate in it may tell of a change.
            beside: further attributes of a measured window.
            notes: what the sampler keeps with the trial.
        """
        attributes: dict[str, Any] = {WINDOW: transition.window, ROLE: role}
        if transition.context:
            attributes[CONTEXT] = list(transition.context)
        state = TrialState.COMPLETE if transition.measured else TrialState.FAIL
        if transition.void:
            attributes[VOID] = True
            if transition.shifted and self._config.drift.enabled:
                attributes[CHANGE] = len(self.trials)
        elif transition.failure is not None:
            attributes[FAILURE] = transition.failure
        else:
            attributes[STANDARD_ERROR] = transition.reward_se
            if calm and self._config.drift.enabled:
                attributes |= self._surprise(transition, values)
            attributes |= beside
        if CHANGE in attributes:
            self.changes.append(attributes[CHANGE])
        trial = optuna.create_trial(
            state=state,
            value=transition.reward if transition.measured else None,
            params=values,
            distributions=self._distributions,
            user_attrs=attributes,
            system_attrs=dict(notes),
            constraints=dict(transition.margins) if transition.measured else {},
        )
        if not transition.void:
            self._append(trial)
        return trial

    def take_over(self, found: Found) -> FrozenTrial:
        """Take a window of another run in."""
        trial = found.trial(self._distributions)
        self.taken.add(found.key)
        self._append(trial)
        return trial

    def best(self, context: Sequence[float], windows: int) -> dict[str, Value]:
        """The best point of at least so many windows; the defaults before anything is known.

        Values that a window had are given back to the digit.
        """
        surrogate, config = self.surrogate(), self._config
        if surrogate is None:
            return self._space.defaults
        start = self._encoding.to_point(self._space.defaults)
        point = surrogate.recommend(context, start, config.feasibility, config.caution, windows)
        values = self._space.validate(self._encoding.to_values(point))
        for known in (self._space.defaults, *self.tried):
            if self._encoding.is_same(known, values):
                return self._space.validate(known)
        return values

    def _append(self, trial: FrozenTrial) -> None:
        trial.number = len(self.trials)
        self.trials.append(trial)

    def _surprise(self, transition: Transition, values: dict[str, Value]) -> dict[str, Any]:
        """How far the surrogate was off where it was sure, and whether that reveals a change."""
        surrogate = self.surrogate()
        if surrogate is None:
            return {}
        point = self._encoding.to_point(values)[np.newaxis]
        mean, deviation = surrogate.predict(point, transition.context)
        noise = math.hypot(surrogate.noise_floor_sd, transition.reward_se)
        if float(deviation[0]) > noise:
            return {}  # far from all data an error tells of the model, not of a change
        surprise = (transition.reward - float(mean[0])) / math.hypot(float(deviation[0]), noise)
        errors = self._cusum.add(surprise)
        if errors is None:
            return {SURPRISE: surprise}
        # So many of our own windows ago, this one included; those of other runs are between.
        own = [i for i, t in enumerate(self.trials) if SHARED not in t.user_attrs]
        begin = max(0, len(own) + 1 - errors)
        place = own[begin] if begin < len(own) else len(self.trials)
        return {SURPRISE: surprise, CHANGE: place}
