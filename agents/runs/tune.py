"""A tuning run as one call of Python, for those who do not want a command.

from agents import tune

tuned = tune({"workload": "mixed", "rates_per_s": [4.0]}, agent="bayes", windows=24)
print(tuned.recommendation)
tuned.policy.save("policy.json")
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agents.core.window import WindowRecord
from agents.runs.config import RunConfig, make_run_config
from ewsjf_env.config import ConfigError
from ewsjf_env.env.task import Task
from ewsjf_env.parameters import Value
from ewsjf_env.policy.policy import Policy

if TYPE_CHECKING:
    from agents.runs.loop import Progress


@dataclass(frozen=True)
class Tuned:
    """What a tuning run has found.

    Attributes:
        recommendation: the values to serve with, by parameter.
        policy: the task's policy with these values; `policy.save("policy.json")` writes the file
            that the scheduler serves.  `ewsjf export` first asks whether it is better for sure.
        records: one a window, in order: the lines of windows.jsonl.
        summary: as in summary.json: mean and worst reward, breaches, failures.
        config: what was run.
    """

    recommendation: dict[str, Value]
    policy: Policy
    records: list[WindowRecord]
    summary: dict[str, Any]
    config: RunConfig


def tune(
    task: Task | Mapping[str, Any] | str | Path | None = None,
    agent: str = "bayes",
    windows: int = 24,
    out: str | Path | None = None,
    seed: int = 0,
    settings: Mapping[str, Any] | str | Path | None = None,
    report: Callable[[Progress], None] = lambda progress: None,
    **fields: Any,
) -> Tuned:
    """Run a tuning run to its end.

    Args:
        task: what is tuned on which traffic: a `Task`, its fields, a YAML file or the name of one
            of ours (`"tuning"`); None: the default task.
        agent: a name of `AGENTS`, or `module:Class` of a tuner from outside.
        windows: in all, >= 1.
        out: folder of the run, to be resumed, exported and looked at; a run that is there already
            is continued if it is the same.  None: nothing is kept.
        seed: of traffic and proposals, >= 0.
        settings: of the agent: a mapping or a YAML file; None: its defaults.
        report: called after every window.
        fields: further fields of `RunConfig`, for example `context`.

    Raises:
        ConfigError: naming what is wrong; the folder of another run; a full disk.
    """
    config = make_run_config(agent, task, settings, seed=seed, windows=windows, **fields)
    if out is not None:
        return _tune(Path(out), config, report)
    with tempfile.TemporaryDirectory(prefix="ewsjf_run_") as folder:
        return _tune(Path(folder) / "run", config, report)


def _tune(folder: Path, config: RunConfig, report: Callable[[Progress], None]) -> Tuned:
    from agents.runs import folder as folders
    from agents.runs import loop

    if (folder / folders.CONFIG).is_file():
        run = folders.RunDir.open(folder, lock=True)
        if run.config != config:
            run.close()
            raise ConfigError(f"out: {folder} holds another run; name another folder")
    else:
        run = folders.RunDir.create(folder, config)
    try:
        summary = loop.tune(run, config.windows, report)
        values = summary["recommendation"]
        policy = config.task.start_policy().with_parameters(values, f"{config.agent}_tuned")
        return Tuned(values, policy, run.windows(), summary, config)
    finally:
        run.close()
