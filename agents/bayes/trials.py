"""Trials: windows as Optuna keeps them, and the surrogate fitted to them.

A trial is one window.  What the sampler and the agent know of it beyond parameters, value and
constraints stands in user attributes, under the keys below.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import CategoricalDistribution
from optuna.trial import FrozenTrial, TrialState

from agents.bayes.config import SurrogateConfig
from agents.bayes.fits import Fits, key_of
from agents.bayes.gp import Hyperparameters
from agents.bayes.surrogate import Observations, Surrogate, fit_surrogate
from agents.core.encoding import Encoding

CONTEXT = "context"  # list of floats: features of the traffic
STANDARD_ERROR = "standard_error"  # float: of the trial's value
WINDOW = "window"  # int: number of the window in its run
ROLE = "role"  # string: see `phases.py`
SURPRISE = "surprise"  # float: standardised error of the model's prediction
CHANGE = "change"  # int: number of counted trials before a change that this window revealed
SHARED = "shared"  # string: the run and window that it is of, where it is another run's
FAILURE = "failure"  # string: why there was no measurement
VOID = "void"  # True: of an export only, nothing is learnt from such a window

_ALWAYS_FITTED_WINDOWS = 12  # up to so many the hyperparameters are fitted anew every time
_Rows = Sequence[tuple[int, FrozenTrial]]
_Vector = NDArray[np.float64]


class TrialModel:
    """Turns trials into a fitted surrogate; the last one is kept.

    The trials of one study, or of one run: a number always means the same trial.

    Args:
        encoding: of the search space.
        context_size: number of context features; a trial without any stands at their middle.
        settings: of the surrogate.
        fits: what was fitted already.
    """

    def __init__(
        self,
        encoding: Encoding,
        context_size: int,
        settings: SurrogateConfig,
        fits: Fits | None = None,
    ) -> None:
        self.encoding = encoding
        self.context_size = context_size
        self._settings = settings
        self._fits = fits or Fits()
        self._kept: dict[bool, tuple[object, Surrogate]] = {}

    def surrogate(
        self, trials: Sequence[FrozenTrial], changes: Sequence[int] = (), sign: float = 1.0
    ) -> Surrogate | None:
        """The model of finished trials, oldest first; None when nothing can be learnt yet.

        Its hyperparameters are those of the model after the last multiple of `refit_every`
        trials, so that they depend on the trials alone, not on when the model was asked for.

        Args:
            trials: windows that count.
            changes: for each detected change, how many of the trials were before it.
            sign: -1: values are to be minimised.
        """
        rows = self._usable(trials)
        if not rows:
            return None
        fitted = len(rows)
        if fitted > _ALWAYS_FITTED_WINDOWS:
            fitted -= fitted % self._settings.refit_every
        model = self._model(rows[:fitted], changes, sign, None)
        if fitted == len(rows):
            return model
        return self._model(rows, changes, sign, model.hyperparameters)

    def _usable(self, trials: Sequence[FrozenTrial]) -> _Rows:
        """Trials to learn from, with their numbers among those that count.

        Without any that was measured there is nothing to learn from the others.
        """
        rows = [(i, t) for i, t in enumerate(trials) if self._is_usable(t)]
        return rows if any(t.state == TrialState.COMPLETE for _, t in rows) else []

    def _model(
        self,
        rows: _Rows,
        changes: Sequence[int],
        sign: float,
        hyperparameters: Mapping[str, Hyperparameters] | None,
    ) -> Surrogate:
        """The model of the newest rows, the last one of each kind kept."""
        rows = rows[-self._settings.max_windows :]
        # A trial never changes once it is finished, so its number stands for its content.
        key = (tuple(t.number for _, t in rows), tuple(changes), sign)
        slot = hyperparameters is None
        kept = self._kept.get(slot)
        if kept is not None and kept[0] == key:
            return kept[1]
        observations = self._observations(rows, changes, sign)
        if hyperparameters is not None:
            model = fit_surrogate(observations, self.encoding, hyperparameters)
        else:
            content = key_of(observations, self.encoding)
            known = self._fits.get(content)
            model = fit_surrogate(observations, self.encoding, known)
            if known is None:
                self._fits.put(content, model.hyperparameters)
        self._kept[slot] = (key, model)
        return model

    def _is_usable(self, trial: FrozenTrial) -> bool:
        if trial.state not in (TrialState.COMPLETE, TrialState.FAIL) or not _fits(
            trial.params, self.encoding
        ):
            return False
        return len(trial.user_attrs.get(CONTEXT, ())) in (0, self.context_size)

    def _observations(
        self,
        rows: _Rows,
        changes: Sequence[int],
        sign: float,
    ) -> Observations:
        windows = rows[-1][0] + 1
        middle = [0.0] * self.context_size
        contexts = [t.user_attrs.get(CONTEXT) or middle for _, t in rows]
        names = sorted({name for _, t in rows for name in t.constraints})
        half_life = self._settings.half_life_windows
        halvings = [
            (0.0 if half_life is None else (windows - 1 - i) / half_life)
            + self._settings.change_half_lives * sum(i < onset for onset in changes)
            for i, _ in rows
        ]
        return Observations(
            points=np.array([self.encoding.to_point(t.params) for _, t in rows]),
            contexts=np.array(contexts, dtype=float).reshape(len(rows), self.context_size),
            rewards=_rewards([t for _, t in rows], sign),
            standard_errors=np.array([t.user_attrs.get(STANDARD_ERROR, 0.0) for _, t in rows]),
            margins={
                name: np.array([_margin(t, name) for _, t in rows], dtype=float) for name in names
            },
            halvings=np.array(halvings),
        )


def _fits(parameters: Mapping[str, Any], encoding: Encoding) -> bool:
    for name, distribution in encoding.search_space.items():
        if name not in parameters:
            return False
        if isinstance(distribution, CategoricalDistribution):
            try:
                distribution.to_internal_repr(parameters[name])
            except ValueError:
                return False
    return True


def _rewards(trials: Sequence[FrozenTrial], sign: float) -> _Vector:
    """Values, larger is better; a window that crashed counts as the worst one measured."""
    values = np.array(
        [math.nan if t.state == TrialState.FAIL else sign * (t.value or 0.0) for t in trials]
    )
    finite = values[np.isfinite(values)]
    low, high = (finite.min(), finite.max()) if len(finite) else (0.0, 0.0)
    return np.asarray(np.clip(np.nan_to_num(values, nan=-np.inf), low, high), dtype=float)


def _margin(trial: FrozenTrial, name: str) -> float:
    margin = float(trial.constraints.get(name, math.nan))
    return margin if math.isfinite(margin) else math.nan
