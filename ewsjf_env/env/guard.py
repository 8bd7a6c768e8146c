"""The guard of a tuning run: a wrapper that may replace a candidate or break it off.

Every window runs in one of these modes, which `info["guard"]` tells:

    candidate  the proposed action, moved into the trust region round the incumbent
    control    the incumbent, every k-th window: tells drift of the traffic from effects
    rollback   the incumbent, after a breach
    held       the incumbent, while the budget of breaches is used up
    killed     the policy's own values, for good: the kill switch has fired

A candidate window breaches when a constraint's margin is above 0.  One that is far above is
broken off, and the incumbent serves the rest of the window at once (`episode.AbortRule`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, SupportsFloat, cast

import gymnasium
import numpy as np
from gymnasium.utils import RecordConstructorArgs
from numpy.typing import ArrayLike

from ewsjf_env.config import ConfigError, from_dict, to_dict
from ewsjf_env.env.env import SchedulerTuningEnv
from ewsjf_env.env.episode import AbortRule
from ewsjf_env.env.outcome import Action, Observation, WindowOutcome
from ewsjf_env.env.registration import ENGINE_IDS
from ewsjf_env.env.task import SafetySettings, Task, load_tuning
from ewsjf_env.measure.records import WindowMetrics
from ewsjf_env.measure.tags import tag

Mode = Literal["candidate", "control", "rollback", "held", "killed"]
INTERVENTIONS = ("rollback", "control", "held", "killed")


@dataclass(frozen=True)
class GuardReport:
    """What the guard made of a window; the defaults are those of a window without a guard.

    Attributes:
        mode: see the module.
        projected: the executed action is not the proposed one.
        breach: a candidate broke a constraint.
        breaches: so far.
        budget_left: breaches that are still allowed.
        radius: of the trust region.
        incumbent: its centre, an action.
        killed: why the kill switch has fired, or None.
    """

    mode: Mode = tag("safety/{}", one_of=INTERVENTIONS, default="candidate")
    projected: bool = False
    breach: bool = tag("safety/breach", default=False)
    breaches: int = 0
    budget_left: int | None = tag("safety/budget_left", default=None)
    radius: float | None = tag("safety/radius", default=None)
    incumbent: tuple[float, ...] = ()
    killed: str | None = None


@dataclass(frozen=True)
class GuardState:
    """What the mode of the next window depends on; see `SafetyGuard.restore`."""

    incumbent: tuple[float, ...]
    incumbent_rewards: tuple[float, ...]
    radius: float
    window: int
    breaches: int
    streak: int
    roll_back: bool
    recent: tuple[bool, ...]
    killed: str | None


class SafetyGuard(
    gymnasium.Wrapper[Observation, Action, Observation, Action], RecordConstructorArgs
):
    """Keeps a tuner near an incumbent that is known to be good.

    The incumbent starts as the policy's own values.  A tuner that has a better one says so with
    `set_incumbent`; with `promote_margin` the guard also promotes candidates itself.

    `info["guard"]`: `mode`, `projected` (the executed action is not the proposed one),
    `breach`, `breaches` (so far), `budget_left`, `radius`, `incumbent` (an action) and `killed`
    (the reason, or None).  `info["proposed_action"]` is what the tuner asked for, and
    `info["executed_action"]` what was in force.  `report` is `info["guard"]`, typed.

    Budget, incumbent and radius outlive an episode; a reset with a seed starts them anew, so
    that equal seeds give equal runs.  The kill switch outlives every reset, until `rearm`.
    """

    def __init__(
        self,
        env: gymnasium.Env[Observation, Action],
        settings: SafetySettings | Mapping[str, Any] | None = None,
    ) -> None:
        """Wrap an environment.

        Args:
            env: a `SchedulerTuningEnv`, possibly wrapped.
            settings: see `SafetySettings` (`enabled` is for `make_env`); None takes those of
                the environment's configuration.

        Raises:
            ConfigError: another environment, or settings out of range.
        """
        base = env.unwrapped
        if not isinstance(base, SchedulerTuningEnv):
            raise ConfigError(f"env: expected a SchedulerTuningEnv, got {type(base).__name__}")
        if settings is None:
            settings = base.config.safety
        elif isinstance(settings, Mapping):
            settings = from_dict(SafetySettings, settings, "safety")
        RecordConstructorArgs.__init__(self, settings=to_dict(settings))
        gymnasium.Wrapper.__init__(self, env)
        self.settings = settings
        self.report = GuardReport()
        self.killed: str | None = None
        self._base = base
        self._recent: deque[bool] = deque()
        self._start_anew()

    @property
    def incumbent(self) -> Action:
        """The action that control windows run at, shape (d,)."""
        return self._incumbent.copy()

    @property
    def trust_region(self) -> tuple[Action, Action]:
        """Lowest and highest action that a candidate can have, shapes (d,)."""
        low = np.clip(self._incumbent - self.radius, -1.0, 1.0).astype(np.float32)
        high = np.clip(self._incumbent + self.radius, -1.0, 1.0).astype(np.float32)
        return low, high

    @property
    def budget_left(self) -> int:
        """Breaches that are still allowed before candidates are held back."""
        return max(0, self.settings.budget - sum(self._recent))

    def set_incumbent(self, action: ArrayLike) -> None:
        """Trust another action from now on.

        Raises:
            ConfigError: not d finite numbers.
        """
        self._base.parameter_space.from_box(action)
        self._incumbent = np.clip(np.asarray(action, dtype=np.float32), -1.0, 1.0)
        self._incumbent_rewards: list[float] = []

    def state(self) -> GuardState:
        """What the mode of the next window depends on; see `restore`."""
        return GuardState(
            incumbent=_numbers(self._incumbent),
            incumbent_rewards=tuple(self._incumbent_rewards),
            radius=self.radius,
            window=self._window,
            breaches=self._breaches,
            streak=self._streak,
            roll_back=self._roll_back,
            recent=tuple(self._recent),
            killed=self.killed,
        )

    def restore(self, state: GuardState) -> None:
        """Go on as the guard would whose `state` this is, to resume a run."""
        self.set_incumbent(state.incumbent)
        self._incumbent_rewards = list(state.incumbent_rewards)
        self.radius = state.radius
        self._window = state.window
        self._breaches = state.breaches
        self._streak = state.streak
        self._roll_back = state.roll_back
        self._recent = deque(state.recent, maxlen=self.settings.budget_windows)
        self.killed = state.killed

    def kill(self, reason: str = "by hand") -> None:
        """Fire the kill switch: the policy's own values from the next window on."""
        self.killed = self.killed or reason

    def rearm(self) -> None:
        """Take the kill switch back."""
        self.killed = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """See the class and `gymnasium.Env.reset`."""
        if seed is not None:
            self._start_anew()
        return self.env.reset(seed=seed, options=options)

    def step(self, action: Action) -> tuple[Observation, SupportsFloat, bool, bool, dict[str, Any]]:
        """Run one window, of the action or of what the guard puts in its place."""
        self._base.parameter_space.from_box(action)
        proposed = np.asarray(action, dtype=np.float32)
        mode, executed = self._choose(proposed)
        known = self._base.start_action if mode == "killed" else self._incumbent
        plan = self._base.plan(
            executed,
            trusted=self._base.parameter_space.from_box(known),
            abort=self._abort_rule() if mode == "candidate" else None,
        )
        # The wrappers below see the window, too: they hand the plan on to the environment.
        observation, reward, terminated, truncated, info = self.env.step(cast(Any, plan))
        outcome = self._base.outcome
        breach = mode == "candidate" and _breaches(outcome)
        self._note(mode, executed, float(reward), breach, outcome)
        self.report = GuardReport(
            mode=mode,
            projected=not np.array_equal(proposed, executed),
            breach=breach,
            breaches=self._breaches,
            budget_left=self.budget_left,
            radius=self.radius,
            incumbent=_numbers(self._incumbent),
            killed=self.killed,
        )
        guard = {**to_dict(self.report), "incumbent": self.incumbent}
        info = {**info, "proposed_action": proposed.copy(), "guard": guard}
        return observation, reward, terminated or self.killed is not None, truncated, info

    def _start_anew(self) -> None:
        self._incumbent = self._base.start_action
        self._incumbent_rewards = []
        self.radius = self.settings.radius
        self._window = 0
        self._breaches = 0
        self._streak = 0
        self._roll_back = False
        self._recent = deque(maxlen=self.settings.budget_windows)

    def _choose(self, proposed: Action) -> tuple[Mode, Action]:
        settings = self.settings
        self._window += 1
        if settings.kill_file and Path(settings.kill_file).exists():
            self.kill(f"{settings.kill_file} exists")
        if self.killed is not None:
            return "killed", self._base.start_action
        if self._roll_back:
            return "rollback", self.incumbent
        if self.budget_left == 0:
            return "held", self.incumbent
        if settings.control_every and self._window % settings.control_every == 0:
            return "control", self.incumbent
        return "candidate", np.clip(proposed, *self.trust_region)

    def _abort_rule(self) -> AbortRule:
        settings, constraints = self.settings, self._base.config.constraints

        def breach(metrics: WindowMetrics, reference: WindowMetrics | None) -> bool:
            if metrics.window_s < settings.abort_after_s:
                return False
            found = (c.margin(metrics, reference) for c in constraints)
            return any(margin > settings.abort_margin for margin in found)

        fallback = self._base.parameter_space.from_box(self._incumbent)
        return AbortRule(breach, fallback)

    def _note(
        self, mode: Mode, executed: Action, reward: float, breach: bool, outcome: WindowOutcome
    ) -> None:
        """Learn from a window what the next one may be."""
        settings = self.settings
        self._recent.append(breach)
        self._roll_back = False
        if outcome.served.failure is not None:
            return
        if mode != "candidate":
            if mode != "killed":
                self._incumbent_rewards.append(reward)
            return
        if breach:
            self._breaches += 1
            self._streak += 1
            self.radius = max(settings.radius_min, self.radius * settings.shrink)
            self._roll_back = self._streak >= settings.patience
            if settings.kill_after and self._breaches >= settings.kill_after:
                self.kill(f"{self._breaches} windows breached a constraint")
            return
        self._streak = 0
        self.radius = min(settings.radius, self.radius * settings.grow)
        if self._is_better(reward):
            self.set_incumbent(executed)
            self._incumbent_rewards = [reward]

    def _is_better(self, reward: float) -> bool:
        margin, known = self.settings.promote_margin, self._incumbent_rewards
        if margin is None or not known:
            return False
        return reward > sum(known) / len(known) + margin


def make_env(
    source: Task | Mapping[str, Any] | str | Path | None = None,
    render_mode: str | None = None,
) -> gymnasium.Env[Observation, Action]:
    """Make the environment of a configuration, guarded if it says so.

    Args:
        source: see `tuning.load_tuning`; `windows` is the length of an episode.
        render_mode: see `SchedulerTuningEnv`.

    Raises:
        ConfigError: naming what is wrong in the configuration.
    """
    config = load_tuning(source)
    env: gymnasium.Env[Observation, Action] = gymnasium.make(
        f"ewsjf_env:{ENGINE_IDS[config.engine]}",
        config=to_dict(config),
        render_mode=render_mode,
    )
    return SafetyGuard(env) if config.safety.enabled else env


def _breaches(outcome: WindowOutcome) -> bool:
    """A window that the engine did not survive tells nothing about constraints."""
    served = outcome.served
    return served.failure is None and (served.aborted or outcome.score.violation)


def _numbers(action: Action) -> tuple[float, ...]:
    return tuple(float(a) for a in action)
