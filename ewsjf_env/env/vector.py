"""The vector environment: many environments of one task, stepped together.

env = gymnasium.make_vec(
"ewsjf_env:ewsjf/SchedulerTuning-v0", num_envs=64,
vectorization_mode="vector_entry_point", config={"trace_pool": 16},
)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from ewsjf_env.config import ConfigError, check_range, nearest
from ewsjf_env.env.env import SchedulerTuningEnv
from ewsjf_env.env.outcome import WindowOutcome
from ewsjf_env.env.registration import REAL_TIME
from ewsjf_env.env.task import Task, load_tuning

Floats = NDArray[np.float32]
Flags = NDArray[np.bool_]
Stepped = tuple[Floats, NDArray[np.float64], Flags, Flags, dict[str, Any]]

MAX_ENVS = 4096


class SchedulerTuningVectorEnv(VectorEnv[Floats, Floats, Any]):
    """`num_envs` environments of one task, each with traffic of its own.

    Environment i is the single environment with seed `seed + i`: same observations, rewards and
    ends.  What its `info` would tell stands in `infos["outcome"]`, an object array of
    `WindowOutcome` (its method `info` gives the dictionary), with `infos["_outcome"]` saying
    where there is one.  All share what the reference policy measured on a trace, so that a
    `trace_pool` costs its reference once.

    ## Autoreset
    By `autoreset_mode`, as in Gymnasium: "NextStep" (default) begins a new episode in the step
    after the last one, whose action is ignored, with reward 0; "SameStep" in the last step, with
    the last observation in `infos["final_obs"]` and the last outcome in
    `infos["final_outcome"]`; "Disabled" leaves it to `reset(options={"reset_mask": mask})`.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012 (Gymnasium declares it without ClassVar)
        "autoreset_mode": AutoresetMode.NEXT_STEP,
        "render_modes": SchedulerTuningEnv.metadata["render_modes"],
        "render_fps": SchedulerTuningEnv.metadata["render_fps"],
    }

    def __init__(
        self,
        num_envs: int = 1,
        config: Task | Mapping[str, Any] | str | Path | None = None,
        engine: str | None = None,
        render_mode: str | None = None,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
    ) -> None:
        """Make the environments; engines are built at the first reset.

        Args:
            num_envs: how many, in [1, 4096].
            config: of all, see `SchedulerTuningEnv`.
            engine: see `SchedulerTuningEnv`.
            render_mode: see `SchedulerTuningEnv`; `render` gives a tuple of pictures or texts.
            autoreset_mode: see above.

        Raises:
            ConfigError: what is wrong in the configuration, an engine of which there is but one,
                or an unknown mode.
        """
        check_range("num_envs", num_envs, 1, MAX_ENVS)
        task = load_tuning(config, engine)
        if task.engine in REAL_TIME:
            raise ConfigError(
                f"engine: {task.engine!r} is one machine and cannot be {num_envs} environments; "
                "use 'compiled' or 'simulated'"
            )
        self.num_envs = num_envs
        self.autoreset_mode = _mode(autoreset_mode)
        self.metadata = {**self.metadata, "autoreset_mode": self.autoreset_mode}
        self.render_mode = render_mode
        self.envs = [SchedulerTuningEnv(task, render_mode=render_mode) for _ in range(num_envs)]
        first = self.envs[0]
        self.config = task
        self.single_action_space = first.action_space
        self.single_observation_space = first.observation_space
        self.action_space = batch_space(first.action_space, num_envs)
        self.observation_space = batch_space(first.observation_space, num_envs)
        shape = self.observation_space.shape
        assert shape is not None
        self._observations = np.zeros(shape, np.float32)
        self._ended = np.ones(num_envs, np.bool_)  # no episode runs
        self._started = False

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Floats, dict[str, Any]]:
        """Begin new episodes in all environments, or in those of a mask.

        Args:
            seed: of environment 0, the next ones of the others; or one for each.
            options: of every reset, see `SchedulerTuningEnv`; `reset_mask`, bool (num_envs,),
                says which environments are reset.

        Raises:
            ConfigError: seeds or a mask of another length, and errors of a single reset.
        """
        given = dict(options or {})
        chosen = self._mask(given.pop("reset_mask", None))
        infos = _Infos(self.num_envs)
        for i, own_seed in enumerate(self._seeds(seed)):
            if chosen[i]:
                self._restart(i, own_seed, given)
                infos.note("outcome", i, self.envs[i].outcome)
        self._started = True
        return self._observations.copy(), infos.columns

    def step(self, actions: Floats) -> Stepped:
        """Serve one window in every environment; see `gymnasium.vector.VectorEnv.step`.

        Args:
            actions: shape (num_envs, d); outside of [-1, 1] clipped.

        Raises:
            ConfigError: actions of another shape, or not finite.
            ResetNeeded: before the first reset, or with autoreset disabled past an end.
        """
        if not self._started:
            raise ResetNeeded("call reset before the first step")
        wanted = self.action_space.shape
        if np.shape(actions) != wanted:
            raise ConfigError(f"actions: shape {np.shape(actions)}, expected {wanted}")
        rewards = np.zeros(self.num_envs)
        terminated, truncated = np.zeros((2, self.num_envs), np.bool_)
        infos = _Infos(self.num_envs)
        for i, env in enumerate(self.envs):
            if self._ended[i] and self.autoreset_mode is AutoresetMode.NEXT_STEP:
                self._restart(i)
            else:
                outcome = env.run(env.plan(actions[i]))
                self._observations[i] = outcome.observation
                rewards[i] = outcome.score.reward
                terminated[i], truncated[i] = env.ended(outcome)
                self._ended[i] = terminated[i] or truncated[i]
                if self._ended[i] and self.autoreset_mode is AutoresetMode.SAME_STEP:
                    infos.note("final_obs", i, outcome.observation.copy())
                    infos.note("final_outcome", i, outcome)
                    self._restart(i)
            infos.note("outcome", i, env.outcome)
        return self._observations.copy(), rewards, terminated, truncated, infos.columns

    def render(self) -> tuple[Any, ...] | None:
        """What each environment shows; None without a render mode."""
        return None if self.render_mode is None else tuple(env.render() for env in self.envs)

    def close_extras(self, **kwargs: Any) -> None:
        """Free all engines."""
        for env in self.envs:
            env.close()

    def outcomes(self) -> list[WindowOutcome]:
        """The last window of each environment."""
        return [env.outcome for env in self.envs]

    def _restart(self, i: int, seed: int | None = None, options: Any = None) -> None:
        self._observations[i] = self.envs[i].begin(seed, options).observation
        self._ended[i] = False

    def _seeds(self, seed: int | Sequence[int | None] | None) -> list[int | None]:
        if seed is None:
            return [None] * self.num_envs
        if isinstance(seed, (int, np.integer)):
            return [int(seed) + i for i in range(self.num_envs)]
        if len(seed) != self.num_envs:
            raise ConfigError(f"seed: {len(seed)} seeds, expected {self.num_envs}")
        return list(seed)

    def _mask(self, mask: object) -> Flags:
        if mask is None:
            return np.ones(self.num_envs, np.bool_)
        array = np.asarray(mask)
        if array.dtype != np.bool_ or array.shape != (self.num_envs,):
            raise ConfigError(
                f"options: reset_mask: {array.dtype} of shape {array.shape}, expected bool of "
                f"shape ({self.num_envs},)"
            )
        if not self._started and not array.all():
            raise ResetNeeded("the first reset has to be of all environments")
        return array


class _Infos:
    """Infos of a step in the form of Gymnasium: columns, each with a mask of who has a value."""

    def __init__(self, count: int) -> None:
        self.columns: dict[str, Any] = {}
        self._count = count

    def note(self, name: str, i: int, value: object) -> None:
        if name not in self.columns:
            self.columns[name] = np.empty(self._count, object)
            self.columns[f"_{name}"] = np.zeros(self._count, np.bool_)
        self.columns[name][i] = value
        self.columns[f"_{name}"][i] = True


def _mode(given: AutoresetMode | str) -> AutoresetMode:
    if isinstance(given, AutoresetMode):
        return given
    names = [mode.value for mode in AutoresetMode]
    if given not in names:
        raise ConfigError(f"autoreset_mode: unknown {given!r}{nearest(str(given), names)}")
    return AutoresetMode(given)
