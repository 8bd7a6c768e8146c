"""Small tuning runs on the fake engine, as folders."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agents.core.window import WindowRecord
from agents.runs.config import make_run_config
from agents.runs.folder import RunDir
from agents.runs.loop import tune

TASK: Mapping[str, Any] = {
    "engine": "fake",
    "fake": {"optimum_seed": 1, "active": 2, "sensitivity": 6.0, "noise_sigma": 0.05},
    "workload": "mixed",
    "rates_per_s": [6.0],
    "tuned": ["lambda", "mu"],
    "windows": 4,
    "window_s": 20.0,
    "settle_s": 4.0,
    "warmup_s": 5.0,
}

SHORT: Mapping[str, Any] = {
    **TASK,
    "rates_per_s": [4.0],
    "window_s": 5.0,
    "settle_s": 1.0,
    "warmup_s": 2.0,
}
"""Windows of a few milliseconds, where no result matters."""

GUARDED: Mapping[str, Any] = {**SHORT, "safety": {"enabled": True, "abort_after_s": 1.0}}


def make_run(
    folder: Path,
    agent: str,
    windows: int,
    /,
    context: tuple[str, ...] = (),
    settings: Mapping[str, Any] | None = None,
    seed: int = 0,
    **changes: Any,
) -> Path:
    """Tune by `agent` and leave the run in `folder`; `changes` replace keys of `TASK`."""
    config = make_run_config(
        agent, {**TASK, **changes}, settings, seed=seed, windows=windows, context=context
    )
    run = RunDir.create(folder, config)
    try:
        tune(run, windows)
    finally:
        run.close()
    return folder


def go_on(folder: Path, windows: int) -> dict[str, Any]:
    """Resume the run in `folder`; the summary."""
    run = RunDir.open(folder, lock=True)
    try:
        return tune(run, windows)
    finally:
        run.close()


def records_of(folder: Path) -> list[WindowRecord]:
    """The windows of the run in `folder`."""
    return RunDir.open(folder).windows()
