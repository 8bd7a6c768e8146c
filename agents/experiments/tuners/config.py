"""The configuration of a comparison: tuners and tasks, from a YAML file that explains its keys."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agents.core.registry import AGENTS
from agents.experiments.tuners.judging import HeldOut
from agents.runs.config import DEFAULT_CONTEXT, RunConfig, make_run_config
from ewsjf_env.config import ConfigError, check_range, from_dict, load_yaml, nearest
from ewsjf_env.env.task import SafetySettings, TuningConfig, load_tuning
from ewsjf_env.policy.policy import parse_policy
from ewsjf_env.workload import load_workload

_NAME = re.compile(r"\w[\w.-]*")


@dataclass(frozen=True)
class ArmConfig:
    """One tuner of the comparison, where it is more than an agent with its defaults.

    Attributes:
        agent: its name in the registry.
        settings: of the agent.
        windows: of its tuning runs; None: those of the task.
        guarded: tuned inside the safety guard.
        policy: tuned instead of the task's, as in `policy.parse_policy`; of the task's `tuned`
            and `frozen` parameters those that it has; all that it has where it has none of them.
    """

    agent: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    windows: int | None = None
    guarded: bool = False
    policy: str | None = None

    def __post_init__(self) -> None:
        if self.agent not in AGENTS:
            raise ConfigError(f"agent: unknown {self.agent!r}{nearest(self.agent, AGENTS)}")
        if self.windows is not None:
            check_range("windows", self.windows, 1)
        if self.settings.get("storage"):
            raise ConfigError("settings: storage: runs that are compared do not share a study")


@dataclass(frozen=True)
class TaskConfig:
    """One task.

    Attributes:
        env: what is tuned on which traffic: keys of `TuningConfig`.
        held_out: the traffic that judges final recommendations.
        windows: of a tuning run; None: those of the comparison.
        jump_window: the traffic jumps at this window of a run; None: it does not.
        after_jump: the traffic that judges what is recommended from there on.
    """

    env: Mapping[str, Any]
    held_out: HeldOut = field(default_factory=HeldOut)
    windows: int | None = None
    jump_window: int | None = None
    after_jump: HeldOut | None = None

    def __post_init__(self) -> None:
        if self.windows is not None:
            check_range("windows", self.windows, 1)
        if self.jump_window is not None:
            check_range("jump_window", self.jump_window, 1)
        if (self.jump_window is None) != (self.after_jump is None):
            raise ConfigError("after_jump: give it together with jump_window, or neither")

    @property
    def tuning(self) -> TuningConfig:
        """The environment."""
        return load_tuning(self.env, where="env")


@dataclass(frozen=True)
class ComparisonConfig:
    """A comparison of tuners.

    Attributes:
        tasks: by name.
        windows: of a tuning run, >= 1.
        context: features that agents with a context see.
        arms: tuners by label; a label that is not here is an agent with its defaults.
        curve: after how many windows recommendations are judged as well.
        curve_arms: of which arms; empty: of none.
    """

    tasks: Mapping[str, TaskConfig]
    windows: int = 24
    context: tuple[str, ...] = DEFAULT_CONTEXT
    arms: Mapping[str, ArmConfig] = field(default_factory=dict)
    curve: tuple[int, ...] = (1, 2, 4, 6, 8, 12, 16, 24)
    curve_arms: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.tasks:
            raise ConfigError("tasks: none is given")
        check_range("windows", self.windows, 1)
        for done in self.curve:
            check_range("curve", done, 0)
        for label in self.curve_arms:
            if label not in self.arms and label not in AGENTS:
                hint = nearest(label, [*self.arms, *AGENTS])
                raise ConfigError(f"curve_arms: unknown {label!r}{hint}")
        for key, names in (("tasks", self.tasks), ("arms", self.arms)):
            for name in names:
                if not _NAME.fullmatch(name):
                    raise ConfigError(
                        f"{key}: {name!r} is no name for a folder, expected letters, digits, "
                        "_, - and ., neither - nor . first"
                    )
        for name, task in self.tasks.items():
            try:
                for judged in (None, task.held_out, task.after_jump):
                    traffic = task.tuning if judged is None else judged.task(task.tuning)
                    load_workload(traffic.workload)
            except ConfigError as error:
                raise ConfigError(f"tasks: {name}: {error}") from None

    def arm(self, label: str) -> ArmConfig:
        """The tuner of a label; ConfigError naming the nearest for an unknown one."""
        if label in self.arms:
            return self.arms[label]
        if label not in AGENTS:
            hint = nearest(label, [*self.arms, *AGENTS])
            raise ConfigError(f"--agents: unknown {label!r}{hint}")
        return ArmConfig(label)

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


def load_comparison(path: str | Path, tasks: Sequence[str] | None = None) -> ComparisonConfig:
    """Read the YAML file; ConfigError naming what is wrong with it.

    Args:
        path: of the file.
        tasks: of these alone, so that nothing the others need has to be there; None: all.
    """
    data = load_yaml(path)
    for name in ("agents", "seeds", "jobs", "out"):
        if name in data:
            raise ConfigError(f"{path}: {name}: is not set here but by --{name}")
    if tasks is not None and isinstance(data.get("tasks"), Mapping):
        there = {str(name): task for name, task in data["tasks"].items()}
        for name in tasks:
            if name not in there:
                raise ConfigError(f"--tasks: unknown {name!r}{nearest(name, there)}")
        data = {**data, "tasks": {name: there[name] for name in tasks}}
    return from_dict(ComparisonConfig, data, str(path))
