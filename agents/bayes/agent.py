"""The agent that tunes a scheduler by a study, window by window.

`StudyAgent` is the primary agent (`bayes`, with `ContextualGPSampler`) and, with another
sampler, its arms: phases, model and recommendation are shared, so that a comparison tells
proposals apart and nothing else.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from optuna.study import Study

from agents.bayes.config import StudyConfig
from agents.bayes.fits import Fits
from agents.bayes.fleet import Recorded
from agents.bayes.journal import Export
from agents.bayes.model import Model
from agents.bayes.phases import CONFIRM, CONTROL, OPENING, START, Opening, Phases
from agents.bayes.proposer import Proposer, study_of
from agents.bayes.trials import TrialModel
from agents.core.agent import CANDIDATE, Transition
from agents.core.encoding import Encoding, distributions
from ewsjf_env.config import ConfigError
from ewsjf_env.parameters import ParameterSpace, Value


@dataclass(frozen=True)
class _Proposal:
    """What was proposed for a window; no values where that is not known."""

    role: str
    values: dict[str, Value] | None


class StudyAgent:
    """An agent on an Optuna study in memory.

    `act`, before a window:

    1. What other runs have added to a shared study is taken over.
    2. The role of the window is worked out (`phases.py`).  Window 0 runs the incumbent (the
       space's defaults), the next ones the points that are known to do well elsewhere, see
       `known_points`, and a few Sobol points near the incumbent.
    3. Then the sampler proposes (`proposer.py`).  The incumbent is measured again every fifth
       window, and after a proposal that broke a constraint: its queue would be blamed on the
       next one.

    `observe`, after a window:

    4. Role and proposal are those of the record; the window is credited with the values that were
       in force, to the digit of the proposal where it was that which ran.
    5. The model learns it (`model.py`).  Void windows teach nothing, but where the traffic has
       shifted, what came before counts less, as it does when the model's own errors show a change.
    6. The phases count it, and a shared study is given it.

    `recommend`, at any time:

    7. The incumbent is the best point tried by the *posterior*, never by the luckiest window: mean
       less `caution` standard deviations, so that what is hardly known does not replace what is.
       What looks better than it is tried again, up to `confirm` windows, before it takes its
       place.

    The agent's state is a fold over the windows that it was shown: whoever shows it those of
    windows.jsonl has the agent of that run.  What it draws depends on its seed and on the windows
    that count.

    Args:
        name: in the registry.
        space: what is tuned; its defaults are the first incumbent.
        config: settings.
        context_size: number of context features, >= 0.
        seed: of everything drawn, >= 0.
        folder: where `study.journal` is exported to, and fits are kept; None: nowhere.
        kept: another folder where an earlier process has kept fits, to read.
        study_name: of the study in the journal.
        shared: where windows of other runs come from, and ours go to; None: nowhere.
        known: points that did well on other traffic, see `config.start`.
        fitted: turns trials into a surrogate; None: a `TrialModel`.

    Raises:
        ConfigError: nothing to tune, or a missing library.
    """

    def __init__(
        self,
        name: str,
        space: ParameterSpace,
        config: StudyConfig,
        *,
        context_size: int = 0,
        seed: int = 0,
        folder: Path | None = None,
        kept: Path | None = None,
        study_name: str = "ewsjf",
        shared: Recorded | None = None,
        known: Sequence[Mapping[str, Value]] = (),
        fitted: TrialModel | None = None,
    ) -> None:
        if config.sampler == "cmaes" and importlib.util.find_spec("cmaes") is None:
            raise ConfigError(f"agent {name!r}: needs the package cmaes: pip install cmaes")
        self.name = name
        self._space, self._config, self._context_size = space, config, context_size
        self._study_name, self._shared = study_name, shared
        self._encoding = encoding_of(name, space)
        named = distributions(space)
        fitted = fitted or TrialModel(
            self._encoding, context_size, config.surrogate, Fits(folder, kept)
        )
        self._opening = Opening(space, self._encoding, config, seed, known)
        self._phases = Phases(config)
        self._model = Model(space, self._encoding, named, config, fitted)
        self._proposer = Proposer(config, self._encoding, named, seed)
        self._export = None if folder is None else Export(folder, study_name)
        self._seen: set[int] = set()
        self._last_context = (0.0,) * context_size
        self._pending: _Proposal | None = None  # of the window under way
        self._diagnostics: dict[str, float] = {}

    @property
    def study(self) -> Study:
        """A copy of the study in memory: every window that counts is one of its trials."""
        return study_of(self._model.trials, self._study_name)

    @property
    def windows(self) -> int:
        """Number of windows observed, void and failed ones included."""
        return len(self._seen)

    @property
    def role(self) -> str:
        """Of the last proposal, see `phases.py`."""
        return CANDIDATE if self._pending is None else self._pending.role

    def act(self, context: Sequence[float] = ()) -> dict[str, Value]:
        """Values for the next window."""
        context = self._last_context = self._checked(context)
        if self._shared is not None:
            self._shared.publish(self._model.trials)  # what a killed process did not come to
            self._shared.gather(self.windows)
        self._take_over(self.windows)
        role = self._phases.next(
            len(self._model.taken),
            lambda: bool(self._untried()),
            lambda: self._challenger(context) is not None,
        )
        values = self._values_for(role, context)
        self._pending = _Proposal(role, values)
        self._diagnose(values, context)
        return dict(values)

    def observe(self, transition: Transition) -> None:
        """Learn one window; one that is known already is skipped."""
        if transition.window in self._seen:
            return
        live = self._pending is not None
        self._take_over(transition.window)
        context = self._checked(transition.context)
        proposal = self._proposal_of(transition)
        values = self._space.validate(transition.values, f"window {transition.window}")
        own, notes = self._phases.counted, {}
        if proposal.values is not None and self._encoding.is_same(proposal.values, values):
            values = proposal.values  # as it was before it became an action
            if proposal.role == CANDIDATE:
                notes = self._proposer.notes(self._model.trials, own)
        elif proposal.values is not None and proposal.role in (START, OPENING, CONFIRM):
            self._phases.refused.append(proposal.values)
        trial = self._model.learn(
            transition,
            proposal.role,
            values,
            # What the window before has left tells of that one, not of a change.
            calm=own > self._phases.opening_windows and not self._phases.breached,
            beside=self._beside(transition),
            notes=notes,
        )
        breached = (
            transition.measured
            and not transition.ended
            and proposal.role != CONTROL
            and any(margin > 0.0 for margin in transition.margins.values())
        )
        self._phases.add(proposal.role, void=transition.void, breached=breached)
        self._seen.add(transition.window)
        self._last_context, self._pending = context, None
        if self._export is not None:
            self._export.add(trial)
        if self._shared is not None and live:
            self._shared.publish(self._model.trials)

    def recommend(self, context: Sequence[float] | None = None) -> dict[str, Value]:
        """The best confirmed point by the model, see `Surrogate.recommend`; else the defaults."""
        at = self._last_context if context is None else self._checked(context)
        return self._model.best(at, self._config.confirm)

    def diagnostics(self) -> dict[str, float]:
        """Model's view of the last proposal, and the number of changes detected."""
        return dict(self._diagnostics)

    def _proposal_of(self, transition: Transition) -> _Proposal:
        """What the window was proposed as: by its record, else by the last `act`."""
        if transition.proposed is not None:
            where = f"window {transition.window}: proposed"
            return _Proposal(transition.role, self._space.validate(transition.proposed, where))
        return self._pending or _Proposal(transition.role, None)

    def _take_over(self, window: int) -> None:
        """Learn what other runs had measured when this window of ours began."""
        for found in () if self._shared is None else self._shared.found:
            if found.before <= window and found.key not in self._model.taken:
                trial = self._model.take_over(found)
                if self._export is not None:
                    self._export.add(trial)

    def _values_for(self, role: str, context: tuple[float, ...]) -> dict[str, Value]:
        if role == START:
            return self._space.defaults
        if role == OPENING:
            untried = self._untried()
            return untried[0] if untried else self._opening.near(self._phases.opened - 1)
        if role == CONFIRM:
            return self._challenger(context) or self.recommend(context)
        return self.recommend(context) if role == CONTROL else self._propose(context)

    def _untried(self) -> list[dict[str, Value]]:
        """Known points that no window had, of ours or of others, and that no guard has refused."""
        return self._opening.untried([*self._model.tried, *self._phases.refused])

    def _challenger(self, context: Sequence[float]) -> dict[str, Value] | None:
        """What looks better than what is recommended, after too few windows."""
        best, same = self._model.best(context, 1), self._encoding.is_same
        if same(best, self._model.best(context, self._config.confirm)):
            return None
        # A guard that has let another point run instead will do so again.
        return None if any(same(best, refused) for refused in self._phases.refused) else best

    def _propose(self, context: tuple[float, ...]) -> dict[str, Value]:
        """What the sampler would try next."""
        model = self._model
        proposed = self._proposer.propose(
            model.trials, self._phases.counted, model.surrogate(), context, self.recommend(context)
        )
        return self._space.validate(proposed)

    def _beside(self, transition: Transition) -> dict[str, Any]:
        """What else a trial keeps of a measured window."""
        return {}

    def _diagnose(self, values: dict[str, Value], context: tuple[float, ...]) -> None:
        self._diagnostics = {"bo/changes": float(len(self._model.changes))}
        if self._shared is not None:
            self._diagnostics["bo/shared_windows"] = float(len(self._model.taken))
        opened = self._phases.counted >= self._phases.opening_windows
        surrogate = self._model.surrogate() if opened else None
        if surrogate is not None:
            point = self._encoding.to_point(values)[np.newaxis]
            mean, deviation = surrogate.predict(point, context)
            self._diagnostics |= {
                "bo/posterior_mean": float(mean[0]),
                "bo/posterior_std": float(deviation[0]),
                "bo/feasibility": float(surrogate.feasibility(point, context)[0]),
            }

    def _checked(self, context: Sequence[float]) -> tuple[float, ...]:
        if len(context) != self._context_size:
            raise ConfigError(
                f"agent {self.name!r}: context has {len(context)} features, "
                f"expected {self._context_size}"
            )
        if not all(math.isfinite(c) for c in context):
            raise ConfigError(f"agent {self.name!r}: context {list(context)} is not finite")
        return tuple(float(c) for c in context)


def encoding_of(name: str, space: ParameterSpace) -> Encoding:
    """Of the parameters that agent `name` can tune: those of more than one value.

    Raises:
        ConfigError: there is none.
    """
    tuned = {n: d for n, d in sorted(distributions(space).items()) if not d.single()}
    if not tuned:
        raise ConfigError(f"agent {name!r}: no parameter of the space has two values")
    return Encoding(tuned, {p.name for p in space.parameters if p.minor})
