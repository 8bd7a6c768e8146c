"""How does an Optuna study tune a scheduler, window by window?

`StudyAgent` is the primary agent (`bayes`, with `ContextualGPSampler`) and, with another
sampler, its arms: start, control windows, model and recommendation are shared, so that a
comparison tells proposals apart and nothing else.

1. Window 0 runs the incumbent (the space's defaults), the next ones the points that are known to
   do well elsewhere, see `known_points`, and a few Sobol points near it, which differ from it in
   the parameters that are not minor.
2. Then the sampler proposes.  The incumbent is measured again every fifth window, and after a
   proposal that broke a constraint: its queue would be blamed on the next one.
3. The incumbent is the best point tried by the *posterior*, never by the luckiest window: mean
   less `caution` standard deviations, so that what is hardly known does not replace what is.
   What looks better than it is tried again, up to `confirm` windows, before it takes its place.
4. When the model's errors show a change, everything before it counts less.

Void windows teach nothing, but where the traffic has shifted, what came before counts less.  All
of the agent's memory is the study; what it draws depends on its seed and the windows that count.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from optuna.study import Study
from optuna.trial import TrialState

from agents.bayes.config import StudyConfig
from agents.bayes.cusum import Cusum
from agents.bayes.fleet import Recorded
from agents.bayes.opening import Named, Opening
from agents.bayes.proposal import Proposal
from agents.bayes.roles import Roles
from agents.bayes.sampler import ContextualGPSampler
from agents.bayes.samplers import optuna_sampler
from agents.bayes.study import JOURNAL, KILLED, open_study
from agents.bayes.trials import (
    BREACHED,
    CHANGE,
    CONTEXT,
    IGNORED,
    REFUSED,
    ROLE,
    SHARED,
    STANDARD_ERROR,
    SURPRISE,
    WINDOW,
    TrialModel,
    counted,
)
from agents.core.agent import Transition
from agents.core.encoding import Encoding, distributions
from ewsjf_env.config import ConfigError
from ewsjf_env.parameters import ParameterSpace, Value

UNUSED = "proposed, never run"


class StudyAgent:
    """An agent on an Optuna study; see the module.

    Args:
        name: in the registry.
        space: what is tuned; its defaults are the first incumbent.
        config: settings.
        context_size: number of context features, >= 0.
        seed: of everything drawn, >= 0.
        folder: where `study.journal` is kept up to date; None: in memory.
        study_name: of the study; names what the trials depend on beside the space.
        shared: where windows of other runs come from, and ours go to; None: nowhere.
        start_points: what to begin with; None: there is no task to know any points of.

    Raises:
        ConfigError: nothing to tune, a missing library, or a study that does not fit.
    """

    offline = False

    def __init__(
        self,
        name: str,
        space: ParameterSpace,
        config: StudyConfig,
        *,
        context_size: int = 0,
        seed: int = 0,
        folder: Path | None = None,
        study_name: str = "ewsjf",
        shared: Recorded | None = None,
        start_points: Named | None = None,
    ) -> None:
        self.name = name
        self._shared = shared
        self._space, self._config = space, config
        self._context_size, self._seed, self._study_name = context_size, seed, study_name
        self._distributions = distributions(space)
        tuned = {n: d for n, d in sorted(self._distributions.items()) if not d.single()}
        if not tuned:
            raise ConfigError(f"agent {name!r}: no parameter of the space has two values")
        if config.sampler == "cmaes" and importlib.util.find_spec("cmaes") is None:
            raise ConfigError(f"agent {name!r}: needs the package cmaes: pip install cmaes")
        self._encoding = Encoding(tuned, {p.name for p in space.parameters if p.minor})
        self._opening = Opening(space, self._encoding, config, seed, start_points)
        self._asked: dict[str, Value] = {}  # for the window under way
        self._refused: list[dict[str, Value]] = []  # see REFUSED
        self._open(folder)

    @property
    def study(self) -> Study:
        """The Optuna study: every window is one of its trials."""
        return self._study

    @property
    def windows(self) -> int:
        """Number of windows observed, void and failed ones included."""
        return len(self._seen)

    def act(self, context: Sequence[float] = ()) -> dict[str, Value]:
        """Values for the next window."""
        context = self._checked(context)
        self._last_context = context
        self._proposal.discard(UNUSED)
        if self._shared is not None:
            self._shared.gather(self.windows)
        self._take_over(self.windows)
        self._role = self._next_role(context)
        self._asked = self._values_for(self._role, context)
        self._diagnose(self._asked, context)
        return dict(self._asked)

    def observe(self, transition: Transition) -> None:
        """Learn one window; one that is known already is skipped."""
        if transition.window in self._seen:
            return
        if self._role == "replayed":
            self._take_over(transition.window)
            self._propose_again(transition.before)
        values = self._space.validate(transition.values, f"window {transition.window}")
        attributes: dict[str, Any] = {WINDOW: transition.window, ROLE: self._role}
        if self._asked and self._same(self._asked, values):
            values = self._asked  # as it was before it became an action
        elif self._role in ("confirm", "startup") and self._asked:
            attributes[REFUSED] = self._asked
            self._refused.append(self._asked)
        context = self._checked(transition.context)
        attributes[BREACHED] = (
            transition.measured
            and not transition.ended
            and self._role != "control"
            and any(margin > 0.0 for margin in transition.margins.values())
        )
        if context:
            attributes[CONTEXT] = list(context)
        state, value = TrialState.COMPLETE, transition.reward
        if transition.void:
            state = TrialState.FAIL
            attributes[IGNORED] = "void"
            if transition.shifted and self._config.drift.enabled:
                attributes[CHANGE] = self._place(self._roles.counted)
        elif transition.failure is not None:
            state = TrialState.FAIL
            attributes["failure"] = transition.failure
        else:
            attributes[STANDARD_ERROR] = transition.reward_se
            attributes |= self._judge_surprise(transition, values, context)
            attributes |= self._beside(transition)
        margins = dict(transition.margins) if transition.measured else {}
        self._proposal.record(values, state, value, attributes, margins)
        self._roles.add(self._role, void=transition.void, breached=attributes[BREACHED])
        self._role, self._asked = "replayed", {}
        self._seen.add(transition.window)
        self._last_context = context
        if self._shared is not None:
            self._shared.publish(self._study.get_trials(deepcopy=False))

    def recommend(self, context: Sequence[float] | None = None) -> dict[str, Value]:
        """The best confirmed point by the model, see `Surrogate.recommend`; else the defaults."""
        at = self._last_context if context is None else self._checked(context)
        return self._best(at, self._config.confirm)

    def _best(self, context: Sequence[float], windows: int) -> dict[str, Value]:
        """The best point of at least so many windows; the defaults without any."""
        model = self._model.surrogate(self._study)
        if model is None:
            return self._space.defaults
        start, config = self._encoding.to_point(self._space.defaults), self._config
        return self._complete(
            model.recommend(context, start, config.feasibility, config.caution, windows)
        )

    def diagnostics(self) -> dict[str, float]:
        """Model's view of the last proposal, and the number of changes detected."""
        return dict(self._diagnostics)

    def save(self, folder: Path) -> None:
        """Copy the study to `folder`; nothing to do where it is kept anyway."""
        if folder == self._folder:
            return
        (folder / JOURNAL).unlink(missing_ok=True)
        copy = open_study(folder, self._study_name, self._marks)
        copy.add_trials(self._study.get_trials(deepcopy=False, states=_FINISHED))

    def load(self, folder: Path) -> None:
        """Continue with the study in `folder`, and keep it there from now on."""
        if not (folder / JOURNAL).exists():
            raise ConfigError(f"{folder}: holds no {JOURNAL}")
        self._open(folder)

    def _open(self, folder: Path | None) -> None:
        self._folder = folder
        self._marks: dict[str, str | int] = {
            "parameter_space_hash": self._space.content_hash,
            "context_size": self._context_size,
        }
        self._study = open_study(folder, self._study_name, self._marks)
        self._model = self._new_model()
        trials = self._study.get_trials(deepcopy=False)
        self._taken = {t.user_attrs[SHARED] for t in trials if SHARED in t.user_attrs}
        # A trial that was killed while its result was written does not count: it comes again.
        windows = [
            t for t in trials if t.user_attrs.get(IGNORED) != KILLED and WINDOW in t.user_attrs
        ]
        self._seen = {t.user_attrs[WINDOW] for t in windows}
        self._refused = [t.user_attrs[REFUSED] for t in windows if REFUSED in t.user_attrs]
        self._roles = Roles(self._config, trials)
        contexts = [t.user_attrs.get(CONTEXT) for t in windows]
        self._last_context = tuple(contexts[-1] or ()) if contexts else ()
        if len(self._last_context) != self._context_size:
            self._last_context = (0.0,) * self._context_size
        self._cusum = Cusum(self._config.drift.slack, self._config.drift.threshold)
        for trial in counted(trials):
            if SURPRISE in trial.user_attrs:
                self._cusum.add(trial.user_attrs[SURPRISE])
        self._proposal = Proposal(self._study, self._distributions, self._encoding)
        self._role = "replayed"
        self._asked = {}
        self._diagnostics: dict[str, float] = {}
        if self._shared is not None:
            self._shared.publish(trials)

    def _new_model(self) -> TrialModel:
        return TrialModel(self._encoding, self._context_size, self._config.surrogate)

    def _next_role(self, context: Sequence[float]) -> str:
        """What the next window is for."""
        return self._roles.next(
            len(self._taken),
            lambda: bool(self._untried()),
            lambda: self._challenger(context) is not None,
        )

    def _challenger(self, context: Sequence[float]) -> dict[str, Value] | None:
        """What looks better than what is recommended, after too few windows."""
        best = self._best(context, 1)
        if self._same(best, self._best(context, self._config.confirm)):
            return None
        # A guard that has let another point run instead will do so again.
        return None if any(self._same(best, refused) for refused in self._refused) else best

    def _same(self, values: Mapping[str, Value], others: Mapping[str, Value]) -> bool:
        return values.keys() == others.keys() and self._proposal.is_same(values, others)

    def _take_over(self, window: int) -> None:
        """Learn what other runs had measured when this window of ours began."""
        for found in () if self._shared is None else self._shared.found:
            if found.before <= window and found.key not in self._taken:
                self._study.add_trial(found.trial(self._distributions))
                self._taken.add(found.key)

    def _place(self, own: int) -> int:
        """Where our window of this number stands among all that count."""
        trials = counted(self._study.get_trials(deepcopy=False))
        places = [i for i, t in enumerate(trials) if SHARED not in t.user_attrs]
        return places[own] if own < len(places) else len(trials)

    def _beside(self, transition: Transition) -> dict[str, Any]:
        """What else a trial keeps of a measured window."""
        return {}

    def _values_for(self, role: str, context: tuple[float, ...]) -> dict[str, Value]:
        if role == "search":
            return self._search(context)
        if role == "control":
            return self._best(context, self._config.confirm)
        if role == "confirm":
            return self._challenger(context) or self._best(context, self._config.confirm)
        if self._roles.counted == 0:
            return self._space.defaults
        untried = self._untried()
        return untried[0] if untried else self._opening.near(self._roles.started - 1)

    def _untried(self) -> list[dict[str, Value]]:
        """Named points that no window had, of ours or of others, and that no guard has refused."""
        trials = counted(self._study.get_trials(deepcopy=False))
        tried = [*(t.params for t in trials), *self._refused]
        return [v for v in self._opening.named if not any(self._same(v, t) for t in tried)]

    def _search(self, context: tuple[float, ...]) -> dict[str, Value]:
        """A proposal; it waits in the study for its window, or not."""
        return self._ask(context)

    def _ask(self, context: tuple[float, ...]) -> dict[str, Value]:
        seed = int(np.random.SeedSequence([self._seed, self._roles.counted]).generate_state(1)[0])
        if self._config.sampler == "contextual_gp":
            sampler = ContextualGPSampler(
                seed=self._seed,
                n_startup_trials=0,
                search_space=self._encoding.search_space,
                surrogate=self._config.surrogate,
                search=self._config.search,
            )
            sampler.use_model(self._model)
            sampler.context = context
            sampler.center = self.recommend(context)
            self._study.sampler = sampler
        else:
            self._study.sampler = optuna_sampler(self._config.sampler, seed, self._roles.startup)
        return self._space.validate(self._proposal.ask())

    def _propose_again(self, context: Sequence[float]) -> None:
        """Ask for what another process proposed, before its window is learnt.

        The window's own values are rounded to an action; the model is of what was proposed.
        """
        known = len(context) == self._context_size
        context = self._checked(context) if known else self._last_context
        self._role = self._next_role(context)
        if known:
            self._asked = self._values_for(self._role, context)

    def _judge_surprise(
        self, transition: Transition, values: dict[str, Value], context: tuple[float, ...]
    ) -> dict[str, object]:
        """How far the model was off where it was sure, and whether that reveals a change."""
        if not self._config.drift.enabled or self._roles.counted <= self._roles.startup:
            return {}
        if self._roles.breached:
            return {}  # what the window before has left tells of that one, not of a change
        model = self._model.surrogate(self._study)
        if model is None:
            return {}
        mean, deviation = model.predict(self._encoding.to_point(values)[np.newaxis], context)
        noise = math.hypot(model.noise_floor_sd, transition.reward_se)
        if float(deviation[0]) > noise:
            return {}  # far from all data an error tells of the model, not of a change
        surprise = (transition.reward - float(mean[0])) / math.hypot(float(deviation[0]), noise)
        length = self._cusum.add(surprise)
        found: dict[str, object] = {SURPRISE: surprise}
        if length is not None:
            found[CHANGE] = self._place(max(0, self._roles.counted + 1 - length))
        return found

    def _diagnose(self, values: dict[str, Value], context: tuple[float, ...]) -> None:
        trials = self._study.get_trials(deepcopy=False)
        self._diagnostics = {"bo/changes": float(sum(CHANGE in t.user_attrs for t in trials))}
        if self._shared is not None:
            self._diagnostics["bo/shared_windows"] = float(len(self._taken))
        begun = self._roles.counted >= self._roles.startup
        model = self._model.surrogate(self._study) if begun else None
        if model is not None:
            point = self._encoding.to_point(values)[np.newaxis]
            mean, deviation = model.predict(point, context)
            self._diagnostics |= {
                "bo/posterior_mean": float(mean[0]),
                "bo/posterior_std": float(deviation[0]),
                "bo/feasibility": float(model.feasibility(point, context)[0]),
            }

    def _complete(self, point: Sequence[float] | np.ndarray) -> dict[str, Value]:
        """Values of a point; those that a window had are given back to the digit."""
        values = self._space.validate(self._encoding.to_values(point))
        tried = (t.params for t in self._study.get_trials(deepcopy=False, states=_FINISHED))
        for known in (self._space.defaults, *tried):
            if self._same(known, values):
                return self._space.validate(known)
        return values

    def _checked(self, context: Sequence[float]) -> tuple[float, ...]:
        if len(context) != self._context_size:
            raise ConfigError(
                f"agent {self.name!r}: context has {len(context)} features, "
                f"expected {self._context_size}"
            )
        if not all(math.isfinite(c) for c in context):
            raise ConfigError(f"agent {self.name!r}: context {list(context)} is not finite")
        return tuple(float(c) for c in context)


_FINISHED = (TrialState.COMPLETE, TrialState.FAIL)
