from pathlib import Path

import numpy as np
import pytest
from stable_baselines3 import PPO

from agents.rl.vec_env import TuningVecEnv, make_vec_env
from ewsjf_env.config import ConfigError
from ewsjf_env.env.vector import SchedulerTuningVectorEnv
from tests.env.test_vector import TASK


def test_stable_baselines3_learns_in_it(tmp_path: Path) -> None:
    env = make_vec_env(4, TASK)
    model = PPO("MlpPolicy", env, n_steps=4, batch_size=8, n_epochs=1, seed=0, device="cpu")
    before = [p.detach().clone() for p in model.policy.parameters()]
    model.learn(32)
    changed = [
        not np.allclose(a, b.detach())
        for a, b in zip(before, model.policy.parameters(), strict=True)
    ]
    assert model.num_timesteps == 32 and any(changed)
    env.close()


def test_an_end_is_told_as_stable_baselines3_wants_it() -> None:
    env = make_vec_env(2, TASK)
    env.seed(3)
    first = env.reset()
    assert len(env.reset_infos) == 2
    for step in range(3):
        observations, rewards, dones, infos = env.step(np.zeros((2, env.action_space.shape[0])))
        assert rewards.shape == (2,) and list(dones) == [step == 2] * 2
    assert all(info["TimeLimit.truncated"] for info in infos)
    assert infos[0]["terminal_observation"].shape == first[0].shape
    assert not np.array_equal(infos[0]["terminal_observation"], observations[0])
    assert infos[0]["metrics"] is not None
    env.seed(3)
    np.testing.assert_array_equal(env.reset(), first)
    assert env.get_attr("config")[1].windows == 3
    env.close()


def test_another_autoreset_mode_is_refused() -> None:
    with pytest.raises(ConfigError, match="expected 'SameStep'"):
        TuningVecEnv(SchedulerTuningVectorEnv(2, TASK))
