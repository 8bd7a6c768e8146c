"""Stable-Baselines3's `learn()`, run one window at a time by whoever serves the windows.

`learn()` drives its environment, while a tuner is driven by its loop.  So `learn()` runs, as it
is, in a greenlet on an environment whose `step` and `reset` switch to the caller and come back
with its answer.  The two alternate strictly: there is no thread, no lock and no timing, and the
same answers give the same questions.

A void window must not be learnt from.  To SB3 it is a truncated step that its buffers refuse to
keep (`CountedReplayBuffer`, `CountedRolloutBuffer`); the next proposal answers the view after it.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import gymnasium
import numpy as np
import torch
from greenlet import getcurrent, greenlet
from gymnasium.spaces import Box
from numpy.typing import NDArray
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.buffers import ReplayBuffer, RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import DummyVecEnv

View = tuple[float, ...]
Array = NDArray[np.float32]
VOID = "void"  # key of an info: the window does not count


@dataclass(frozen=True)
class Step:
    """The answer to a proposal.

    Attributes:
        view: what was seen after the window.
        reward: of the window.
        terminated: nothing comes after it, so there is no value to add.
        truncated: something would have come, but the trace ends here.
        void: the window does not count; `truncated` as well.
    """

    view: View
    reward: float
    terminated: bool = False
    truncated: bool = False
    void: bool = False


class WindowEnv(gymnasium.Env[Array, Array]):
    """Windows as SB3 sees them: every question is answered by the greenlet's parent.

    The parent gets None where a first view is asked for, or the proposed action, and switches
    back with a `View` or a `Step`.
    """

    def __init__(self, view_size: int, action_size: int) -> None:
        self.observation_space = Box(-1.0, 1.0, (view_size,), np.float32)
        self.action_space = Box(-1.0, 1.0, (action_size,), np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Array, dict[str, Any]]:
        """Wait for the first view of a trace."""
        super().reset(seed=seed)
        return np.array(_ask(None), dtype=np.float32), {}

    def step(self, action: Array) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        """Wait for what came of a proposal."""
        found: Step = _ask(action.copy())
        view = np.array(found.view, dtype=np.float32)
        return view, found.reward, found.terminated, found.truncated, {VOID: found.void}


class CountedReplayBuffer(ReplayBuffer):
    """A replay buffer without void windows."""

    def add(
        self,
        obs: NDArray[Any],
        next_obs: NDArray[Any],
        action: NDArray[Any],
        reward: NDArray[Any],
        done: NDArray[Any],
        infos: list[dict[str, Any]],
    ) -> None:
        """Keep a window that counts."""
        if not infos[0][VOID]:
            super().add(obs, next_obs, action, reward, done, infos)


class CountedRolloutBuffer(RolloutBuffer):
    """A rollout whose void windows take no part in the update.

    A rollout has a fixed number of rows.  The row of a void window gets the value of its view
    as its reward, and nothing after it: its advantage is 0 and the window before it is credited
    as if the rollout ended there.  Then it is overwritten by a window that counts.
    """

    next_is_void = False

    def reset(self) -> None:
        """Empty the buffer."""
        super().reset()
        self._void = np.zeros(self.buffer_size, dtype=bool)

    def add(
        self,
        obs: NDArray[Any],
        action: NDArray[Any],
        reward: NDArray[Any],
        episode_start: NDArray[Any],
        value: torch.Tensor,
        log_prob: torch.Tensor,
    ) -> None:
        """Keep a window; `next_is_void` says whether it counts."""
        self._void[self.pos] = self.next_is_void
        if self.next_is_void:
            reward = value.cpu().numpy().flatten()
        super().add(obs, action, reward, episode_start, value, log_prob)

    def compute_returns_and_advantage(self, last_values: torch.Tensor, dones: NDArray[Any]) -> None:
        """See the base class; afterwards all rows are of windows that count, if any is."""
        super().compute_returns_and_advantage(last_values, dones)
        void, counted = np.flatnonzero(self._void), np.flatnonzero(~self._void)
        if len(void) and len(counted):
            source = np.resize(counted, len(void))
            for name in _ROWS:
                rows = getattr(self, name)
                rows[void] = rows[source]


_ROWS = ("observations", "actions", "values", "log_probs", "advantages", "returns")


class Learner:
    """A model of SB3 that learns from the windows it is told of.

    All calls must come from one thread.  Whatever is drawn or computed inside is a function of
    `build` and the calls: the global generators of torch, numpy and Python, which SB3 uses, are
    its own while it runs and everyone else's again afterwards, and torch runs on one thread.

    Attributes:
        model: the algorithm; read only.
        proposal: the action in [-1, 1]^d to run next; None: `begin` has to be called.
        view: what `proposal` answers.
    """

    def __init__(
        self, view_size: int, action_size: int, build: Callable[[DummyVecEnv], BaseAlgorithm]
    ) -> None:
        """Build the model.

        Args:
            view_size: numbers in a view, >= 1.
            action_size: numbers in an action, >= 1.
            build: makes the model on an environment, with a seed of its own.
        """
        self._generators = _OwnGenerators()
        with self._generators:
            self.model = build(DummyVecEnv([lambda: WindowEnv(view_size, action_size)]))
        self.model.set_logger(Logger(folder=None, output_formats=[]))
        # The greenlet must not refer to this object, or the two would never be collected.
        self._greenlet = greenlet(_learn)
        self.proposal: Array | None = None
        self.view: View = ()

    def begin(self, view: View) -> Array:
        """Tell the first view of a trace; returns the `proposal`."""
        if not self._greenlet:
            self._switch(self.model)  # as far as the question for a view
        self.view = view
        proposal: Array = self._switch(view)
        self.proposal = proposal
        return proposal

    def finish(self, step: Step) -> None:
        """Tell what came of `proposal`; afterwards there is another, unless the trace ended."""
        self.view = step.view
        self.proposal = self._switch(step)

    def discard(self, view: View) -> None:
        """The window of `proposal` does not count; its trace ends here, as far as is learnt."""
        self.finish(Step(view, 0.0, truncated=True, void=True))

    def scalars(self) -> dict[str, float]:
        """What the algorithm last recorded of its training, by tag."""
        recorded = self.model.logger.name_to_value.items()
        found = {tag: float(value) for tag, value in recorded if tag.startswith("train/")}
        return {tag: value for tag, value in found.items() if np.isfinite(value)}

    def _switch(self, answer: BaseAlgorithm | View | Step) -> Any:
        if self._greenlet.dead:
            raise RuntimeError("the learner has stopped by an error before")
        self._greenlet.parent = getcurrent()
        with self._generators:
            return self._greenlet.switch(answer)


class _OwnGenerators:
    """The global random generators, and the number of torch's threads, of one learner.

    With more threads torch may add in another order, and a run that is resumed on another
    machine would not repeat itself.
    """

    def __init__(self) -> None:
        self._state = _random_state()
        self._outside = self._state
        self._threads = 1

    def __enter__(self) -> None:
        self._outside, self._threads = _random_state(), torch.get_num_threads()
        _set_random_state(self._state)
        torch.set_num_threads(1)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._state = _random_state()
        _set_random_state(self._outside)
        torch.set_num_threads(self._threads)


class _VoidWindows(BaseCallback):
    """Keeps void windows out of the count and tells the rollout buffer, which sees no infos."""

    def _on_step(self) -> bool:
        void: bool = self.locals["infos"][0][VOID]
        if void:
            self.model.num_timesteps -= 1  # `learning_starts` counts windows in the buffer
        buffer = getattr(self.model, "rollout_buffer", None)
        if isinstance(buffer, CountedRolloutBuffer):
            buffer.next_is_void = void
        return True


def _learn(model: BaseAlgorithm) -> None:
    # log_interval None: nobody but `Learner.scalars` reads the log, so nothing may empty it.
    model.learn(sys.maxsize, _VoidWindows(), log_interval=None)  # type: ignore[arg-type]


def _ask(question: Array | None) -> Any:
    parent = getcurrent().parent
    assert parent is not None  # only the main greenlet of a thread has none
    return parent.switch(question)


def _random_state() -> tuple[Any, ...]:
    return random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002


def _set_random_state(state: tuple[Any, ...]) -> None:
    random.setstate(state[0])
    np.random.set_state(state[1])  # noqa: NPY002
    torch.set_rng_state(state[2])
