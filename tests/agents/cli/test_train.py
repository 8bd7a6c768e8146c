"""`train.py`: what it accepts, what it says, and what it leaves behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from agents.cli.train import main
from agents.core.registry import AGENTS
from agents.runs.folder import RunDir
from tests.agents.run_folders import SHORT, go_on, records_of

ROOT = Path(__file__).parents[3]
FAKE = str(ROOT / "configs/env/tuning_fake.yaml")


@pytest.fixture
def task(tmp_path: Path) -> str:
    path = tmp_path / "task.yaml"
    path.write_text(yaml.safe_dump(dict(SHORT)))
    return str(path)


@pytest.fixture
def run(tmp_path: Path, task: str, capsys: pytest.CaptureFixture[str]) -> Path:
    folder = tmp_path / "run"
    arguments = ["--agent", "sobol", "--config", task, "--windows", "2", "--out", str(folder)]
    assert main(arguments) == 0
    capsys.readouterr()
    return folder


def error(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line about bad arguments."""
    assert main(arguments) == 2
    printed = capsys.readouterr()
    lines = printed.err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    return lines[0]


def test_a_run_and_its_folder(
    tmp_path: Path, task: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    arguments = ["--agent", "random", "--config", task, "--seed", "5", "--windows", "3"]
    assert main([*arguments, "--context", "burst_index, oldest_age_s", "--out", str(folder)]) == 0
    printed = capsys.readouterr()
    assert f"run: {folder}" in printed.err
    assert "3/3" in printed.err
    assert "violations=" in printed.err
    assert "best: lambda=" in printed.err
    assert printed.out.splitlines()[0].startswith("3 windows, ")
    assert f"tensorboard --logdir {folder}" in printed.out
    (events,) = (path.name for path in folder.glob("events.out.tfevents.*"))
    assert {path.name for path in folder.iterdir()} == {
        *(".lock", "command.txt", "config.yaml", events, "progress.csv"),
        *("summary.json", "timing.jsonl", "versions.json", "windows.jsonl"),
    }
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["agent"] == {"name": "random", "draw": "uniform"}
    assert (config["seed"], config["windows"]) == (5, 3)
    assert config["context"] == ["burst_index", "oldest_age_s"]
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["windows"] == 3
    assert set(summary["recommendation"]) == {"lambda", "mu"}
    assert [record.window for record in records_of(folder)] == [0, 1, 2]


def test_resume_goes_on(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--resume", str(run), "--windows", "3"]) == 0
    assert "serving 2 windows of episode 0 again" in capsys.readouterr().err
    assert [record.window for record in records_of(run)] == [0, 1, 2]
    assert len((run / "command.txt").read_text().splitlines()) == 2
    assert "fewer than the 3 that are done" in error(["--resume", str(run)], capsys)


def test_a_dry_run_prints_the_parameters_and_writes_nothing(
    tmp_path: Path,
    run: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    assert main(["--agent", "bayes", "--config", FAKE, "--windows", "7", "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "agent bayes, seed 0, 7 windows of 30 s after 5 s" in shown
    rows = [line.split()[0] for line in shown.splitlines()]
    assert rows[rows.index("parameter") :] == [
        *("parameter", "lambda", "mu", "k", "w_fair", "delta", "alpha", "homogeneity"),
        *("q_max", "overdue_share"),
    ]
    assert main(["--agent", "sac", "--out", str(tmp_path / "no"), "--dry-run"]) == 0
    capsys.readouterr()
    assert main(["--resume", str(run), "--windows", "9", "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "agent sobol, seed 0, 9 windows of 5 s after 1 s" in shown
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")} == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "--agent: missing; see --help for the list, or --resume a run"),
        ("--agent sobol --config lat.yaml", "simulated: latency: unknown preset 'llama3'; nearest"),
        ("--agent sobol --config own.yaml", "own.yaml: unknown key 'engine_settings'; nearest"),
        ("--agent sobol --config long.yaml", "error: workload: 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaa"),
        ("--agent sobol --config many.yaml", "many.yaml: windows: 100000000000000000000000000"),
        ("--agent sobol --config inf.yaml", "inf.yaml: window_s: 20 windows are no number of sec"),
        ("--agent sobol --config nul.yaml", "nul.yaml: not valid YAML: a string with a NUL"),
        ("--agent sobol --config none.yaml", "none.yaml: safety: expected a mapping, got nothing"),
        ("--agent bayes --storage=", "--storage: the name is empty, expected a journal file or a"),
        ("--engine remote --url x", "--url: 'x' is not like http://127.0.0.1:8000"),
        ("--agent bays", "agent: unknown 'bays'; nearest valid name: 'bayes'"),
        ("--agent sobol --windows 0", "--windows: 0 is outside [1, inf)"),
        ("--agent sobol --windows -3", "--windows: -3 is outside [1, inf)"),
        ("--agent sobol --windows many", "--windows: 'many' is not an integer"),
        ("--agent sobol --seed -1", "--seed: -1 is outside [0, inf)"),
        ("--agent sobol --windos 3", "unknown option '--windos'; nearest valid name"),
        ("--agent sobol --context burst", "context: unknown feature 'burst'; nearest valid name"),
        (
            "--agent sobol --engine fak",
            "--engine: 'fak' is neither an engine nor a preset; nearest valid name: 'fake'",
        ),
        ("--agent sobol --engine llama3-8", "preset; nearest valid name: 'llama3-8b_h100'"),
        ("--agent sobol --engine qqq", "preset; valid names: compiled, fake, live, llama2-13b_a"),
        ("--agent sobol --config=", "--config: the name is empty; valid names: h200, live"),
        ("--agent sobol --config nowhere", "--config: 'nowhere' is neither a file nor the name"),
        ("--agent sobol --config .", "error: .: is a directory, not a regular file"),
        ("--agent sobol --agent-config qqq", "--agent-config: 'qqq' is neither a file nor the na"),
        ("--agent bays", "--agent: unknown 'bays'; nearest valid name: 'bayes'"),
        ("--agent sobol --config ok.yaml --engine fake --set windows=0", "--set windows: 0 is out"),
        (
            "--agent sobol --config neg.yaml --engine fake",
            "error: neg.yaml: window_s: -3 is outsid",
        ),
        ("--agent sobol --config nowhere.yaml", "nowhere.yaml: cannot be read: No such file or"),
        ("--agent sobol --config bad.yaml", "bad.yaml: unknown key 'enigne'; nearest valid name"),
        ("--agent sobol --config aim.yaml", "unknown objective 'goodputt'; nearest valid name"),
        ("--agent sobol --config load.yaml --out new", "workload: 'paper_mx' is neither"),
        ("--agent sobol --config rate.yaml --out new", "requests are more than 20000000"),
        ("--agent sobol extra", "unknown argument 'extra'"),
        ("--agent= --config ok.yaml --out new", "agent: unknown ''"),
        ("--agent sobol --config huge.yaml --out new", "warmup_s: expected a number up to"),
        ("--agent bayes --agent-config agent.yaml", "agent.yaml: unknown key 'startup'"),
        (
            "--agent sobol --config ok.yaml --out ok.yaml",
            "--out: ok.yaml is a file, expected a folder",
        ),
        ("--agent sobol --config ok.yaml --out=", "--out: the name is empty, expected a folder"),
        ("--agent sobol --config ok.yaml --out ok.yaml/x", "ok.yaml/x: cannot be written"),
        ("--agent sobol --config ok.yaml --out /proc/run", "/proc/run: cannot be written"),
        ("--agent sobol --config ok.yaml --out run", "run: holds a run already; --resume"),
        ("--resume ok.yaml", "ok.yaml: is a file, expected the folder of a run"),
        ("--resume nowhere", "nowhere: holds no run (config.yaml is missing)"),
        ("--resume run --windows 0", "--windows: 0 is outside [1, inf)"),
        ("--resume run --windows 1", "windows: 1 is fewer than the 2 that are done"),
        ("--resume run --agent bayes", "--agent: cannot be changed by --resume"),
        ("--resume run --seed 1", "--seed: cannot be changed by --resume"),
        ("--resume run --config ok.yaml", "--config: cannot be changed by --resume"),
        ("--resume run --agent-config ok.yaml", "--agent-config: cannot be changed"),
        ("--resume run --engine fake", "--engine: cannot be changed by --resume"),
        ("--resume run --url http://h:1", "--url: cannot be changed by --resume"),
        ("--agent sobol --url http://h:1", "--url: 'http://h:1' needs --engine remote"),
        ("--engine remote", "--url: missing, and no remote.url is in --config"),
        ("--agent bayes_twin --storage s.journal", "shared with nobody"),
        (
            "--engine remote --url http://h:1 --url http://h:1/",
            "remote: urls: 'http://h:1' occurs twice",
        ),
        ("--resume run --context burst_index", "--context: cannot be changed by --resume"),
        ("--resume run --out other", "--out: cannot be changed by --resume"),
        ("--resume run --seed 1 --dry-run", "--seed: cannot be changed by --resume"),
    ],
)
def test_bad_input_is_one_line_and_loses_nothing(
    tmp_path: Path,
    run: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: str,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("ok.yaml").write_text(yaml.safe_dump(dict(SHORT)))
    Path("bad.yaml").write_text("enigne: fake\n")
    Path("aim.yaml").write_text("objective: {kind: goodputt}\n")
    Path("lat.yaml").write_text("simulated: {latency: llama3}\n")
    Path("own.yaml").write_text("engine: fake\nengine_settings: {}\n")
    Path("long.yaml").write_text(f"engine: fake\nworkload: {5000 * 'a'}\n")
    Path("many.yaml").write_text(f"engine: fake\nwindows: 1{400 * '0'}\n")
    Path("inf.yaml").write_text("engine: fake\nwindow_s: 1.0e+308\n")
    Path("nul.yaml").write_text('engine: fake\nsafety: {kill_file: "a\\0b"}\n')
    Path("none.yaml").write_text("engine: fake\nsafety:\n")
    Path("neg.yaml").write_text("window_s: -3\n")
    Path("agent.yaml").write_text("startup: 2\n")
    Path("rate.yaml").write_text("engine: fake\nrates_per_s: [1000000000]\n")
    Path("load.yaml").write_text("engine: fake\nworkload: paper_mx\n")
    Path("huge.yaml").write_text(f"engine: fake\nwarmup_s: 1{400 * '0'}\n")
    before = (run / "windows.jsonl").read_bytes()
    started = (run / "command.txt").read_bytes()
    assert message in error(arguments.split(), capsys)
    assert (run / "command.txt").read_bytes() == started
    assert (run / "windows.jsonl").read_bytes() == before
    assert not Path("runs").exists()
    assert not Path("new").exists()
    assert go_on(run, 2)["windows"] == 2  # still a run to resume


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("schema_version", 99, "schema_version: 99 is not 2: this run was started with a newer"),
        ("parameter_space_hash", "0123", "parameter_space_hash: '0123' is not"),
        ("environment", "ewsjf/SchedulerTuningFake-v7", "environment: 'ewsjf/SchedulerTuningFake"),
    ],
)
def test_a_run_of_another_version_is_not_resumed(
    run: Path, capsys: pytest.CaptureFixture[str], key: str, value: Any, message: str
) -> None:
    data = yaml.safe_load((run / "config.yaml").read_text())
    (run / "config.yaml").write_text(yaml.safe_dump({**data, key: value}))
    before = (run / "windows.jsonl").read_bytes()
    assert message in error(["--resume", str(run), "--windows", "3"], capsys)
    assert (run / "windows.jsonl").read_bytes() == before


def test_a_damaged_window_is_told_before_anything_begins(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = run / "windows.jsonl"
    record, *rest = path.read_text().splitlines()
    damaged = {**json.loads(record), "plan": None}
    path.write_text("\n".join([json.dumps(damaged), *rest, ""]))
    before = path.read_bytes()
    message = error(["--resume", str(run), "--windows", "3"], capsys)
    assert message == f"error: {path}: line 1: plan: expected a mapping, got nothing"
    assert path.read_bytes() == before


def test_ctrl_c_when_all_windows_are_done(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(run: RunDir, summary: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(RunDir, "write_summary", interrupted)
        assert main(["--resume", str(run), "--windows", "3"]) == 130
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("interrupted: all 3 windows are done; the result: ")
    assert last.endswith(f" train --resume {run} --windows 3")
    assert main(["--resume", str(run), "--windows", "3"]) == 0
    assert capsys.readouterr().out.startswith("3 windows, ")


def test_an_engine_that_fails_for_good_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "task.yaml"
    path.write_text(yaml.safe_dump({**SHORT, "fake": {"fail_at_s": 1.0}}))
    arguments = ["--agent", "default", "--config", str(path), "--out", str(tmp_path / "run")]
    assert main(arguments) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == "error: the fake engine died at 1 s, as configured"


def test_the_script_has_help_of_one_screen() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts/train.py"), "--help"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    lines = done.stdout.splitlines()
    assert len(lines) <= 36
    assert max(map(len, lines)) <= 80
    assert all(f"  {name} " in done.stdout for name in AGENTS)
