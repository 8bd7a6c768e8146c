"""The table of tuners: a name, what builds it, the settings it starts from.

`AGENTS` is the whole list of ours.  Its targets are loaded when an agent is asked for, so that the
list costs nothing and this module imports nothing that lies above it.  A tuner from outside the
checkout needs no line here, see `outside.py`.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from agents.core.agent import Agent
from agents.core.outside import check_tuner, entry_points, is_outside, load_outside, settings_of
from ewsjf_env.config import ConfigError, from_dict, nearest, to_dict
from ewsjf_env.env.task import Task
from ewsjf_env.parameters import ParameterSpace, Value

KNOWN_POINTS = "agents.bayes.phases:known_points"


@dataclass(frozen=True)
class AgentSetting:
    """What every agent is built for.  A constructor is given those that it has a parameter for.

    Attributes:
        space: what is tuned; its defaults are the first incumbent.
        context_size: how many numbers `act` is given, each in [-1, 1].
        seed: of everything the agent draws, >= 0.
        folder: where an agent may keep its state up to date; None: in memory only.
        study_name: names what the windows depend on beside the space, for example
            `<env id>/<space version>/<workload>`.
        shared: windows of other runs (`bayes.fleet.Recorded`), for agents on a study; None: there
            are none.
        task: what is tuned, for points that are known to do well on it, and for agents with a twin
            of the engine; None: a space alone.
        kept: where an earlier process kept a twin's results and fits, to read; None: in `folder`.
    """

    space: ParameterSpace
    context_size: int = 0
    seed: int = 0
    folder: Path | None = None
    study_name: str = "ewsjf"
    shared: Any = None
    task: Task | None = None
    kept: Path | None = None

    @property
    def known(self) -> list[dict[str, Value]]:
        """Points that did well on other traffic, the task's own start left out."""
        if self.task is None:
            return []
        points: list[dict[str, Value]] = _load(KNOWN_POINTS)(self.task)
        return points[1:]


OFFERED = (
    *("name", "space", "config", "context_size", "seed", "folder"),
    *("study_name", "shared", "known", "task", "kept"),
)
"""What a constructor may ask for, by the name of its parameter; see `AgentSetting`."""


@dataclass(frozen=True)
class AgentEntry:
    """One tuner.

    Attributes:
        target: `module:Class`; its constructor is given what it asks for of `OFFERED`.
        settings: `module:Class` of its settings, a frozen dataclass; "": the class of its
            constructor's parameter `config`, or `NoSettings`.
        summary: one line for lists and --help.
        given: what the settings start from, where that is not their class's defaults.
        sees: what `act` is given: features of the traffic, or the environment's whole
            observation.
        replays: it is shown the requests of every window, to replay them.
        outside: it is a stranger's, see `outside.py`.
    """

    target: str
    settings: str
    summary: str
    given: Mapping[str, Any] = field(default_factory=dict)
    sees: Literal["context", "observation"] = "context"
    replays: bool = False
    outside: bool = False

    @property
    def agent_class(self) -> type:
        """Class of the tuner."""
        found: type = (load_outside if self.outside else _load)(self.target)
        return found

    @property
    def settings_class(self) -> type:
        """Class of the settings."""
        if not self.settings:
            return settings_of(self.agent_class) or NoSettings
        found: type = _load(self.settings)
        return found

    @property
    def config(self) -> Any:
        """The settings that a user starts from."""
        return from_dict(self.settings_class, dict(self.given), "agent")

    def build(self, name: str, setting: AgentSetting, config: Any) -> Agent:
        """The agent; `config` of `settings_class`."""
        agent: Agent = _build(self.agent_class, name, setting, config)
        return agent


@dataclass(frozen=True)
class NoSettings:
    """Settings of a tuner that has none."""


_STUDY = "agents.bayes.agent:StudyAgent", "agents.bayes.config:StudyConfig"
_DRAWN = "agents.baselines:DrawnAgent", "agents.baselines:DrawnConfig"
_SB3 = "agents.rl.agent:SB3Agent"

