"""How does an agent meet the environment, one window after the other?

A session is what happens inside a run: episodes, proposals, windows, what the agent is shown.
It writes nothing; `loop.py` keeps the windows that it yields.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from agents.bayes.fleet import SharedStudy
from agents.core.agent import Agent, Transition, WithHelpers
from agents.core.registry import AgentSetting, find_agent, make_agent
from agents.core.requests import RecordedTraffic
from agents.core.words import counted
from agents.runs.config import RunConfig
from agents.runs.context import Smoother
from agents.runs.episodes import episode_options
from agents.runs.tags import Timing
from agents.runs.traffic_shift import ShiftDetector
from ewsjf_env.config import ConfigError, from_dict, to_dict
from ewsjf_env.engine.base import EngineError
from ewsjf_env.env.env import SchedulerTuningEnv
from ewsjf_env.env.guard import SafetyGuard, make_env
from ewsjf_env.parameters import Value

START_TRIES = 3  # of an episode, before the run gives up on the engine
REPEATABLE = ("simulated", "fake")  # engines that serve a trace again exactly as before


def _tell(text: str) -> None:
    print(text, file=sys.stderr)


class Session:
    """One run's agent and environment.

    `begin_window` and `finish_window` run one window in two halves, so that its record can be
    kept before the agent learns from it.  `close` frees the engines.
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
        self._observation: list[float] = []

    def close(self) -> None:
        """Free the engines, and what the agent works with."""
        if isinstance(self.agent, WithHelpers):
            self.agent.close()
        self._env.close()

    def restore(
        self, records: Sequence[Mapping[str, Any]], progress: Callable[[str], None] = _tell
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
            self.agent.observe(transition_of(record))
        last = records[-1]
        self._window = len(records)
        self._episode, self._step = last["episode"], last["step"] + 1
        episode = [r for r in records if r["episode"] == self._episode]
        if last["ended"] or self.config.env.engine not in REPEATABLE:
            self._view = None
            for record in episode if not last["ended"] else ():
                self._detector.shifted(record["traffic"], self.config.env.window_s)
            if self._guard is not None and last["guard_after"] is not None:
                self._guard.restore(last["guard_after"])
            return
        progress(f"serving {counted(len(episode), 'window')} of episode {self._episode} again")
        self._reset(self._episode)
        for record in episode:
            self._repeat(record)

    def begin_window(self) -> tuple[dict[str, Any], Timing]:
        """Ask the agent, run the window and describe it; `Timing.observe_s` is 0 yet.

        Returns:
            The record, plain values: a line of windows.jsonl without wall time.
        """
        if self._view is None:
            self._reset(self._episode + 1)
        assert self._view is not None
        view, before = self._view, self._observation
        started = time.perf_counter()
        proposed = self.agent.act(view)
        incumbent = self.agent.recommend(view)
        diagnostics = self.agent.diagnostics()
        asked = time.perf_counter()
        guard_before = None
        if self._guard is not None:
            self._follow(incumbent)
            guard_before = self._guard.state()
        action = self.space.to_box(proposed)
        observation, reward, terminated, truncated, info = self._env.step(action)
        ran = time.perf_counter()
        window_s = self.config.env.window_s
        shifted = info["error"] is None and self._detector.shifted(info["traffic"], window_s)
        self._note(observation, shifted)
        margins = info["constraints"]
        record: dict[str, Any] = {
            "window": self._window,
            "episode": self._episode,
            "step": self._step,
            "ended": bool(terminated or truncated),
            "trace": info["trace"],
            "values": {name: info["parameters"][name] for name in self.space.names},
            "proposed": proposed,
            "incumbent": incumbent,
            "reward": float(reward),
            "reward_se": info["reward_se"],
            "reward_terms": info["reward_terms"],
            "margins": margins,
            "violation": any(margin > 0 for margin in margins.values()),
            "void": shifted or self._is_idle(info),
            "shifted": shifted,
            "failure": info["error"],
            "aborted": info["aborted"],
            "guard": _plain(info.get("guard")),
            "guard_before": guard_before,
            "guard_after": self._guard.state() if self._guard is not None else None,
            "before": list(view),
            "context": self._seen(),
            "observation_before": before,
            "observation": self._observation,
            "metrics": info["metrics"],
            "reference": info["reference"],
            "traffic": info["traffic"],
            "cuts": info["cuts"],
            "start_s": info["start_s"],
            "end_s": info["end_s"],
            "diagnostics": {k: v for k, v in diagnostics.items() if math.isfinite(v)},
        }
        if find_agent(self.config.agent).replays:
            record["requests"] = self._requests(info, incumbent)
        return record, Timing(asked - started, 0.0, ran - asked)

    def finish_window(self, record: Mapping[str, Any]) -> float:
        """Show the window to the agent; wall seconds that took."""
        started = time.perf_counter()
        self.agent.observe(transition_of(record))
        self._window += 1
        self._step += 1
        self._view = None if record["ended"] else tuple(self._seen())
        return time.perf_counter() - started

    def recommendation(self) -> dict[str, Value]:
        """What the agent would serve now; the start values before the first window."""
        if self._view is None and self._observation:
            return self.agent.recommend(tuple(self._seen()))
        return self.agent.recommend(self._view)

    @property
    def killed(self) -> str | None:
        """Why the guard's kill switch has fired; None when it has not."""
        return self._guard.killed if self._guard is not None else None

    def _follow(self, incumbent: Mapping[str, Value]) -> None:
        """The tuner's recommendation is what the guard trusts."""
        assert self._guard is not None
        action = self.space.to_box(incumbent)
        if not np.array_equal(action, self._guard.incumbent):
            self._guard.set_incumbent(action)

    def _requests(
        self, info: Mapping[str, Any], incumbent: Mapping[str, Value]
    ) -> dict[str, Any] | None:
        """What arrived since the last window was recorded; None after a failure."""
        if info["error"] is not None:
            return None
        records, now_s = self._base.records()
        # A slow agent may have let time pass on a real engine: then nothing follows on anything.
        since_s = min(self._recorded_s, info["start_s"])
        edges = (since_s, info["start_s"], info["end_s"], max(now_s, info["end_s"]))
        self._recorded_s = edges[-1]
        fallback = incumbent if info["aborted"] else None
        found: dict[str, Any] = to_dict(RecordedTraffic.of(records, edges, fallback))
        return found

    def _reset(self, episode: int) -> None:
        """Start an episode; an engine that fails in the warm-up is built anew."""
        options = episode_options(self.config.env, self.config.seed, episode)
        for attempt in range(START_TRIES):
            try:
                observation, _ = self._env.reset(options=options)
                break
            except EngineError:
                if attempt + 1 == START_TRIES:
                    raise
        self._episode, self._step = episode, 0
        self._recorded_s = 0.0
        self._detector.reset()
        self._smoother.reset()
        self._note(observation)
        self._view = tuple(self._seen())

    def _repeat(self, record: Mapping[str, Any]) -> None:
        if self._guard is not None and record["guard_before"] is not None:
            self._guard.restore(record["guard_before"])
        action = self.space.to_box(record["proposed"])
        observation, reward, _, _, info = self._env.step(action)
        if record["failure"] is None and float(reward) != record["reward"]:
            raise ConfigError(
                f"window {record['window']}: served again its reward is {float(reward)!r}, "
                f"recorded is {record['reward']!r}: the environment or a package has changed; "
                "start a new run"
            )
        self._detector.shifted(info["traffic"], self.config.env.window_s)
        if find_agent(self.config.agent).replays:
            self._requests(info, record["incumbent"])
        self._step += 1
        self._note(observation, record["shifted"])
        self._view = tuple(self._seen())

    def _note(self, observation: Any, shifted: bool = False) -> None:
        self._observation = [float(x) for x in observation]
        if shifted:
            self._smoother.reset()
        self._smoother.add(self._observation)

    def _seen(self) -> list[float]:
        return self._smoother.view

    def _is_idle(self, info: Mapping[str, Any]) -> bool:
        """Nobody had to wait, under the agent's values or the reference's: any order is as good.

        Without a reference that nobody waited may be to the credit of the values.
        """
        if info["error"] is not None or info["reference"] is None:
            return False
        waits = [info[who]["wait_max_s"] or 0.0 for who in ("metrics", "reference")]
        return max(waits) < self.config.idle_wait_s


def _shared(config: RunConfig, folder: Path | None) -> SharedStudy | None:
    if not config.storage or folder is None:
        return None
    return SharedStudy(config.storage, config.shared_name, config.shared_marks, folder)


def transition_of(record: Mapping[str, Any]) -> Transition:
    """What an agent is shown of a line of windows.jsonl."""
    requests = record.get("requests")
    return Transition(
        window=record["window"],
        values=record["values"],
        reward=record["reward"],
        reward_se=record["reward_se"],
        margins=record["margins"],
        context=tuple(record["context"]),
        before=tuple(record["before"]),
        void=record["void"],
        shifted=record["shifted"],
        failure=record["failure"],
        ended=record["ended"],
        requests=None
        if requests is None
        else from_dict(RecordedTraffic, requests, f"window {record['window']}: requests"),
    )


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return [float(x) for x in value]
    return value.item() if isinstance(value, np.generic) else value
