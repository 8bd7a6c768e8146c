"""An agent on a study notices that the traffic has changed, and only then."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import optuna
import pytest

from agents.bayes.config import DriftConfig, SurrogateConfig
from agents.bayes.trials import CHANGE, ROLE, SURPRISE
from tests.agents.bayes.study_agents import CONFIG, make, transition
from tests.agents.toys import bowl, cube_space, play


def jump(values: Mapping[str, Any], window: float) -> float:
    best = (0.2, 0.3) if window < 24 else (0.8, 0.7)
    return -12.0 * float((values["x0"] - best[0]) ** 2 + (values["x1"] - best[1]) ** 2)


def after_jump(surrogate: SurrogateConfig, drift: DriftConfig, seed: int) -> tuple[float, int]:
    config = dataclasses.replace(CONFIG, surrogate=surrogate, drift=drift)
    agent = make(cube_space(2), seed, config)
    rewards = play(agent, jump, 48, seed=seed)
    changes = [t.number for t in agent.study.trials if CHANGE in t.user_attrs]
    assert not [number for number in changes if number < 24]
    return float(np.mean(rewards[30:])), len(changes)


def test_half_life_and_detection_follow_a_jump():
    never, off = SurrogateConfig(half_life_windows=None), DriftConfig(enabled=False)
    for seed in range(2):
        stubborn, _ = after_jump(never, off, seed)
        ageing, _ = after_jump(SurrogateConfig(half_life_windows=6.0), off, seed)
        detecting, changes = after_jump(never, DriftConfig(), seed)
        assert changes >= 1
        assert ageing > stubborn + 0.5
        assert detecting > stubborn + 0.5


def test_a_void_window_reveals_a_change():
    agent = make(cube_space(2))
    play(agent, bowl([0.3, 0.6]), 8)
    agent.observe(transition(agent, agent.act(), reward=float("nan"), void=True, shifted=True))
    assert agent._model.changes == [8]
    agent.act()
    assert agent.diagnostics()["bo/changes"] == 1.0


@pytest.mark.parametrize("breach", [True, False])
def test_the_queue_that_a_breach_leaves_is_no_change(breach: bool):
    agent = make(cube_space(2), config=dataclasses.replace(CONFIG, confirm=1))
    play(agent, bowl([0.3, 0.6]), 12)
    margins = {"limit": 1.0} if breach else {}
    agent.observe(transition(agent, agent.act(), reward=-0.2, margins=margins))
    # The incumbent clears up, and suffers from what it finds.
    agent.act()
    agent.observe(transition(agent, agent.recommend(), reward=-5.0))
    last = agent.study.trials[-1].user_attrs
    assert (last[ROLE] == "control", SURPRISE in last) == (breach, not breach)


@pytest.fixture(autouse=True)
def quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
