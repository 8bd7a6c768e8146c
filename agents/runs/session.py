"""The meeting of an agent and an environment: episodes, and in them one window after the other.

Each window goes: ask the agent, serve the window, describe it, show it to the agent.  A session
writes nothing; `loop.py` keeps the windows.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from agents.bayes.fleet import SharedStudy
from agents.core.agent import CANDIDATE, Agent, WithHelpers
from agents.core.registry import AgentSetting, find_agent, make_agent
from agents.core.requests import RecordedTraffic
from agents.core.window import Guarded, Plan, Shown, WindowRecord
from agents.core.words import counted
from agents.runs.config import RunConfig
from agents.runs.context import Smoother
from agents.runs.episodes import episode_options
from agents.runs.timing import Timing
from agents.runs.traffic_shift import ShiftDetector
from ewsjf_env.config import ConfigError
from ewsjf_env.engine.base import EngineError
from ewsjf_env.env.env import SchedulerTuningEnv
from ewsjf_env.env.guard import GuardState, SafetyGuard, make_env
from ewsjf_env.env.outcome import Observation, WindowOutcome, plain
from ewsjf_env.measure.traffic import TrafficStatistics
from ewsjf_env.parameters import Value

START_TRIES = 3  # of an episode, before the run gives up on the engine
REPEATABLE = ("compiled", "simulated", "fake")  # engines that serve a trace again exactly as before


def _tell(text: str) -> None:
    print(text, file=sys.stderr)


class Session:
    """One run's agent and environment.

    `run_window` and `show` are the two halves of a window, so that its record can be kept before
    the agent learns from it.  `close` frees the engines.
    """

    def __init__(self, config: RunConfig, folder: Path | None = None) -> None:
        """Build both; the agent keeps its memory in `folder`.

        Raises:
            ConfigError: settings that do not fit, or a folder with another run's memory.
        """
        self.config = config
        self._env = make_env(config.task)
        base = self._env.unwrapped
        assert isinstance(base, SchedulerTuningEnv)
        self._base = base
        self.space = base.parameter_space
        self._guard = self._env if isinstance(self._env, SafetyGuard) else None
        names = config.sees
        self._smoother = Smoother(config, base.feature_names)
        setting = AgentSetting(
            space=self.space,
            context_size=len(names),
            seed=config.seed,
            folder=folder,
            study_name=config.study_name,
            shared=_shared(config, folder),
            task=config.task,
        )
        self.agent: Agent = make_agent(config.agent, setting, config.settings)
        self._detector = ShiftDetector(config.shift)
        self._window = 0
        self._episode = -1
        self._step = 0
        self._recorded_s = 0.0  # until where requests are recorded, in engine seconds
        self._view: tuple[float, ...] | None = None
        self._observation: tuple[float, ...] = ()

    def close(self) -> None:
        """Free the engines, and what the agent works with."""
        try:
            if isinstance(self.agent, WithHelpers):
                self.agent.close()
        finally:
            self._env.close()

    def restore(
        self, records: Sequence[WindowRecord], progress: Callable[[str], None] = _tell
    ) -> None:
        """Continue after `records`, the run's windows so far.

        The agent is shown every window that it does not know; an engine that repeats exactly is
        brought back to the middle of the episode, others start a new one.

        Raises:
            ConfigError: the engine does not serve the episode as it is recorded.
        """
        if not records:
            return
        for record in records:
            self.agent.observe(record.transition())
        last = records[-1]
        self._window = len(records)
        self._episode, self._step = last.plan.episode, last.plan.step + 1
        if last.agent.ended or self.config.env.engine not in REPEATABLE:
            self._view = None  # another episode begins; the guard outlives this one
            if self._guard is not None and last.guard is not None:
                self._guard.restore(last.guard.after)
            return
        episode = [r for r in records if r.plan.episode == self._episode]
        progress(f"serving {counted(len(episode), 'window')} of episode {self._episode} again")
        self._reset(self._episode)
        for record in episode:
            self._repeat(record)

    def run_window(self) -> tuple[WindowRecord, Timing]:
        """Ask the agent, run the window and describe it; `Timing.observe_s` is 0 yet."""
        if self._view is None:
            self._reset(self._episode + 1)
        assert self._view is not None  # since the reset
        view = self._view
        started = time.perf_counter()
        plan, diagnostics = self._ask(view)
        asked = time.perf_counter()
        before, guard_before = self._observation, self._follow(plan.incumbent)
        outcome, ended = self._serve(plan)
        timing = Timing(asked - started, 0.0, time.perf_counter() - asked, time.time())
        shifted = self._is_shift(outcome.traffic)
        self._note(outcome.observation, shifted)
        record = WindowRecord(
            window=self._window,
            plan=plan,
            served=outcome.served,
            score=outcome.score,
            metrics=outcome.metrics,
            reference=outcome.reference,
            traffic=outcome.traffic,
            guard=self._guarded(guard_before),
            agent=Shown(
                before=view,
                context=self._smoother.view,
                observation_before=before,
                observation=self._observation,
                void=shifted or self._is_idle(outcome),
                shifted=shifted,
                ended=ended,
                diagnostics=diagnostics,
            ),
            requests=self._requests(outcome, plan.incumbent),
        )
        return record, timing

    def show(self, record: WindowRecord) -> float:
        """Show the window to the agent; wall seconds that took."""
        started = time.perf_counter()
        self.agent.observe(record.transition())
        self._window += 1
        self._step += 1
        self._view = None if record.agent.ended else self._smoother.view
        return time.perf_counter() - started

    def recommendation(self) -> dict[str, Value]:
        """What the agent would serve now; the start values before the first window."""
        if self._view is None and self._observation:
            return self.agent.recommend(self._smoother.view)
        return self.agent.recommend(self._view)

    @property
    def killed(self) -> str | None:
        """Why the guard's kill switch has fired; None when it has not."""
        return self._guard.killed if self._guard is not None else None

    def _ask(self, view: tuple[float, ...]) -> tuple[Plan, dict[str, float]]:
        """What the agent proposes, and what it says of that."""
        proposed = self.agent.act(view)
        plan = Plan(
            episode=self._episode,
            step=self._step,
            trace=self._base.outcome.trace,
            proposed=proposed,
            incumbent=self.agent.recommend(view),
            role=getattr(self.agent, "role", CANDIDATE),
        )
        said = self.agent.diagnostics()
        return plan, {k: float(v) for k, v in said.items() if math.isfinite(v)}

    def _serve(self, plan: Plan) -> tuple[WindowOutcome, bool]:
        """Run the window, through the guard; whether it ends the episode."""
        _, _, terminated, truncated, _ = self._env.step(self.space.to_box(plan.proposed))
        return self._base.outcome, bool(terminated or truncated)

    def _follow(self, incumbent: Mapping[str, Value]) -> GuardState | None:
        """The tuner's recommendation is what the guard trusts; the guard's state with it."""
        if self._guard is None:
            return None
        action = self.space.to_box(incumbent)
        if not np.array_equal(action, self._guard.incumbent):
            self._guard.set_incumbent(action)
        return self._guard.state()

    def _guarded(self, before: GuardState | None) -> Guarded | None:
        if self._guard is None or before is None:
            return None
        return Guarded(self._guard.report, before, self._guard.state())

    def _requests(
        self, outcome: WindowOutcome, incumbent: Mapping[str, Value]
    ) -> RecordedTraffic | None:
        """What arrived since the last window was recorded, for agents that serve it again.

        None after a failure.
        """
        served = outcome.served
        if not find_agent(self.config.agent).replays or served.failure is not None:
            return None
        records, now_s = self._base.records()
        # A slow agent may have let time pass on a real engine: then nothing follows on anything.
        since_s = min(self._recorded_s, served.start_s)
        edges = (since_s, served.start_s, served.end_s, max(now_s, served.end_s))
        self._recorded_s = edges[-1]
        return RecordedTraffic.of(records, edges, incumbent if served.aborted else None)

    def _reset(self, episode: int) -> None:
        """Start an episode; an engine that fails in the warm-up is built anew."""
        options = episode_options(self.config.env, self.config.seed, episode)
        for attempt in range(START_TRIES):
            try:
                self._env.reset(options=options)
                break
            except EngineError:
                if attempt + 1 == START_TRIES:
                    raise
        self._episode, self._step = episode, 0
        self._recorded_s = 0.0
        self._detector.reset()
        self._smoother.reset()
        self._note(self._base.outcome.observation)
        self._view = self._smoother.view

    def _repeat(self, record: WindowRecord) -> None:
        """Serve a window of the episode again, to have the engine where the record leaves it."""
        if self._guard is not None and record.guard is not None:
            self._guard.restore(record.guard.before)
        outcome, _ = self._serve(record.plan)
        reward = outcome.score.reward
        if record.served.failure is None and reward != record.score.reward:
            raise ConfigError(
                f"window {record.window}: served again its reward is {reward!r}, recorded is "
                f"{record.score.reward!r}: the environment or a package has changed; "
                "start a new run"
            )
        self._is_shift(outcome.traffic)
        self._requests(outcome, record.plan.incumbent)
        self._step += 1
        self._note(outcome.observation, record.agent.shifted)
        self._view = self._smoother.view

    def _is_shift(self, traffic: TrafficStatistics | None) -> bool:
        return self._detector.shifted(plain(traffic), self.config.env.window_s)

    def _note(self, observation: Observation, shifted: bool = False) -> None:
        self._observation = tuple(float(x) for x in observation)
        if shifted:
            self._smoother.reset()
        self._smoother.add(self._observation)

    def _is_idle(self, outcome: WindowOutcome) -> bool:
        """Nobody had to wait, under the agent's values or the reference's: any order is as good.

        Without a reference that nobody waited may be to the credit of the values.
        """
        if outcome.metrics is None or outcome.reference is None:
            return False
        waits = (outcome.metrics.wait_max_s, outcome.reference.wait_max_s)
        waited = [0.0 if math.isnan(wait) else wait for wait in waits]  # NaN: nobody was there
        return max(waited) < self.config.idle_wait_s


def _shared(config: RunConfig, folder: Path | None) -> SharedStudy | None:
    if not config.storage or folder is None:
        return None
    return SharedStudy(config.storage, config.shared_name, config.shared_marks, folder)
