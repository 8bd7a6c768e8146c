"""How does `bayes_twin` use its twin?

It is `bayes` in all but three things.  Between two windows the twin thinks (`twin.py`).  Its
results are the prior mean of the model of live windows (`surrogate.py`), from which comes
what is recommended: still only points that were tried live.  And a proposal is one of the points
that the twin has looked at well: one that is known to do well elsewhere, unless the twin speaks
against it, or one that is surely better.  To explore is the twin's part, not the users'.  When
live windows say that the twin is wrong, model and proposals are those of `bayes`.

The first window runs the start values, as ever: it is the first traffic that the twin sees.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from optuna.study import Study

from agents.bayes.agent import StudyAgent
from agents.bayes.opening import Named
from agents.bayes.surrogate import LESS, Surrogate
from agents.bayes.trials import TrialModel
from agents.core.agent import Transition
from agents.core.encoding import SAME, Encoding
from agents.twin.candidates import START
from agents.twin.config import TwinStudyConfig
from agents.twin.prior_mean import Said, combine
from agents.twin.twin import Twin
from ewsjf_env.config import ConfigError
from ewsjf_env.env.task import TuningConfig
from ewsjf_env.parameters import ParameterSpace, Value

TWIN = "twin"  # attribute of a trial: what the twin said of its window
_REWARD = "reward"
_WELL = 0.5  # of the windows that the best known candidate was judged by: a point is known well


class TwinModel(TrialModel):
    """A `TrialModel` upon a twin.

    Attributes:
        trust: in the twin, by the last model; NaN before.
    """

    def __init__(
        self, encoding: Encoding, context_size: int, config: TwinStudyConfig, twin: Twin
    ) -> None:
        super().__init__(encoding, context_size, config.surrogate)
        self._config, self._twin = config.twin, twin
        self._combined: tuple[object, Surrogate, float] | None = None
        self.trust = math.nan

    @property
    def trusted(self) -> bool:
        """The twin is listened to."""
        return self._twin.model is not None and self.trust >= self._config.least_trust

    def surrogate(self, study: Study) -> Surrogate | None:
        """The model of all trials that count, upon the twin where it is trusted."""
        rows, changes = self._usable(study)
        twin = self._twin.model
        if twin is None or not rows:
            return super().surrogate(study)
        rows = rows[-self._settings.max_windows :]
        key = (
            study.study_name,
            tuple(t.number for _, t in rows),
            tuple(changes),
            self._twin.thoughts,
        )
        if self._combined is None or self._combined[0] != key:
            observations = self._observations(rows, changes, 1.0)
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
        return self._combined[1] if self.trusted else super().surrogate(study)


class TwinAgent(StudyAgent):
    """`StudyAgent` with a twin; see the module.

    Args:
        name: in the registry.
        space: what is tuned.
        config: settings.
        task: the same task that the windows are of.
        context_size, seed, folder, study_name, start_points: see `StudyAgent`; the twin's results
            are kept in the folder, too.
        kept: where an earlier process kept them, to read.

    Raises:
        ConfigError: no task, or see `StudyAgent`.
    """

    def __init__(
        self,
        name: str,
        space: ParameterSpace,
        config: TwinStudyConfig,
        *,
        task: TuningConfig | None,
        context_size: int = 0,
        seed: int = 0,
        folder: Path | None = None,
        kept: Path | None = None,
        study_name: str = "ewsjf",
        start_points: Named | None = None,
    ) -> None:
        if task is None:
            raise ConfigError(f"agent {name!r}: needs a task, of which the twin is made")
        self._task, self._twin_config, self._kept = task, config.twin, kept
        self._whole_config = config
        self._twin: Twin | None = None
        self._last_error = math.nan
        super().__init__(
            name,
            space,
            config,
            context_size=context_size,
            seed=seed,
            folder=folder,
            study_name=study_name,
            start_points=start_points,
        )

    @property
    def twin(self) -> Twin:
        """The twin."""
        assert self._twin is not None  # made when the study is opened
        return self._twin

    def act(self, context: Sequence[float] = ()) -> dict[str, Value]:
        """Values for the next window, after the twin has thought."""
        self.twin.think()
        return super().act(context)

    def observe(self, transition: Transition) -> None:
        """Learn one window, the twin first; it forgets with every process."""
        self._said = None
        if transition.requests is not None and transition.window not in self._replayed:
            self._replayed.add(transition.window)
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

    def save(self, folder: Path) -> None:
        """Copy the study, and what the twin has replayed."""
        super().save(folder)
        if folder != self._folder:
            self.twin.replayer.copy_to(folder)

    def load(self, folder: Path) -> None:
        """Continue with the study in `folder`; the twin hears of windows from now on.

        The requests of past windows are in windows.jsonl alone: who resumes a run shows them.
        """
        super().load(folder)

    def close(self) -> None:
        """End the twin's processes."""
        self.twin.close()

    def _open(self, folder: Path | None) -> None:
        if self._twin is not None:
            self._twin.close()
        self._twin = Twin(
            self._task, self._encoding, self._twin_config, self._seed, folder, self._kept
        )
        self._replayed: set[int] = set()
        self._said = None
        super()._open(folder)

    def _new_model(self) -> TwinModel:
        self._twin_model = TwinModel(
            self._encoding, self._context_size, self._whole_config, self.twin
        )
        return self._twin_model

    def _beside(self, transition: Transition) -> dict[str, Any]:
        if self._said is None:
            return {}
        return {TWIN: {_REWARD: self._said.reward, "margins": dict(self._said.margins)}}

    def _search(self, context: tuple[float, ...]) -> dict[str, Value]:
        model, table = self._model.surrogate(self._study), self.twin.table
        if model is None or table is None or not self._twin_model.trusted:
            return super()._search(context)
        others = [w for n, w in zip(table.numbers, table.windows, strict=True) if n != START]
        least = _WELL * max(others, default=0)
        rows = [i for i, windows in enumerate(table.windows) if windows >= least]
        points, config = table.points[rows], self._config
        # By means of many windows: what is worth a window may still prove too wild to recommend.
        likely = model.feasibility(points, context, by_window=False)
        enough = likely >= min(config.feasibility, float(likely.max())) - LESS
        mean, deviation = model.predict(points, context)
        # The best of many looks better than it is: it has to prove that it is better.  What did
        # well elsewhere was not chosen here, and is tried unless the twin speaks against it.
        known = np.isin([table.numbers[i] for i in rows], self.twin.known)
        apart = np.abs(points[:, np.newaxis] - model.tried[np.newaxis]).max(axis=2).min(axis=1)
        doubt = np.where(known, np.where(apart < SAME, 0.0, 1.0), -1.0)
        worth = mean + config.caution * doubt * deviation
        best = rows[int(np.argmax(np.where(enough, worth, -np.inf)))]
        return self.twin.values_of(table.numbers[best])

    def _diagnose(self, values: dict[str, Value], context: tuple[float, ...]) -> None:
        super()._diagnose(values, context)
        twin = self.twin
        found = {
            "twin/trust": self._twin_model.trust,
            "twin/error": twin.speed.error,
            "twin/speed": twin.speed.speed,
            "twin/reward_error": self._last_error,
            "twin/replays": float(twin.replays),
            "twin/spent_s": twin.spent,
        }
        self._diagnostics |= {k: v for k, v in found.items() if math.isfinite(v)}
