"""A tuning run as an export sees it: read off its folder, never written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agents.bayes.fleet import Recorded
from agents.core.agent import Agent
from agents.core.registry import AgentSetting, make_agent
from agents.core.window import WindowRecord
from agents.runs.config import RunConfig
from agents.runs.folder import VERSIONS, RunDir
from ewsjf_env.config import ConfigError
from ewsjf_env.env.task import Task


@dataclass(frozen=True)
class RunView:
    """A tuning run to export from.

    Attributes:
        name: of its folder.
        config: what the run is.
        records: windows, in order.
        versions: of the code that ran it; empty when unknown.
        shared: what it learnt from other runs.
        path: of its folder; None: there is none.
    """

    name: str
    config: RunConfig
    records: tuple[WindowRecord, ...]
    versions: Mapping[str, Any] = field(default_factory=dict)
    shared: Recorded | None = None
    path: Path | None = None

    @property
    def task(self) -> Task:
        """The task that was tuned."""
        return self.config.task

    @property
    def measured(self) -> list[WindowRecord]:
        """The windows that the agent could learn from."""
        return [record for record in self.records if record.measured]

    def agent(self) -> Agent:
        """The agent as it was after the last window, by showing it all of them again."""
        config = self.config
        setting = AgentSetting(
            config.task.space(),
            len(config.sees),
            config.seed,
            shared=self.shared,
            task=config.task,
            kept=self.path,
        )
        agent = make_agent(config.agent, setting, config.settings)
        for record in self.records:
            agent.observe(record.transition())
        return agent


def open_view(path: str | Path) -> RunView:
    """Read the folder of a run.

    Raises:
        ConfigError: no run, a damaged one, or one without a window.
    """
    run = RunDir.open(path)
    view = RunView(
        name=run.path.resolve().name,
        config=run.config,
        records=tuple(run.windows()),
        versions=_versions(run.path / VERSIONS),
        shared=Recorded(run.path),
        path=run.path,
    )
    if not view.measured:
        raise ConfigError(f"{path}: no window was measured, there is nothing to export")
    return view


def _versions(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}
