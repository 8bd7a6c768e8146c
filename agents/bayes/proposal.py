"""Where does a proposal wait for its window, and how is a window stored?

What is proposed waits as a running trial of the study.  A window of the same values ends it; one
of other values (a guard has changed them, or nobody asked) is a trial of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.study import Study
from optuna.trial import Trial, TrialState

from agents.bayes.study import discard_unfinished
from agents.core.encoding import SAME, Encoding
from ewsjf_env.parameters import Value

REPLACED = "another point was executed"


class Proposal:
    """The trial of a study that waits, if one does.

    Args:
        study: where trials are.
        distributions: of the parameters, by name.
        encoding: of the same parameters.
    """

    def __init__(
        self, study: Study, distributions: Mapping[str, BaseDistribution], encoding: Encoding
    ) -> None:
        self._study, self._encoding = study, encoding
        self._distributions = dict(distributions)
        self._waiting: Trial | None = None

    def ask(self) -> dict[str, Value]:
        """What the study's sampler proposes next; it waits from now on."""
        self._waiting = self._study.ask(self._distributions)
        return dict(self._waiting.params)

    def discard(self, reason: str) -> None:
        """Nothing waits any more."""
        if self._waiting is not None:
            discard_unfinished(self._study, reason)
            self._waiting = None

    def record(
        self,
        values: Mapping[str, Value],
        state: TrialState,
        value: float,
        attributes: Mapping[str, Any],
        margins: Mapping[str, float],
    ) -> None:
        """Store a window.

        Args:
            values: that were executed.
            state: COMPLETE, or FAIL for a window that teaches nothing.
            value: its reward; not stored with FAIL.
            attributes: of the trial.
            margins: of the constraints, by name.
        """
        reward = value if state == TrialState.COMPLETE else None
        trial = self._waiting
        if trial is not None and self.is_same(trial.params, values):
            for key, content in attributes.items():
                trial.set_user_attr(key, content)
            for name, margin in margins.items():
                trial.set_constraint(name, margin)
            self._study.tell(trial, reward, state)
        else:
            self.discard(REPLACED)
            self._study.add_trial(
                optuna.create_trial(
                    state=state,
                    value=reward,
                    params=dict(values),
                    distributions=self._distributions,
                    user_attrs=dict(attributes),
                    constraints=dict(margins),
                )
            )
        self._waiting = None

    def is_same(self, proposed: Mapping[str, Value], executed: Mapping[str, Value]) -> bool:
        """An action is float32: what comes back of a proposal may be rounded."""
        apart = self._encoding.to_point(proposed) - self._encoding.to_point(executed)
        return bool(np.abs(apart).max() < SAME)
