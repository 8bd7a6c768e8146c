"""Which agents are there, and how is one made from its name?

`AGENTS` is the whole list: a name, the settings it starts from, and the function that builds it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from agents.baselines import (
    BestStaticAgent,
    BestStaticConfig,
    DefaultAgent,
    DefaultConfig,
    DrawnAgent,
    DrawnConfig,
)
from agents.bayes.agent import StudyAgent
from agents.bayes.config import StudyConfig
from agents.bayes.fleet import Recorded
from agents.bayes.start_points import known_points
from agents.core.agent import Agent
from agents.rl.agent import SB3Agent
from agents.rl.config import PpoConfig, SacConfig, Sb3Config, Td3Config, TqcConfig
from agents.twin.agent import TwinAgent
from agents.twin.config import TwinStudyConfig
from ewsjf_env.config import ConfigError, from_dict, nearest, to_dict
from ewsjf_env.env.task import TuningConfig
from ewsjf_env.parameters import ParameterSpace, Value


@dataclass(frozen=True)
class AgentSetting:
    """What every agent is built for.

    Attributes:
        space: what is tuned; its defaults are the first incumbent.
        context_size: how many numbers `act` is given, each in [-1, 1].
        seed: of everything the agent draws, >= 0.
        folder: where an agent may keep its state up to date; None: in memory only.
        study_name: names what the windows depend on beside the space, for example
            `<env id>/<space version>/<workload>`.
        shared: windows of other runs, for agents on a study; None: there are none.
        task: what is tuned, for points that are known to do well on it, and for agents with a twin
            of the engine; None: a space alone.
        kept: where an earlier process kept a twin's results and fits, to read; None: in `folder`.
    """

    space: ParameterSpace
    context_size: int = 0
    seed: int = 0
    folder: Path | None = None
    study_name: str = "ewsjf"
    shared: Recorded | None = None
    task: TuningConfig | None = None
    kept: Path | None = None

    @property
    def known(self) -> list[dict[str, Value]]:
        """Points that did well on other traffic, the task's own start left out."""
        return [] if self.task is None else known_points(self.task)[1:]


@dataclass(frozen=True)
class AgentEntry:
    """One line of the registry.

    Attributes:
        config: the settings that a user starts from, a frozen dataclass.
        build: (name, setting, config of the same class) -> agent.
        summary: one line for lists and --help.
        sees: what `act` is given: features of the traffic, or the environment's whole
            observation.
        policy: what is served for this agent instead of the task's policy, see `task_of`.
        replays: it is shown the requests of every window, to replay them.
    """

    config: Any
    build: Callable[[str, AgentSetting, Any], Agent]
    summary: str
    sees: Literal["context", "observation"] = "context"
    policy: str | None = None
    replays: bool = False


def _study(name: str, setting: AgentSetting, config: StudyConfig) -> Agent:
    return StudyAgent(
        name,
        setting.space,
        config,
        context_size=setting.context_size,
        seed=setting.seed,
        folder=setting.folder,
        kept=setting.kept,
        study_name=setting.study_name,
        shared=setting.shared,
        known=setting.known,
    )


def _twin(name: str, setting: AgentSetting, config: TwinStudyConfig) -> Agent:
    return TwinAgent(
        name,
        setting.space,
        config,
        task=setting.task,
        context_size=setting.context_size,
        seed=setting.seed,
        folder=setting.folder,
        kept=setting.kept,
        study_name=setting.study_name,
        known=setting.known,
    )


def _default(name: str, setting: AgentSetting, config: DefaultConfig) -> Agent:
    return DefaultAgent(name, setting.space, setting.seed)


def _drawn(name: str, setting: AgentSetting, config: DrawnConfig) -> Agent:
    return DrawnAgent(name, setting.space, config, setting.seed)


def _best_static(name: str, setting: AgentSetting, config: BestStaticConfig) -> Agent:
    return BestStaticAgent(name, setting.space, config, setting.seed)


