"""The configuration of a comparison: tuners and tasks, from a YAML file that explains its keys."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import field
from pathlib import Path
from typing import Annotated, Any

from agents.core.outside import is_outside
from agents.core.registry import absolute_name, agent_config, agent_names, find_agent, label_of
from agents.experiments.tuners.judging import HeldOut
from agents.runs.config import DEFAULT_CONTEXT, RunConfig, make_run_config
from ewsjf_env.config import (
    ConfigError,
    Count,
    Distinct,
    Names,
    Natural,
    from_dict,
    load_yaml,
    nearest,
    overridden,
    settings,
)
from ewsjf_env.engine.simulated.config import VIRTUAL
from ewsjf_env.env.task import SafetySettings, Task, load_tuning
from ewsjf_env.policy.policy import parse_policy
from ewsjf_env.scheduling.orders.registry import ORDERS
from ewsjf_env.shipped import find_config
from ewsjf_env.workload import load_workload
from ewsjf_env.workload.source import MissingTrace

FIXED = "default"  # the agent that never tunes
_NAME = re.compile(r"\w[\w.-]*")


@settings
class ArmConfig:
    """One tuner of the comparison, where it is more than an agent with its defaults."""

    agent: str
    """Name of the agent, or `module:Class` of one from outside."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the agent."""
    windows: Count | None = None
    """Windows of its tuning runs; null: those of the task."""
    guarded: bool = False
    """Whether it tunes inside the safety guard."""
    policy: str | None = None
    """Policy that is tuned instead of the task's, as in `policy.parse_policy`; of the task's
    `tuned` and `frozen` parameters those that it has; all that it has where it has none of them.
    """

    def __post_init__(self) -> None:
        find_agent(self.agent)
        try:
            agent_config(self.agent, self.settings, "settings")
        except ConfigError as error:
            raise ConfigError(str(error), ("settings", *error.keys), error.reason) from None
        if self.policy is not None:
            parse_policy(self.policy)
        if self.settings.get("storage"):
            raise ConfigError("settings: storage: runs that are compared do not share a study")


@settings
class TaskConfig:
    """One task."""

    env: Mapping[str, Any]
    """What is tuned on which traffic: keys of a task."""
    held_out: HeldOut = field(default_factory=HeldOut)
    """The traffic that judges final recommendations."""
    windows: Count | None = None
    """Windows of a tuning run; null: those of the comparison."""
    jump_window: Count | None = None
    """The traffic jumps at this window of a run; null: it does not."""
    after_jump: HeldOut | None = None
    """The traffic that judges what is recommended from there on."""

    def __post_init__(self) -> None:
        if (self.jump_window is None) != (self.after_jump is None):
            raise ConfigError("after_jump: give it together with jump_window, or neither")

    @property
    def tuning(self) -> Task:
        """The environment."""
        return load_tuning(self.env, where="env")

    def check_traffic(self, name: str) -> None:
        """Read the traffic that tunes and all that judges.

        Args:
            name: of the task, for an error.

        Raises:
            MissingTrace: a recording is not there, naming the value to be set instead.
            ConfigError: what else is wrong with it.
        """
        named = {"env": self.tuning.workload, "held_out": self.held_out.task(self.tuning).workload}
        if self.after_jump is not None:
            named["after_jump"] = self.after_jump.task(self.tuning).workload
        for key, workload in named.items():
            try:
                load_workload(workload)
            except MissingTrace as error:
                value = f"--set tasks.{name}.{key}.workload=FILE takes another"
                raise MissingTrace(f"{key}: workload: {error}; {value}") from None
            except ConfigError as error:
                raise ConfigError(f"{key}: {error}") from None

    def played_by(self, engine: str) -> TaskConfig:
        """The task on another engine in virtual time; a task on any other engine stays."""
        if not self.tuning.has_model:
            return self
        return dataclasses.replace(self, env={**self.env, "engine": engine})


