import dataclasses
from pathlib import Path

import pytest

from agents.base import Agent
from agents.config import (
    BestStaticConfig,
    DriftConfig,
    SearchConfig,
    StudyConfig,
    SurrogateConfig,
)
from agents.registry import AGENTS, AgentSetting, agent_config, make_agent
from ewsjf_env.config import ConfigError, load_yaml
from tests.agents.toys import cube_space

CONFIGS = Path(__file__).parents[2] / "configs" / "agents"
SETTING = AgentSetting(cube_space(2))


@pytest.mark.parametrize("name", AGENTS)
def test_yaml_equals_dataclass(name: str):
    data = load_yaml(CONFIGS / f"{name}.yaml")
    config = AGENTS[name].config
    assert agent_config(name, data) == config
    assert set(data) == {field.name for field in dataclasses.fields(config)}


@pytest.mark.parametrize("name", AGENTS)
def test_every_agent_is_built(name: str):
    if name == "cmaes":
        pytest.importorskip("cmaes")
    agent = make_agent(name, SETTING)
    assert isinstance(agent, Agent)
    assert agent.name == name
    assert agent.offline == (name == "best_static")
    assert agent.act() == SETTING.space.defaults


def test_partial_settings_keep_the_rest():
    config = agent_config("tpe", {"surrogate": {"max_windows": 50}})
    expected = StudyConfig(sampler="tpe", surrogate=SurrogateConfig(max_windows=50))
    assert config == expected


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("bays", {}, "unknown 'bays'; nearest valid name: 'bayes'"),
        ("bayes", {"startup": 3}, "unknown key 'startup'; nearest valid name: 'startup_points'"),
        ("bayes", {"surrogate": {"half_life": 3}}, "nearest valid name: 'half_life_windows'"),
        ("bayes", {"surrogate": 3}, "expected a mapping"),
        ("bayes", {"sampler": "cma"}, "nearest valid name: 'cmaes'"),
        ("random", {"draw": "sobl"}, "nearest valid name: 'sobol'"),
        ("default", {"x": 1}, "unknown key 'x'"),
    ],
)
def test_bad_names_are_refused(name: str, data: dict[str, object], message: str):
    with pytest.raises(ConfigError, match=message):
        agent_config(name, data)


def test_settings_of_another_agent_are_refused():
    with pytest.raises(ConfigError, match="expected StudyConfig, got BestStaticConfig"):
        make_agent("bayes", SETTING, BestStaticConfig())
    with pytest.raises(ConfigError, match="nearest valid name: 'sobol'"):
        make_agent("sobool", SETTING)


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        (StudyConfig, {"startup_points": -1}),
        (StudyConfig, {"control_every": -1}),
        (StudyConfig, {"control_every": 1}),
        (StudyConfig, {"feasibility": 1.5}),
        (SurrogateConfig, {"half_life_windows": 0.0}),
        (SurrogateConfig, {"change_half_lives": -1.0}),
        (SurrogateConfig, {"max_windows": 0}),
        (SearchConfig, {"candidates": 1}),
        (SearchConfig, {"refinements": 0}),
        (DriftConfig, {"slack": -0.1}),
        (DriftConfig, {"threshold": 0.0}),
        (BestStaticConfig, {"points": 0}),
        (BestStaticConfig, {"repeats": 0}),
    ],
)
def test_bad_values_are_refused(kind: type, changes: dict[str, float]):
    with pytest.raises(ConfigError, match=next(iter(changes))):
        kind(**changes)
