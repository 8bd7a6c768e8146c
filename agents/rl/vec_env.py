"""The vector environment as Stable-Baselines3 wants one.

from agents.rl.vec_env import make_vec_env
model = stable_baselines3.PPO("MlpPolicy", make_vec_env(64, {"trace_pool": 16}))
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode
from stable_baselines3.common.vec_env.base_vec_env import VecEnv, VecEnvObs, VecEnvStepReturn

from ewsjf_env.config import ConfigError
from ewsjf_env.env.task import Task
from ewsjf_env.env.vector import SchedulerTuningVectorEnv


class TuningVecEnv(VecEnv):
    """A `SchedulerTuningVectorEnv` under the interface of Stable-Baselines3.

    Infos hold what `SchedulerTuningEnv` tells, and at an episode's end `terminal_observation` and
    `TimeLimit.truncated`.
    """

    def __init__(self, env: SchedulerTuningVectorEnv) -> None:
        """Wrap an environment, which has to reset in the same step.

        Raises:
            ConfigError: another autoreset mode.
        """
        if env.autoreset_mode is not AutoresetMode.SAME_STEP:
            raise ConfigError(
                f"autoreset_mode: {env.autoreset_mode.value!r}, expected 'SameStep', as "
                "Stable-Baselines3 resets"
            )
        self.env = env
        self._actions: np.ndarray[Any, Any] | None = None
        super().__init__(env.num_envs, env.single_observation_space, env.single_action_space)

    def reset(self) -> VecEnvObs:
        """New episodes everywhere; with the seeds of `seed`, where it was called."""
        observations, infos = self.env.reset(seed=list(self._seeds))
        self.reset_infos = [outcome.info() for outcome in infos["outcome"]]
        self._reset_seeds()
        self._reset_options()
        return observations

    def step_async(self, actions: np.ndarray[Any, Any]) -> None:
        """Take the actions of the next step, shape (num_envs, d)."""
        self._actions = actions

    def step_wait(self) -> VecEnvStepReturn:
        """Serve the windows."""
        assert self._actions is not None  # step_async was called
        observations, rewards, terminated, truncated, columns = self.env.step(self._actions)
        infos: list[dict[str, Any]] = []
        for i in range(self.num_envs):
            if terminated[i] or truncated[i]:
                info = columns["final_outcome"][i].info()
                info["terminal_observation"] = columns["final_obs"][i]
                info["TimeLimit.truncated"] = bool(truncated[i])
            else:
                info = columns["outcome"][i].info()
            infos.append(info)
        return observations, rewards.astype(np.float32), terminated | truncated, infos

    def close(self) -> None:
        """Free all engines."""
        self.env.close()

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """An attribute of some environments."""
        return [getattr(env, attr_name) for env in self._chosen(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Set an attribute of some environments."""
        for env in self._chosen(indices):
            setattr(env, attr_name, value)

    def env_method(
        self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any
    ) -> list[Any]:
        """Call a method of some environments."""
        return [
            getattr(env, method_name)(*method_args, **method_kwargs)
            for env in self._chosen(indices)
        ]

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        """No environment is wrapped."""
        return [False for _ in self._chosen(indices)]

    def get_images(self) -> Sequence[Any]:
        """What each environment shows."""
        return self.env.render() or ()

    def _chosen(self, indices: Any) -> list[Any]:
        return [self.env.envs[i] for i in self._get_indices(indices)]


def make_vec_env(
    num_envs: int, config: Task | Mapping[str, Any] | str | Path | None = None
) -> TuningVecEnv:
    """Environments of one task for Stable-Baselines3.

    Args:
        num_envs: how many, in [1, 4096].
        config: of the task, see `SchedulerTuningEnv`.

    Raises:
        ConfigError: what is wrong in the configuration.
    """
    env = SchedulerTuningVectorEnv(num_envs, config, autoreset_mode=AutoresetMode.SAME_STEP)
    return TuningVecEnv(env)
