"""The public names: what they are, what they cost, and ten lines that use them."""

import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import agents
import ewsjf_env
from agents import AGENTS, Agent, RunConfig, make_agent, tune
from agents.core.registry import AgentSetting
from ewsjf_env import Policy, Task, default_policy, load_workload, make_env, parse_policy
from ewsjf_env.config import ConfigError

ROOT = Path(__file__).parents[1]
HEAVY = (
    "vllm",
    "torch",
    "stable_baselines3",
    "optuna",
    "matplotlib",
    "aiohttp",
    "agents.bayes.agent",
)
SMALL = {"engine": "fake", "window_s": 5.0, "settle_s": 1.0, "windows": 3}

LOADED = """
import sys
{statement}
print(*(name for name in {heavy!r} if name in sys.modules))
"""


@pytest.mark.parametrize(
    ("statement", "more"),
    [
        ("import ewsjf_env", ("pydantic", "scipy", "agents")),
        ("import agents", ("pydantic", "scipy", "numpy", "gymnasium", "ewsjf_env")),
        ("from ewsjf_env import *", ("scipy", "agents")),
        ("from agents import *", ("scipy",)),
    ],
)
def test_importing_loads_nothing_heavy(statement: str, more: tuple[str, ...]) -> None:
    code = LOADED.format(statement=statement, heavy=(*HEAVY, *more))
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == []


@pytest.mark.parametrize("package", [ewsjf_env, agents])
def test_all_names_are_there_and_described(package: object) -> None:
    for name in package.__all__:  # type: ignore[attr-defined]
        found = getattr(package, name)
        assert name in dir(package)
        assert (found.__doc__ if name != "AGENTS" else package.__doc__).strip()
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        package.nothing  # type: ignore[attr-defined]  # noqa: B018


def test_ten_lines_of_tuning(tmp_path: Path) -> None:
    tuned = tune(SMALL, agent="sobol", windows=3, seed=1)
    assert len(tuned.records) == tuned.summary["windows"] == 3
    assert tuned.recommendation == tuned.summary["recommendation"]
    tuned.policy.save(tmp_path / "policy.json")
    served = Policy.load(tmp_path / "policy.json")
    assert {name: served.parameters[name] for name in tuned.recommendation} == pytest.approx(
        tuned.recommendation
    )


def test_a_kept_run_is_continued_and_another_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    first = tune(SMALL, agent="sobol", windows=2, out=folder, seed=1)
    again = tune(Task(**SMALL), agent="sobol", windows=2, out=folder, seed=1)
    assert again.records == first.records
    assert isinstance(again.config, RunConfig)
    with pytest.raises(ConfigError, match="holds another run"):
        tune(SMALL, agent="sobol", windows=2, out=folder, seed=2)


def test_the_pieces_fit() -> None:
    env = make_env(SMALL)
    agent = make_agent("random", AgentSetting(env.unwrapped.parameter_space))  # type: ignore[attr-defined]
    assert isinstance(agent, Agent)
    assert "random" in AGENTS
    assert load_workload("mixed").name == "mixed"
    assert parse_policy("ewsjf").order == default_policy().order


@pytest.mark.parametrize("package", [ewsjf_env, agents])
def test_a_public_name_is_its_own(package: ModuleType) -> None:
    """What an error or a traceback calls a thing is what it is imported as."""
    for name in package.__all__:
        thing = getattr(package, name)
        assert getattr(thing, "__name__", name) == name


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"workloda": "x"}, "unknown key 'workloda'; nearest valid name: 'workload'"),
        ({"window_s": -1.0}, "window_s: -1.0 is outside"),
    ],
)
def test_a_bad_task_is_one_line(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        Task(**values)
