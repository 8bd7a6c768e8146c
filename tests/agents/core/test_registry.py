import dataclasses
from pathlib import Path
from typing import Any

import pytest

from agents.baselines import BestStaticConfig
from agents.bayes.config import DriftConfig, SearchConfig, StudyConfig, SurrogateConfig
from agents.core.agent import Agent
from agents.core.registry import AGENTS, AgentSetting, agent_config, make_agent
from agents.rl.config import PpoConfig, SacConfig, Td3Config, TqcConfig
from ewsjf_env.config import ConfigError, load_yaml
from ewsjf_env.env.task import Task
from tests.agents.toys import cube_space

CONFIGS = Path(__file__).parents[3] / "configs" / "agents"
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
    size = 3 if AGENTS[name].sees == "observation" else 0
    task = Task(engine="fake", tuned=("lambda", "mu"))
    agent = make_agent(name, AgentSetting(task.space(), context_size=size, task=task))
    assert isinstance(agent, Agent)
    assert agent.name == name
    assert agent.act((0.5,) * size) == task.space().defaults


def test_learners_see_the_whole_observation():
    assert {name for name in AGENTS if AGENTS[name].sees == "observation"} == {
        "sac",
        "ppo",
        "td3",
        "tqc",
    }


def test_partial_settings_keep_the_rest():
    config = agent_config("tpe", {"surrogate": {"max_windows": 50}})
    expected = StudyConfig(sampler="tpe", surrogate=SurrogateConfig(max_windows=50))
    assert config == expected


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("bays", {}, "unknown 'bays'; nearest valid name: 'bayes'"),
        (
            "bayes",
            {"startup_point": 3},
            "unknown key 'startup_point'; nearest valid name: 'startup_points'",
        ),
        ("bayes", {"surrogate": {"half_life": 3}}, "nearest valid name: 'half_life_windows'"),
        ("bayes", {"surrogate": 3}, "expected a mapping"),
        ("bayes", {"sampler": "cma"}, "nearest valid name: 'cmaes'"),
        ("random", {"draw": "sobl"}, "nearest valid name: 'sobol'"),
        ("default", {"x": 1}, "unknown key 'x'"),
        ("sac", {"learning_start": 8}, "nearest valid name: 'learning_starts'"),
        ("sac", {"ent_coef": "auto_0"}, "ent_coef: 'auto_0' is not a number >= 0, auto or auto_"),
        ("ppo", {"n_steps": "2_000"}, "n_steps: expected an integer"),
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
        (SacConfig, {"learning_rate": 0.0}),
        (SacConfig, {"gamma": 1.0}),
        (SacConfig, {"net_arch": (64, 0)}),
        (SacConfig, {"batch_size": 1}),
        (SacConfig, {"learning_starts": 0}),
        (SacConfig, {"buffer_size": 63}),
        (SacConfig, {"tau": 1.5}),
        (SacConfig, {"train_freq": 0}),
        (SacConfig, {"gradient_steps": 0}),
        (SacConfig, {"ent_coef": -1.0}),
        (SacConfig, {"ent_coef": "low"}),
        (SacConfig, {"target_entropy": "low"}),
        (TqcConfig, {"n_critics": 0}),
        (TqcConfig, {"n_quantiles": 1}),
        (TqcConfig, {"top_quantiles_to_drop_per_net": 25}),
        (Td3Config, {"noise_std": -0.1}),
        (Td3Config, {"policy_delay": 0}),
        (PpoConfig, {"n_steps": 24}),
        (PpoConfig, {"n_epochs": 0}),
        (PpoConfig, {"gae_lambda": 1.1}),
        (PpoConfig, {"clip_range": 0.0}),
        (PpoConfig, {"target_kl": 0.0}),
        (PpoConfig, {"log_std_init": 3.0}),
    ],
)
def test_bad_values_are_refused(kind: type, changes: dict[str, Any]):
    with pytest.raises(ConfigError, match=next(iter(changes))):
        kind(**changes)
