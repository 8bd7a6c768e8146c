import math

import pytest

from agents.baselines import (
    BestStaticAgent,
    BestStaticConfig,
    DefaultAgent,
    DrawnAgent,
    DrawnConfig,
)
from agents.core.agent import Agent, Transition
from ewsjf_env.config import ConfigError
from tests.agents.toys import MIXED_SPACE, bowl, cube_space, play

SPACE = cube_space(2)
TRUTH = bowl([0.2, 0.8])


def proposals(agent: Agent, windows: int) -> list[dict[str, object]]:
    found = []
    for _ in range(windows):
        values = agent.act()
        found.append(values)
        agent.observe(Transition(agent.windows, values, TRUTH(values, 0)))
    return found


def test_default_never_moves():
    agent = DefaultAgent("default", MIXED_SPACE)
    play(agent, lambda values, _: 1.0, 3)
    assert agent.act() == agent.recommend() == MIXED_SPACE.defaults
    assert agent.windows == 3


@pytest.mark.parametrize("draw", ["uniform", "sobol"])
def test_drawn_points_are_legal_distinct_and_the_seeds(draw: str):
    config = DrawnConfig(draw)
    one, two, other = (DrawnAgent("a", SPACE, config, seed) for seed in (1, 1, 2))
    first = proposals(one, 12)
    assert first[0] == SPACE.defaults
    assert first == proposals(two, 12)
    assert first != proposals(other, 12)
    assert len({tuple(p.values()) for p in first}) == 12
    assert all(isinstance(a, Agent) for a in (one, two, other))
    mixed = DrawnAgent("a", MIXED_SPACE, config)
    play(mixed, lambda values, _: float(MIXED_SPACE.validate(values) == values), 8)
    assert MIXED_SPACE.validate(mixed.recommend())


def test_drawn_recommends_the_best_mean_of_feasible_points():
    agent = DrawnAgent("a", SPACE, DrawnConfig())
    a, b, c, d = ({"x0": x, "x1": 0.5} for x in (0.1, 0.2, 0.3, 0.4))
    lines = [
        Transition(0, a, 5.0),
        Transition(1, a, -5.0),  # a: 0 on average
        Transition(2, b, 1.0, margins={"limit": -0.1}),
        Transition(3, c, 9.0, margins={"limit": 0.1}),  # infeasible
        Transition(4, d, 9.0),
        Transition(5, d, math.nan, failure="hung"),  # fails at times
        Transition(6, a, math.nan, void=True),
    ]
    for line in lines:
        agent.observe(line)
        agent.observe(line)
    assert agent.windows == 7
    assert agent.recommend() == b


def test_void_windows_repeat_the_proposal():
    agent = DrawnAgent("a", SPACE, DrawnConfig())
    proposals(agent, 3)
    values = agent.act()
    agent.observe(Transition(3, values, math.nan, void=True))
    assert agent.act() == values


def test_best_static_searches_then_stays():
    agent = BestStaticAgent("best_static", SPACE, BestStaticConfig(points=7, repeats=2))
    found = proposals(agent, 20)
    assert found[:8] == found[8:16]
    assert found[0] == SPACE.defaults
    best = max(found[:8], key=lambda values: TRUTH(values, 0))
    assert found[16:] == [best] * 4
    assert agent.recommend() == best


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reward": math.nan}, "reward: nan is not finite"),
        ({"reward_se": -1.0}, "reward_se"),
        ({"window": -1}, "window"),
        ({"margins": {"limit": math.nan}}, "margins: limit"),
    ],
)
def test_transitions_are_checked(changes: dict[str, object], message: str):
    with pytest.raises(ConfigError, match=message):
        Transition(**({"window": 0, "values": {}, "reward": 0.0} | changes))
