from pathlib import Path

import pytest

from agents.cli.check_env import main

TASK = """
engine: fake
windows: 3
window_s: 5.0
settle_s: 1.0
warmup_s: 2.0
tuned: [k, q_max]
"""


def test_a_good_environment(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "task.yaml"
    path.write_text(TASK, encoding="utf-8")
    assert main(["--config", str(path)]) == 0
    printed = capsys.readouterr().out
    assert "ewsjf/SchedulerTuningFake-v0" in printed
    assert "Box(-1.0, 1.0, (2,), float32)" in printed
    assert "parameter_q_max" in printed


def test_bad_input_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "task.yaml"
    path.write_text("windos: 3\n", encoding="utf-8")
    assert main(["--config", str(path)]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 1
    assert "unknown key 'windos'" in errors[0]
    assert main(["--config", str(tmp_path / "none.yaml")]) == 2
