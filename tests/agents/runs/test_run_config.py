"""A run is described by one file: whole, checked, and refused where it means something else."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from agents.core.registry import AGENTS
from agents.runs.config import DEFAULT_CONTEXT, RunConfig, make_run_config
from agents.runs.folder import default_folder
from agents.runs.traffic_shift import ShiftSettings
from ewsjf_env.config import ConfigError
from tests.agents.run_folders import SHORT


@pytest.mark.parametrize("agent", AGENTS)
def test_a_file_gives_the_same_run(agent: str) -> None:
    run = make_run_config(
        agent, SHORT, seed=7, windows=9, context=("burst_index",), shift=ShiftSettings(slack=2.0)
    )
    text = yaml.safe_dump(run.to_dict())
    assert RunConfig.from_dict(yaml.safe_load(text), "config.yaml") == run


def test_what_agents_see() -> None:
    assert make_run_config("bayes", SHORT).sees == DEFAULT_CONTEXT
    assert make_run_config("bayes", SHORT, context=()).sees == ()
    seen = make_run_config("sac", SHORT).sees
    assert set(DEFAULT_CONTEXT) < set(seen)
    assert len(seen) > 20


def test_settings_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "bayes.yaml"
    path.write_text("startup_points: 2\n")
    assert make_run_config("bayes", SHORT, path).settings.startup_points == 2
    path.write_text("startup_pionts: 2\n")
    with pytest.raises(ConfigError, match=r"bayes.yaml: .*nearest valid name: 'startup_points'"):
        make_run_config("bayes", SHORT, path)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"agent": "bays"}, "agent: unknown 'bays'; nearest valid name: 'bayes'"),
        ({"windows": 0}, r"windows: 0 is outside \[1, inf\)"),
        ({"seed": -1}, r"seed: -1 is outside \[0, inf\)"),
        ({"context": ("burst",)}, "unknown feature 'burst'; nearest valid name: 'burst_index'"),
        ({"context": ("burst_index", "burst_index")}, "a feature occurs twice"),
        ({"task": {"engin": "fake"}}, "unknown key 'engin'; nearest valid name: 'engine'"),
        (
            {"task": {"objective": {"kind": "papr"}}},
            "objective 'papr'; nearest valid name: 'paper'",
        ),
        ({"task": {"tuned": ["lamda"]}}, "'lamda'; nearest valid name: 'lambda'"),
        ({"task": {"windows": 0}}, r"windows: 0 is outside"),
    ],
)
def test_bad_input(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_run_config(**{"agent": "default", "task": SHORT, **fields})


def test_the_folder_of_a_run() -> None:
    run = make_run_config("sobol", {**SHORT, "workload": "configs/workloads/bursty.yaml"}, seed=12)
    folder = default_folder(run, datetime(2026, 7, 1, 8, 30, 5, tzinfo=UTC))
    assert folder == Path(
        "runs/ewsjf_SchedulerTuningFake-v0/sobol/bursty/seed_0012__20260701T083005Z"
    )
