"""What a training loop of one's own logs of its windows."""

from pathlib import Path

import numpy as np
import pytest
from stable_baselines3 import SAC
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import configure

from agents.rl.callback import WindowLogger, window_scalars
from ewsjf_env import make_env

TASK = {"engine": "fake", "window_s": 5.0, "settle_s": 1.0, "windows": 3, "tuned": ["lambda", "k"]}


def test_an_own_loop_logs_reward_terms_and_ttft(tmp_path: Path) -> None:
    env = make_vec_env(lambda: make_env(TASK), n_envs=2, seed=0)
    model = SAC("MlpPolicy", env, learning_starts=100, seed=0, policy_kwargs={"net_arch": [4]})
    model.set_logger(configure(str(tmp_path), ["csv"]))
    model.learn(8, callback=WindowLogger(every=2))
    model.logger.close()
    env.close()
    table = np.genfromtxt(tmp_path / "progress.csv", delimiter=",", names=True, deletechars="")
    names = table.dtype.names
    assert {"reward/total", "ttft/mean_s", "ttft/long_p95_s", "window/failed"} <= set(names)
    assert len(table) == 2  # 8 windows of two environments, every second one is a line
    terms = [n for n in names if n.startswith("reward/") and n != "reward/total"]
    for row in table:
        assert sum(row[name] for name in terms) == pytest.approx(row["reward/total"])


def test_a_failed_window_has_no_metrics() -> None:
    env = make_env({**TASK, "fake": {"fail_at_s": 30.0}})
    env.reset(seed=0)
    action = np.zeros(env.action_space.shape, dtype=np.float32)
    terminated = False
    while not terminated:
        *_, terminated, _, info = env.step(action)
    found = window_scalars(info)
    assert (found["window/failed"], found["reward/failure"]) == (1.0, found["reward/total"])
    assert not [tag for tag in found if tag.startswith("ttft/")]