def _sb3(name: str, setting: AgentSetting, config: Sb3Config) -> Agent:
    return SB3Agent(name, setting.space, config, setting.context_size, setting.seed)


AGENTS: dict[str, AgentEntry] = {
    "bayes": AgentEntry(
        StudyConfig(), _study, "contextual Gaussian process with constraints (primary)"
    ),
    "bayes_twin": AgentEntry(
        TwinStudyConfig(),
        _twin,
        "bayes, with a simulated twin that replays the last windows",
        replays=True,
    ),
    "tpe": AgentEntry(StudyConfig(sampler="tpe"), _study, "Optuna's tree-structured estimator"),
    "gp": AgentEntry(StudyConfig(sampler="gp"), _study, "Optuna's Gaussian process, no context"),
    "cmaes": AgentEntry(StudyConfig(sampler="cmaes"), _study, "Optuna's CMA-ES"),
    "random_modelled": AgentEntry(
        StudyConfig(sampler="random"), _study, "random proposals, recommended by our model"
    ),
    "random": AgentEntry(DrawnConfig("uniform"), _drawn, "random search"),
    "sobol": AgentEntry(DrawnConfig("sobol"), _drawn, "quasi-random search"),
    "default": AgentEntry(DefaultConfig(), _default, "the default values, never tuned"),
    "best_static": AgentEntry(BestStaticConfig(), _best_static, "offline search, then its best"),
    "boost_ada": AgentEntry(
        DefaultConfig(),
        _default,
        "another order, which refits its only parameter itself",
        policy="boost_ada",
    ),
    "sac": AgentEntry(SacConfig(), _sb3, "SB3's soft actor-critic", "observation"),
    "ppo": AgentEntry(PpoConfig(), _sb3, "SB3's proximal policy optimisation", "observation"),
    "td3": AgentEntry(Td3Config(), _sb3, "SB3's twin delayed policy gradient", "observation"),
    "tqc": AgentEntry(TqcConfig(), _sb3, "SAC with truncated quantile critics", "observation"),
}


def agent_config(name: str, data: Mapping[str, Any] | None = None, where: str = "agent") -> Any:
    """The settings of agent `name`: its defaults with `data`, nested as in its YAML file.

    Raises:
        ConfigError: unknown agent or key, naming the nearest valid one; illegal value.
    """
    entry = _entry(name)
    merged = _merge(to_dict(entry.config), data or {})
    return from_dict(type(entry.config), merged, where)


def make_agent(name: str, setting: AgentSetting, config: Any = None) -> Agent:
    """Build agent `name`; `config` as from `agent_config`, None: its defaults.

    Raises:
        ConfigError: unknown agent, settings of another one, or see the agent.
    """
    entry = _entry(name)
    if config is None:
        config = entry.config
    if type(config) is not type(entry.config):
        raise ConfigError(
            f"agent {name!r}: expected {type(entry.config).__name__}, got {type(config).__name__}"
        )
    return entry.build(name, setting, config)


def task_of(name: str, task: TuningConfig) -> TuningConfig:
    """The task as agent `name` meets it.

    An agent that stands for another order gets a task of that order's own parameters, on the
    same traffic and judged against the same reference.

    Raises:
        ConfigError: unknown agent.
    """
    policy = _entry(name).policy
    if policy is None:
        return task
    return dataclasses.replace(task, policy=policy, tuned=(), frozen=())


def _entry(name: str) -> AgentEntry:
    if name not in AGENTS:
        raise ConfigError(f"agent: unknown {name!r}{nearest(name, AGENTS)}")
    return AGENTS[name]


def _merge(base: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in changes.items():
        inner = merged.get(key)
        nested = isinstance(inner, dict) and isinstance(value, Mapping)
        merged[key] = _merge(inner, value) if nested and inner is not None else value
    return merged
