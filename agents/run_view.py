"""What does an export need to know of a tuning run?  Read off its folder, never written.

config.yaml     agent, seed, context and environment of the run
windows.jsonl   one line a window; a half line at the end, of a killed run, does not count
versions.json   which code ran it; may be missing
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agents.base import Agent, Transition
from agents.registry import AGENTS, AgentSetting, agent_config, make_agent
from ewsjf_env.config import ConfigError, load_yaml
from ewsjf_env.features import FEATURES, feature_names
from ewsjf_env.tuning import TuningConfig, load_tuning

_TRANSITION = tuple(f.name for f in dataclasses.fields(Transition))


@dataclass(frozen=True)
class RunView:
    """A tuning run to export from.

    Attributes:
        name: of its folder.
        agent_name: in the registry.
        settings: of that agent.
        seed: of the run.
        env: the task as it was asked for.
        context: features that agents with a context see.
        records: windows, in order; keys as in `Transition`, among others.
        versions: of the code that ran it; empty when unknown.
    """

    name: str
    agent_name: str
    settings: Any
    seed: int
    env: TuningConfig
    context: tuple[str, ...]
    records: tuple[Mapping[str, Any], ...]
    versions: Mapping[str, Any] = field(default_factory=dict)

    @property
    def task(self) -> TuningConfig:
        """The task as this agent meets it: some bring a policy of their own."""
        policy = getattr(AGENTS[self.agent_name], "policy", None)
        if policy is None:
            return self.env
        return dataclasses.replace(self.env, policy=policy, tuned=(), frozen=())

    @property
    def sees(self) -> tuple[str, ...]:
        """Names of what the agent is given."""
        if getattr(AGENTS[self.agent_name], "sees", "context") == "observation":
            return feature_names(self.task.space())
        return self.context

    @property
    def measured(self) -> list[Mapping[str, Any]]:
        """The windows that the agent could learn from."""
        return [r for r in self.records if not r.get("void") and r.get("failure") is None]

    def agent(self) -> Agent:
        """The agent as it was after the last window, by showing it all of them again."""
        setting = AgentSetting(space=self.task.space(), context_size=len(self.sees), seed=self.seed)
        agent = make_agent(self.agent_name, setting, self.settings)
        for record in self.records:
            agent.observe(Transition.from_dict({k: record[k] for k in _TRANSITION if k in record}))
        return agent


def open_view(path: str | Path) -> RunView:
    """Read the folder of a run.

    Raises:
        ConfigError: no run, a damaged one, or one without a window.
    """
    folder = Path(path)
    if not (folder / "config.yaml").is_file():
        raise ConfigError(f"{folder}: holds no run (config.yaml is missing)")
    where = str(folder / "config.yaml")
    data = load_yaml(where)
    agent = data.get("agent")
    if not isinstance(agent, Mapping) or not isinstance(agent.get("name"), str):
        raise ConfigError(f"{where}: agent: expected a mapping with a name, got {agent!r}")
    settings = {key: value for key, value in agent.items() if key != "name"}
    env = load_tuning(data.get("env"))
    context = tuple(data.get("context") or ())
    known = [feature.name for feature in FEATURES]
    for name in context:
        if name not in known:
            raise ConfigError(f"{where}: context: unknown feature {name!r}; start a new run")
    view = RunView(
        name=folder.resolve().name,
        agent_name=agent["name"],
        settings=agent_config(agent["name"], settings, f"{where}: agent"),
        seed=int(data.get("seed", 0)),
        env=env,
        context=context,
        records=tuple(_records(folder / "windows.jsonl")),
        versions=_versions(folder / "versions.json"),
    )
    mark, ours = data.get("parameter_space_hash"), view.task.space().content_hash
    if mark is not None and mark != ours:
        raise ConfigError(
            f"{where}: parameter_space_hash: {mark!r} is not {ours!r}, the space in this version"
        )
    if not view.measured:
        raise ConfigError(f"{folder}: no window was measured, there is nothing to export")
    return view


def _records(path: Path) -> list[dict[str, Any]]:
    try:
        lines = path.read_bytes().split(b"\n")[:-1]
    except OSError:
        return []
    found = []
    for number, line in enumerate(lines):
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if not isinstance(record, dict) or record.get("window") != number:
            raise ConfigError(f"{path}: line {number + 1}: not window {number}")
        found.append(record)
    return found


def _versions(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}
