import gc
import weakref
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from stable_baselines3 import PPO
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.vec_env import DummyVecEnv

from agents.rl.learner import CountedRolloutBuffer, Learner, Step

GAMMA, LAMBDA = 0.5, 0.9


def build(env: DummyVecEnv) -> PPO:
    return PPO("MlpPolicy", env, n_steps=4, batch_size=4, n_epochs=1, seed=0, device="cpu")


def filled(kind: type[RolloutBuffer], void: set[int], rows: int) -> Any:
    box = Box(-1.0, 1.0, (1,), np.float32)
    buffer = kind(rows, box, box, device="cpu", gae_lambda=LAMBDA, gamma=GAMMA, n_envs=1)
    starts = [0, *(row in void for row in range(rows - 1))]  # a void window ends its episode
    for row in range(rows):
        number = np.array([float(row + 1)], dtype=np.float32)
        buffer.next_is_void = row in void
        buffer.add(
            number[None],
            number[None],
            np.array([100.0]) if row in void else number,
            np.array([float(starts[row])]),
            torch.tensor([0.1 * (row + 1)]),
            torch.tensor([-0.1 * (row + 1)]),
        )
    last_is_void = np.array([rows - 1 in void])
    buffer.compute_returns_and_advantage(torch.tensor([2.0]), last_is_void)
    return buffer


def test_void_rows_leave_a_rollout():
    buffer = filled(CountedRolloutBuffer, {1, 3}, 5)
    # Window 0 is credited as in a rollout that ends there, with the value of the void view.
    alone = RolloutBuffer(1, buffer.observation_space, buffer.action_space, "cpu", LAMBDA, GAMMA)
    one = np.array([1.0], dtype=np.float32)
    value, log_prob = torch.tensor([0.1]), torch.tensor([-0.1])
    alone.add(one[None], one[None], one, np.array([0.0]), value, log_prob)
    alone.compute_returns_and_advantage(torch.tensor([0.2]), np.array([False]))
    assert buffer.advantages[0, 0] == pytest.approx(alone.advantages[0, 0])
    assert set(buffer.observations[:, 0, 0].tolist()) == {1.0, 3.0, 5.0}
    for name in ("actions", "values", "log_probs", "advantages", "returns"):
        rows = getattr(buffer, name).reshape(5, -1)
        np.testing.assert_array_equal(rows[1], rows[0])
        np.testing.assert_array_equal(rows[3], rows[2])


def test_a_rollout_of_void_rows_has_no_advantage():
    buffer = filled(CountedRolloutBuffer, {0, 1, 2}, 3)
    np.testing.assert_allclose(buffer.advantages, 0.0, atol=1e-7)
    np.testing.assert_allclose(buffer.returns, buffer.values)


def test_without_void_rows_it_is_sb3s():
    ours, theirs = (filled(kind, set(), 4) for kind in (CountedRolloutBuffer, RolloutBuffer))
    for name in ("observations", "rewards", "advantages", "returns"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))


def test_proposals_wait_for_views():
    learner = Learner(1, 2, build)
    assert learner.proposal is None
    first = learner.begin((0.5,))
    assert first.shape == (2,)
    learner.finish(Step((0.1,), 1.0))
    assert learner.proposal is not None
    assert learner.view == (0.1,)
    learner.finish(Step((0.2,), 1.0, truncated=True))
    assert learner.proposal is None
    learner.begin((0.3,))
    learner.discard((0.4,))
    assert learner.proposal is None
    assert learner.model.num_timesteps == 2


def test_an_error_inside_is_the_callers_and_final():
    learner = Learner(1, 2, build)
    learner.begin((0.0,))
    with pytest.raises(ValueError, match="broadcast"):
        learner.finish(Step((0.0, 0.0), 1.0))
    with pytest.raises(RuntimeError, match="stopped by an error"):
        learner.begin((0.0,))


def test_a_dropped_learner_is_collected():
    learner = Learner(1, 2, build)
    learner.begin((0.0,))
    learner.finish(Step((0.0,), 1.0))
    model = weakref.ref(learner.model)
    del learner
    gc.collect()
    assert model() is None