AGENTS: dict[str, AgentEntry] = {
    "bayes": AgentEntry(*_STUDY, "contextual Gaussian process with constraints (primary)"),
    "bayes_twin": AgentEntry(
        "agents.twin.agent:TwinAgent",
        "agents.twin.config:TwinStudyConfig",
        "bayes, with a simulated twin that replays the last windows",
        replays=True,
    ),
    "tpe": AgentEntry(*_STUDY, "Optuna's tree-structured estimator", {"sampler": "tpe"}),
    "gp": AgentEntry(*_STUDY, "Optuna's Gaussian process, no context", {"sampler": "gp"}),
    "cmaes": AgentEntry(*_STUDY, "Optuna's CMA-ES", {"sampler": "cmaes"}),
    "random_modelled": AgentEntry(
        *_STUDY, "random proposals, recommended by our model", {"sampler": "random"}
    ),
    "random": AgentEntry(*_DRAWN, "random search", {"draw": "uniform"}),
    "sobol": AgentEntry(*_DRAWN, "quasi-random search", {"draw": "sobol"}),
    "default": AgentEntry(
        "agents.baselines:DefaultAgent",
        "agents.baselines:DefaultConfig",
        "the default values, never tuned",
    ),
    "best_static": AgentEntry(
        "agents.baselines:BestStaticAgent",
        "agents.baselines:BestStaticConfig",
        "offline search, then its best",
    ),
    "sac": AgentEntry(
        _SB3, "agents.rl.config:SacConfig", "SB3's soft actor-critic", sees="observation"
    ),
    "ppo": AgentEntry(
        _SB3,
        "agents.rl.config:PpoConfig",
        "SB3's proximal policy optimisation",
        sees="observation",
    ),
    "td3": AgentEntry(
        _SB3,
        "agents.rl.config:Td3Config",
        "SB3's twin delayed policy gradient",
        sees="observation",
    ),
    "tqc": AgentEntry(
        _SB3,
        "agents.rl.config:TqcConfig",
        "SAC with truncated quantile critics",
        sees="observation",
    ),
}


def agent_names() -> list[str]:
    """Names of all agents, each once: ours, and those of installed packages."""
    return list(dict.fromkeys([*AGENTS, *entry_points()]))


def find_agent(name: str, where: str = "agent") -> AgentEntry:
    """The tuner of a name: one of `agent_names`, or `module:Class` or `file.py:Class`.

    A tuner from outside is tried on a tiny space when it is first asked for.

    Raises:
        ConfigError: unknown name, naming the nearest valid one; or a tuner from outside that is
            none, with file and line of what is wrong.
    """
    if name in AGENTS:
        return AGENTS[name]
    target = entry_points().get(name, name)
    if not is_outside(target):
        raise ConfigError(
            f"{where}: unknown {name!r}{nearest(name, agent_names())}"
            "; a tuner of yours is given as module:Class or file.py:Class"
        )
    try:
        return _outside(target)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


def label_of(name: str) -> str:
    """What an agent is called in tables and folders: its name, or its class where it has none."""
    return name.rpartition(":")[2] if is_outside(name) else name


def absolute_name(name: str) -> str:
    """The name of an agent wherever a run is resumed from: a file's by its absolute path."""
    module, colon, attribute = name.rpartition(":")
    if colon and module.endswith(".py"):
        return f"{Path(module).absolute()}:{attribute}"
    return name


def agent_config(
    name: str,
    data: Mapping[str, Any] | None = None,
    where: str = "agent",
    sets: Sequence[str] = (),
) -> Any:
    """The settings of agent `name`: its defaults with `data`, nested as in its YAML file.

    `sets` are values set on a command line, over `data`.

    Raises:
        ConfigError: unknown agent or key, naming the nearest valid one; illegal value.
    """
    entry = find_agent(name)
    merged = _merge(to_dict(entry.config), data or {})
    return from_dict(entry.settings_class, merged, where, sets)


def make_agent(name: str, setting: AgentSetting, config: Any = None) -> Agent:
    """Build agent `name`; `config` as from `agent_config`, None: its defaults.

    Raises:
        ConfigError: unknown agent, settings of another one, or see the agent.
    """
    entry = find_agent(name)
    if config is None:
        config = entry.config
    if type(config) is not entry.settings_class:
        raise ConfigError(
            f"agent {name!r}: expected {entry.settings_class.__name__}, got {type(config).__name__}"
        )
    return entry.build(label_of(name), setting, config)


def _build(target: Callable[..., Any], name: str, setting: AgentSetting, config: Any) -> Any:
    asked = [p for p in inspect.signature(target).parameters if p in OFFERED]
    own = {"name": name, "config": config}
    return target(**{key: own[key] if key in own else getattr(setting, key) for key in asked})


def _load(target: str) -> Any:
    module, _, attribute = target.partition(":")
    return getattr(import_module(module), attribute)


@functools.cache
def _outside(target: str) -> AgentEntry:
    """The entry of a tuner from outside the checkout, after a trial."""
    found = load_outside(target)
    settings = settings_of(found)
    config = NoSettings() if settings is None else settings()

    def build(space: ParameterSpace, size: int) -> Any:
        return _build(found, label_of(target), AgentSetting(space, context_size=size), config)

    check_tuner(found, build, OFFERED)
    return AgentEntry(
        target,
        "",
        (inspect.getdoc(found) or "a tuner from outside").splitlines()[0],
        sees=getattr(found, "sees", "context"),
        replays=bool(getattr(found, "replays", False)),
        outside=True,
    )


def _merge(base: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in changes.items():
        inner = merged.get(key)
        nested = isinstance(inner, dict) and isinstance(value, Mapping)
        merged[key] = _merge(inner, value) if nested and inner is not None else value
    return merged
