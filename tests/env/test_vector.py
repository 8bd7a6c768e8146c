"""The vector environment is many single ones, whatever the autoreset mode."""

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from ewsjf_env.config import ConfigError
from ewsjf_env.env.env import SchedulerTuningEnv
from ewsjf_env.env.registration import FAKE_ID, SIMULATED_ID
from ewsjf_env.env.vector import SchedulerTuningVectorEnv

TASK: dict[str, Any] = {
    "engine": "fake",
    "windows": 3,
    "window_s": 5.0,
    "settle_s": 1.0,
    "warmup_s": 2.0,
    "rates_per_s": [3.0],
}


def actions(env: Any, count: int) -> np.ndarray:
    random = np.random.default_rng(0)
    return random.uniform(-1.0, 1.0, (count, *env.action_space.shape)).astype(np.float32)


@pytest.mark.parametrize("mode", AutoresetMode)
def test_it_is_what_gymnasium_makes_of_single_environments(mode: AutoresetMode) -> None:
    ours = SchedulerTuningVectorEnv(3, TASK, autoreset_mode=mode)
    theirs = SyncVectorEnv([lambda: SchedulerTuningEnv(TASK)] * 3, autoreset_mode=mode)
    assert ours.observation_space == theirs.observation_space
    assert ours.action_space == theirs.action_space
    np.testing.assert_array_equal(ours.reset(seed=5)[0], theirs.reset(seed=5)[0])
    for action in actions(ours, 7):
        found, wanted = ours.step(action), theirs.step(action)
        for ours_one, theirs_one in zip(found[:4], wanted[:4], strict=True):
            np.testing.assert_array_equal(ours_one, theirs_one)
        ended = found[2] | found[3]
        if mode is AutoresetMode.SAME_STEP and ended.any():
            for i in np.flatnonzero(ended):
                np.testing.assert_array_equal(found[4]["final_obs"][i], wanted[4]["final_obs"][i])
                last = found[4]["final_outcome"][i].info()
                assert last["reward_terms"] == {
                    name: column[i] for name, column in _plain(wanted, "reward_terms").items()
                }
        if mode is AutoresetMode.DISABLED and ended.any():
            for env in (ours, theirs):
                env.reset(options={"reset_mask": ended.copy()})
    ours.close()
    theirs.close()


def _plain(stepped: Any, name: str) -> dict[str, Any]:
    columns = stepped[4]["final_info"][name]
    return {key: column for key, column in columns.items() if not key.startswith("_")}


def test_gymnasium_makes_it_by_its_id() -> None:
    env = gymnasium.make_vec(
        f"ewsjf_env:{FAKE_ID}",
        num_envs=4,
        vectorization_mode="vector_entry_point",
        config={key: value for key, value in TASK.items() if key != "engine"},
    )
    assert isinstance(env.unwrapped, SchedulerTuningVectorEnv)
    observations, infos = env.reset(seed=0)
    assert observations.shape == env.observation_space.shape and observations in (
        env.observation_space
    )
    assert infos["_outcome"].all() and infos["outcome"][3].info()["trace"]["seed"] >= 0
    observations, rewards, *_ = env.step(env.action_space.sample())
    assert rewards.shape == (4,) and observations in env.observation_space
    env.close()


def test_the_compiled_engine_plays_in_it() -> None:
    task = {**TASK, "engine": "compiled", "trace_pool": 2, "simulated": {"kv_blocks": 3500}}
    env = gymnasium.make_vec(
        f"ewsjf_env:{SIMULATED_ID}", 2, vectorization_mode="vector_entry_point", config=task
    )
    single = SchedulerTuningEnv(task)
    env.reset(seed=[7, 8])
    single.reset(seed=8)
    (action,) = actions(env, 1)
    observations, rewards, _, _, infos = env.step(action)
    observation, reward, _, _, info = single.step(action[1])
    np.testing.assert_array_equal(observations[1], observation)
    assert rewards[1] == reward
    told = infos["outcome"][1].info()
    assert told["metrics"] == info["metrics"] and told["metrics"]["arrivals"] > 0
    env.close()
    single.close()


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"num_envs": 0}, "num_envs: 0 is outside"),
        ({"autoreset_mode": "SameStepp"}, "nearest valid name: 'SameStep'"),
        ({"config": {"engine": "live"}}, "engine: 'live' is one machine"),
        ({"config": {"workloads": "mixed"}}, "nearest valid name: 'workload'"),
    ],
)
def test_bad_arguments(wrong: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        SchedulerTuningVectorEnv(**{"config": TASK, **wrong})


def test_bad_steps_and_resets() -> None:
    env = SchedulerTuningVectorEnv(2, TASK, autoreset_mode="Disabled")
    with pytest.raises(ResetNeeded):
        env.step(env.action_space.sample())
    with pytest.raises(ResetNeeded):
        env.reset(options={"reset_mask": np.array([True, False])})
    env.reset(seed=0)
    with pytest.raises(ConfigError, match=r"actions: shape \(2, 3\), expected"):
        env.step(np.zeros((2, 3), np.float32))
    for nonsense in ("up", {"a": 1}, None):
        with pytest.raises(ConfigError, match=r"actions: shape \(\), expected"):
            env.step(nonsense)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="actions: rows of several lengths, expected"):
        env.step([[0.0], [0.0, 1.0]])  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="finite"):
        env.step(np.full(env.action_space.shape, np.nan, np.float32))
    with pytest.raises(ConfigError, match="seed: 3 seeds, expected 2"):
        env.reset(seed=[1, 2, 3])
    with pytest.raises(ConfigError, match="reset_mask: int64"):
        env.reset(options={"reset_mask": np.array([1, 0])})
    for action in actions(env, 3):
        env.step(action)
    with pytest.raises(ResetNeeded):
        env.step(env.action_space.sample())
    env.close()
