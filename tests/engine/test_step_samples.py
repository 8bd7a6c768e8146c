"""Measured steps: what is written, what is read back, and what a real scheduler logs."""

from __future__ import annotations

from pathlib import Path

import pytest

from ewsjf_env.config import ConfigError
from ewsjf_env.engine.steps.step_samples import MeasuredStep, read_steps

STEP = MeasuredStep(12.5, 0.02, True, 100, 5000.0, 3, 700)


def test_lines_are_read_back(tmp_path: Path) -> None:
    path = tmp_path / "steps.jsonl"
    path.write_text(STEP.to_line() * 2, encoding="utf-8")
    assert read_steps(path) == [STEP, STEP]


def test_what_a_kill_has_cut_off_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "steps.jsonl"
    path.write_text(STEP.to_line() + STEP.to_line()[:40], encoding="utf-8")
    assert read_steps(path) == [STEP]


@pytest.mark.parametrize(
    "line",
    ["{}\n", "nonsense\n", STEP.to_line().replace("0.02", "-1"), "[1, 2]\n", '{"a":' * 5000 + "\n"],
)
def test_a_line_that_is_no_step_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "steps.jsonl"
    path.write_text(STEP.to_line() + line, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"steps.jsonl: line 2: is no measured step"):
        read_steps(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere.jsonl: cannot be read"):
        read_steps(tmp_path / "nowhere.jsonl")
