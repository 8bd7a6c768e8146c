"""The agent `bayes_twin`: `bayes` upon a simulated twin.

It is `bayes` in all but three things.  Between two windows the twin thinks (`twin.py`).  Its
results are the prior mean of the model of live windows (`prior_mean.py`), from which comes
what is recommended: still only points that were tried live.  And a proposal is one of the points
that the twin has looked at well: one that is known to do well elsewhere, unless the twin speaks
against it, or one that is surely better.  To explore is the twin's part, not the users'.  When
live windows say that the twin is wrong, model and proposals are those of `bayes`.

The first window runs the start values, as ever: it is the first traffic that the twin sees.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from optuna.trial import FrozenTrial

from agents.bayes.agent import StudyAgent, encoding_of
from agents.bayes.fits import Fits
from agents.bayes.surrogate import AS_LIKELY_WITHIN, Surrogate
from agents.bayes.trials import TrialModel
from agents.core.agent import Transition
from agents.core.encoding import POINT_TOLERANCE, Encoding
from agents.twin.candidates import START, Judgement
from agents.twin.config import TwinStudyConfig
from agents.twin.prior_mean import Said, combine
from agents.twin.twin import Twin
from ewsjf_env.config import ConfigError
from ewsjf_env.env.task import Task
from ewsjf_env.parameters import ParameterSpace, Value

TWIN = "twin"  # attribute of a trial: what the twin said of its window
_REWARD = "reward"
_WELL_KNOWN_SHARE = 0.5  # of the windows that the best known candidate was judged by


class TwinModel(TrialModel):
    """A `TrialModel` upon a twin.

    Attributes:
        trust: in the twin, by the last model; NaN before.
    """

    def __init__(
        self,
        encoding: Encoding,
        context_size: int,
        config: TwinStudyConfig,
        twin: Twin,
        fits: Fits | None = None,
    ) -> None:
        super().__init__(encoding, context_size, config.surrogate, fits)
        self._config, self._twin = config.twin, twin
        self._combined: tuple[object, Surrogate, float] | None = None
        self.trust = math.nan

    @property
    def trusted(self) -> bool:
        """The twin is listened to."""
        return self._twin.model is not None and self.trust >= self._config.least_trust

    def surrogate(
        self, trials: Sequence[FrozenTrial], changes: Sequence[int] = (), sign: float = 1.0
    ) -> Surrogate | None:
        """The model of all trials that count, upon the twin where it is trusted."""
        rows, twin = self._usable(trials), self._twin.model
        if twin is None or not rows:
            return super().surrogate(trials, changes, sign)
        rows = rows[-self._settings.max_windows :]
        key = (tuple(t.number for _, t in rows), tuple(changes), self._twin.thoughts)
        if self._combined is None or self._combined[0] != key:
            observations = self._observations(rows, changes, sign)
            heard = [t.user_attrs.get(TWIN, {}) for _, t in rows]
            said = Said(
                rewards=np.array([h.get(_REWARD, math.nan) for h in heard], dtype=float),
                margins={
                    name: np.array(
                        [h.get("margins", {}).get(name, math.nan) for h in heard], dtype=float
                    )
                    for name in observations.margins
                },
            )
            spread = self._config.trust
            model, trust = combine(observations, said, twin, self.encoding, spread)
            self._combined = key, model, trust
        self.trust = self._combined[2]
        if self.trusted:
            return self._combined[1]
        return super().surrogate(trials, changes, sign)


class TwinAgent(StudyAgent):
    """`StudyAgent` with a twin; see the module.

    Args:
        name: in the registry.
        space: what is tuned.
        config: settings.
        task: the same task that the windows are of.
        context_size, seed, folder, study_name, known: see `StudyAgent`; the twin's results are
            kept in the folder, too.
        kept: where an earlier process kept them, to read.

    Attributes:
        twin: the twin.

    Raises:
        ConfigError: no task, or see `StudyAgent`.
    """

    def __init__(
        self,
        name: str,
        space: ParameterSpace,
        config: TwinStudyConfig,
        *,
        task: Task | None,
        context_size: int = 0,
        seed: int = 0,
        folder: Path | None = None,
        kept: Path | None = None,
        study_name: str = "ewsjf",
        known: Sequence[Mapping[str, Value]] = (),
    ) -> None:
        if task is None:
            raise ConfigError(f"agent {name!r}: needs a task, of which the twin is made")
        encoding = encoding_of(name, space)
        self.twin = Twin(task, encoding, config.twin, seed, folder, kept)
        self._twin_model = TwinModel(encoding, context_size, config, self.twin, Fits(folder, kept))
        self._said: Judgement | None = None  # of the window that is being learnt
        self._last_error = math.nan
        super().__init__(
            name,
            space,
            config,
            context_size=context_size,
            seed=seed,
            folder=folder,
            study_name=study_name,
            known=known,
            fitted=self._twin_model,
        )

    def act(self, context: Sequence[float] = ()) -> dict[str, Value]:
        """Values for the next window, after the twin has thought."""
        self.twin.think()
        return super().act(context)

    def observe(self, transition: Transition) -> None:
        """Learn one window, the twin first; one that is known already is skipped."""
        if transition.window in self._seen:
            return
        self._said = None
        if transition.requests is not None:
            self._said = self.twin.add(
                transition.window,
                transition.requests,
                dict(transition.values),
                counts=transition.measured,
                shifted=transition.shifted,
                ended=transition.ended,
            )
            if self._said is not None:
                self._last_error = transition.reward - self._said.reward
        super().observe(transition)

    def close(self) -> None:
        """End the twin's processes."""
        self.twin.close()

    def _beside(self, transition: Transition) -> dict[str, Any]:
        if self._said is None:
            return {}
        return {TWIN: {_REWARD: self._said.reward, "margins": dict(self._said.margins)}}

    def _propose(self, context: tuple[float, ...]) -> dict[str, Value]:
        model, table = self._model.surrogate(), self.twin.table
        if model is None or table is None or not self._twin_model.trusted:
            return super()._propose(context)
        others = [w for n, w in zip(table.numbers, table.windows, strict=True) if n != START]
        least = _WELL_KNOWN_SHARE * max(others, default=0)
        rows = [i for i, windows in enumerate(table.windows) if windows >= least]
        points, config = table.points[rows], self._config
        # By means of many windows: what is worth a window may still prove too wild to recommend.
        likely = model.feasibility(points, context, by_window=False)
        enough = likely >= min(config.feasibility, float(likely.max())) - AS_LIKELY_WITHIN
        mean, deviation = model.predict(points, context)
        # The best of many looks better than it is: it has to prove that it is better.  What did
        # well elsewhere was not chosen here, and is tried unless the twin speaks against it.
        known = np.isin([table.numbers[i] for i in rows], self.twin.known)
        apart = np.abs(points[:, np.newaxis] - model.tried[np.newaxis]).max(axis=2).min(axis=1)
        doubt = np.where(known, np.where(apart < POINT_TOLERANCE, 0.0, 1.0), -1.0)
        worth = mean + config.caution * doubt * deviation
        best = rows[int(np.argmax(np.where(enough, worth, -np.inf)))]
        return self.twin.values_of(table.numbers[best])

    def _diagnose(self, values: dict[str, Value], context: tuple[float, ...]) -> None:
        super()._diagnose(values, context)
        twin = self.twin
        told = {
            "twin/trust": self._twin_model.trust,
            "twin/error": twin.speed.error,
            "twin/speed": twin.speed.speed,
            "twin/reward_error": self._last_error,
            "twin/replays": float(twin.budget.replays),
            "twin/spent_s": twin.budget.spent_s,
        }
        self._diagnostics |= {k: v for k, v in told.items() if math.isfinite(v)}
