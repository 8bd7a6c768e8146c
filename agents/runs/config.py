"""A tuning run: everything that decides its windows, in one file of its folder.

A run is repeated, resumed and exported from this alone: agent and settings, seed, environment,
the features that agents see, and what counts as a shift of the traffic.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import field
from pathlib import Path
from typing import Any

from agents.core.registry import absolute_name, agent_config, find_agent
from agents.runs.traffic_shift import ShiftSettings
from ewsjf_env.config import (
    ConfigError,
    Count,
    Natural,
    NotNegative,
    from_dict,
    load_yaml,
    nearest,
    refuse_unknown,
    settings,
    to_dict,
)
from ewsjf_env.env.registration import ENGINE_IDS
from ewsjf_env.env.task import Task, load_tuning
from ewsjf_env.measure.features import FEATURES, feature_names
from ewsjf_env.shipped import find_config

SCHEMA_VERSION = 2
"""Of config.yaml and windows.jsonl together."""

DEFAULT_CONTEXT = ("arrival_rate_per_s", "prompt_tokens_mean")
_KEYS = (
    "agent",
    "seed",
    "windows",
    "context",
    "context_windows",
    "idle_wait_s",
    "shift",
    "env",
)
_OWN_OF_TASK = (
    *("simulated", "fake", "live", "remote", "safety", "windows", "trace_pool"),
    *("workload", "rates_per_s"),
)
_OWN_OF_SERVER = (
    *("url", "urls", "ranks", "model", "api_key_env", "timeout_s", "start_timeout_s", "lease_s"),
    "arguments",
)
_AGENT = "agent."  # begins what is set of the agent's settings
_MARKS = ("schema_version", "environment", "parameter_space_hash")


@settings
class RunConfig:
    """One tuning run."""

    agent: str
    """Name of the agent, or `module:Class` of a tuner from outside."""
    settings: Any
    """Settings of that agent."""
    env: Task
    """The task."""
    seed: Natural = 0
    """Seed of everything that is drawn: traffic, noise and proposals."""
    windows: Count = 60
    """Planned windows; a resumed run may go further."""
    context: tuple[str, ...] = DEFAULT_CONTEXT
    """Names of features that agents with a context see, in this order."""
    context_windows: Count = 5
    """These features are the medians of so many windows, since the last shift: the traffic of a
    single one tells little of the next.
    """
    idle_wait_s: NotNegative = 3.0
    """A window in which nobody waited so many seconds tells nothing of an order."""
    shift: ShiftSettings = field(default_factory=ShiftSettings)
    """When a window's traffic counts as shifted."""

    def __post_init__(self) -> None:
        known = [feature.name for feature in FEATURES]
        for name in self.context:
            if name not in known:
                raise ConfigError(f"context: unknown feature {name!r}{nearest(name, known)}")
        if len(set(self.context)) != len(self.context):
            raise ConfigError(f"context: a feature occurs twice in {list(self.context)}")

    @property
    def environment_id(self) -> str:
        """Registered id of the environment, with its version."""
        return ENGINE_IDS[self.env.engine]

    @property
    def task(self) -> Task:
        """The environment's configuration."""
        return self.env

    @property
    def sees(self) -> tuple[str, ...]:
        """Names of what the agent is given: features, or all of the observation."""
        if find_agent(self.agent).sees == "observation":
            return feature_names(self.task.space())
        return self.context

    @property
    def study_name(self) -> str:
        """What an agent's memory depends on, beside the parameter space."""
        return f"{self.environment_id}/{self.env.workload}"

    @property
    def storage(self) -> str:
        """Where the study is that this run shares with others; "" where it is alone."""
        return getattr(self.settings, "storage", "")

    @property
    def shared_name(self) -> str:
        """Name of that study."""
        return getattr(self.settings, "study", "") or self.study_name

    @property
    def shared_marks(self) -> dict[str, str | int]:
        """What has to be the same of all that share it, for their rewards to mean the same.

        Everything of the task but for how it is reached, guarded and cut into episodes, and for
        the traffic, which the context tells and the study's name stands for.
        """
        task = to_dict(self.task)
        own = to_dict(self.task.engine_settings)
        kept = {key: value for key, value in task.items() if key not in _OWN_OF_TASK}
        kept[self.task.engine] = {k: v for k, v in own.items() if k not in _OWN_OF_SERVER}
        text = json.dumps([kept, self.context, self.context_windows], sort_keys=True, default=str)
        return {
            "parameter_space_hash": self.task.space().content_hash,
            "task": hashlib.sha256(text.encode()).hexdigest()[:16],
        }

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as in `config.yaml`, with the marks that a resumed run is checked by."""
        return {
            "schema_version": SCHEMA_VERSION,
            "environment": self.environment_id,
            "parameter_space_hash": self.task.space().content_hash,
            "agent": {"name": self.agent, **to_dict(self.settings)},
            "seed": self.seed,
            "windows": self.windows,
            "context": list(self.context),
            "context_windows": self.context_windows,
            "idle_wait_s": self.idle_wait_s,
            "shift": to_dict(self.shift),
            "env": to_dict(self.env),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], where: str) -> RunConfig:
        """Inverse of `to_dict`.

        Raises:
            ConfigError: unknown key, illegal value, or a run of another schema, environment
                version or parameter space.
        """
        for key in ("agent", "env", "schema_version"):
            if key not in data:
                raise ConfigError(f"{where}: missing key {key!r}")
        if data["schema_version"] != SCHEMA_VERSION:
            found = data["schema_version"]
            age = "a newer" if isinstance(found, int) and found > SCHEMA_VERSION else "an older"
            raise ConfigError(
                f"{where}: schema_version: {found!r} is not {SCHEMA_VERSION}: this run was started "
                f"with {age} version; start a new run"
            )
        refuse_unknown(data, (*_KEYS, *_MARKS), where)
        agent = data["agent"]
        if not isinstance(agent, Mapping) or not isinstance(agent.get("name"), str):
            raise ConfigError(f"{where}: agent: expected a mapping with a name, got {agent!r}")
        settings = {key: value for key, value in agent.items() if key != "name"}
        chosen = {key: data[key] for key in _KEYS if key in data}
        chosen["settings"] = agent_config(agent["name"], settings, f"{where}: agent")
        run = from_dict(cls, {**chosen, "agent": agent["name"]}, where)
        run.check_marks(data, where)
        return run

    def check_marks(self, data: Mapping[str, Any], where: str) -> None:
        """Refuse a folder whose windows mean something else in this version."""
        for mark in ("environment", "parameter_space_hash"):
            found, ours = data.get(mark), self.to_dict()[mark]
            if found != ours:
                raise ConfigError(f"{where}: {mark}: {found!r} is not {ours!r}; start a new run")


def _read(given: str | Path) -> dict[str, Any]:
    return load_yaml(find_config(given, "agents", "agent settings"))


def make_run_config(
    agent: str,
    task: Task | Mapping[str, Any] | str | Path | None = None,
    settings: Mapping[str, Any] | str | Path | None = None,
    sets: Sequence[str] = (),
    **fields: Any,
) -> RunConfig:
    """A run from what a user names.

    Args:
        agent: name in the registry.
        task: see `tuning.load_tuning`.
        settings: of the agent: a mapping, a YAML file or the name of one of ours; None: its
            defaults.
        sets: values set on a command line, as `safety.radius=0.3` of the task, or
            `agent.search.radius=0.2` of the agent's settings.
        fields: further fields of `RunConfig`.

    Raises:
        ConfigError: naming what is wrong.
    """
    agent = absolute_name(agent)
    where = str(settings) if isinstance(settings, (str, Path)) else f"agent {agent!r}"
    data = _read(settings) if isinstance(settings, (str, Path)) else settings
    own = [text.removeprefix(_AGENT) for text in sets if text.startswith(_AGENT)]
    try:
        chosen = agent_config(agent, data, where, own)
    except ConfigError as error:
        if not str(error).startswith("--set "):
            raise
        told = str(error).replace("--set ", f"--set {_AGENT}", 1)
        raise ConfigError(told.replace("valid path: '", f"valid path: '{_AGENT}")) from None
    env = load_tuning(task, sets=[text for text in sets if not text.startswith(_AGENT)])
    return RunConfig(agent=agent, settings=chosen, env=env, **fields)