@settings
class ComparisonConfig:
    """A comparison of tuners."""

    tasks: Mapping[str, TaskConfig]
    """Tasks by name."""
    windows: Count = 24
    """Windows of a tuning run."""
    context: Names = DEFAULT_CONTEXT
    """Features that agents with a context see."""
    arms: Mapping[str, ArmConfig] = field(default_factory=dict)
    """Tuners by label; a label that is not here is an agent with its defaults, or a policy of that
    name (`hrrn`) that stays as it is.
    """
    curve: Annotated[tuple[Natural, ...], Distinct()] = (1, 2, 4, 6, 8, 12, 16, 24)
    """After how many windows recommendations are judged as well."""
    curve_arms: Names = ()
    """Arms of which; empty: of none."""

    def __post_init__(self) -> None:
        if not self.tasks:
            raise ConfigError("tasks: none is given")
        for label in self.curve_arms:
            self._find(label, "curve_arms")
        for key, names in (("tasks", self.tasks), ("arms", self.arms)):
            for name in names:
                if not _NAME.fullmatch(name):
                    raise ConfigError(
                        f"{key}: {name!r} is no name for a folder, expected letters, digits, "
                        "_, - and ., neither - nor . first"
                    )
        missing: dict[str, MissingTrace] = {}
        for name, task in self.tasks.items():
            try:
                task.check_traffic(name)
            except MissingTrace as error:
                missing[name] = error
            except ConfigError as error:
                raise ConfigError(f"tasks: {name}: {error}") from None
        for name, lack in missing.items():
            others = [other for other in self.tasks if other not in missing]
            out = f"; --tasks {','.join(others)} leaves the task out" if others else ""
            raise MissingTrace(f"tasks: {name}: {lack}{out}") from None

    def arm(self, label: str) -> ArmConfig:
        """The tuner of a label: an arm, an agent, or an order of requests that is never tuned.

        Raises:
            ConfigError: unknown, naming the nearest.
        """
        return self._find(label, "--agents")

    def with_agents(self, names: Sequence[str]) -> tuple[ComparisonConfig, list[str]]:
        """The comparison with an arm for each tuner from outside; and the labels of all `names`.

        Raises:
            ConfigError: two of them would have the same label.
        """
        arms, labels = dict(self.arms), []
        for name in names:
            label = label_of(name)
            if is_outside(name):
                if label in arms or label in agent_names():
                    raise ConfigError(f"--agents: {name!r}: there is an arm {label!r} already")
                find_agent(absolute_name(name), "--agents")
                arms[label] = ArmConfig(absolute_name(name))
            labels.append(label)
        return dataclasses.replace(self, arms=arms), labels

    def _find(self, label: str, where: str) -> ArmConfig:
        _refuse_unknown_arm(label, self.arms, where)
        if label in self.arms:
            return self.arms[label]
        return ArmConfig(label) if label in agent_names() else ArmConfig(FIXED, policy=label)

    def run_config(self, task: str, label: str, seed: int) -> RunConfig:
        """The tuning run of one arm on one task with one seed.

        Raises:
            ConfigError: an arm that cannot be, by name.
        """
        try:
            return self._run_config(task, label, seed)
        except ConfigError as error:
            raise ConfigError(f"arms: {label}: {error}") from None

    def _run_config(self, task: str, label: str, seed: int) -> RunConfig:
        arm, chosen = self.arm(label), self.tasks[task]
        env = dict(chosen.env)
        safety = dict(env.get("safety", {}))
        env["safety"] = {**safety, "enabled": arm.guarded}
        if arm.policy is not None:
            env["policy"] = arm.policy
            has = parse_policy(arm.policy).space
            for key in {"tuned", "frozen"} & env.keys():
                env[key] = [name for name in env[key] if name in has]
            if "tuned" in env and not env["tuned"]:  # an empty list would leave none to some
                env["tuned"] = [p.name for p in has.parameters if p.tunable]
        from_dict(SafetySettings, env["safety"], f"tasks: {task}: safety")
        windows = arm.windows or chosen.windows or self.windows
        return make_run_config(
            arm.agent, env, arm.settings, seed=seed, windows=windows, context=self.context
        )


def load_comparison(
    path: str | Path,
    tasks: Sequence[str] | None = None,
    sets: Sequence[str] = (),
    engine: str | None = None,
    agents: Sequence[str] = (),
) -> ComparisonConfig:
    """Read the YAML file; ConfigError naming what is wrong with it.

    Args:
        path: of the file.
        tasks: of these alone, so that nothing the others need has to be there; None: all.
        sets: values set on a command line, as `windows=12`, over those of the file.
        engine: that plays the tasks in virtual time; None: the one that each names.
        agents: that will be asked for; an unknown one is told before any traffic is read.
    """
    if engine is not None and engine not in VIRTUAL:
        raise ConfigError(f"--engine: unknown {engine!r}{nearest(engine, VIRTUAL)}")
    data = overridden(load_yaml(find_config(path, "", "--config")), sets, ComparisonConfig)
    for name in ("agents", "seeds", "jobs", "out"):
        if name in data:
            raise ConfigError(f"{path}: {name}: is not set here but by --{name}")
    arms = data.get("arms")
    for name in agents:
        if is_outside(name):
            find_agent(absolute_name(name))
        else:
            _refuse_unknown_arm(name, arms if isinstance(arms, Mapping) else (), "--agents")
    if tasks is not None and isinstance(data.get("tasks"), Mapping):
        there = {str(name): task for name, task in data["tasks"].items()}
        for name in tasks:
            if name not in there:
                raise ConfigError(f"--tasks: unknown {name!r}{nearest(name, there)}")
        data = {**data, "tasks": {name: there[name] for name in tasks}}
    kept = [text for text in sets if tasks is None or not _of_other_task(text, tasks)]
    config = from_dict(ComparisonConfig, data, str(path), kept)
    if engine is None:
        return config
    played = {name: task.played_by(engine) for name, task in config.tasks.items()}
    return dataclasses.replace(config, tasks=played)


def _refuse_unknown_arm(label: str, arms: Iterable[str], where: str) -> None:
    known = dict.fromkeys([*map(str, arms), *agent_names(), *ORDERS])
    if label not in known:
        raise ConfigError(f"{where}: unknown {label!r}{nearest(label, known)}")


def _of_other_task(text: str, tasks: Sequence[str]) -> bool:
    """Whether a value is set of a task that is not played."""
    keys = text.partition("=")[0].split(".")
    return keys[0] == "tasks" and len(keys) > 1 and keys[1] not in tasks
