"""The command `ewsjf compare`: its files, its errors, and what it starts without."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from agents.cli.compare import main
from agents.experiments.source import repeats_of
from agents.experiments.tuners.config import ComparisonConfig
from ewsjf_env.config import from_dict
from ewsjf_env.env.task import load_tuning
from ewsjf_env.shipped import configs_folder
from tests.agents.experiments.comparisons import ENV
from tests.agents.experiments.evaluations import write_trace

TASKS = {"fake": {"env": ENV, "held_out": {"seeds": 2, "windows": 2}}}


CONFIG = {"windows": 6, "tasks": TASKS, "curve": [1, 3, 6], "curve_arms": ["random"]}


def config(**changes: Any) -> ComparisonConfig:
    return from_dict(ComparisonConfig, {**CONFIG, **changes}, "compare")


def test_a_tuner_of_one_s_own_takes_its_settings_from_an_arm_on_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As README shows it, and a wrong setting is one line."""
    path = tmp_path / "compare.yaml"
    path.write_text(yaml.safe_dump(CONFIG))
    words = ["--config", str(path), "--agents", "hill,default", "--seeds", "1"]
    words += ["--out", str(tmp_path / "out"), "--set"]
    arm = "arms.hill={{agent: docs/examples/own_tuner.py:HillClimber, settings: {{{}: 0.3}}}}"
    assert main([*words, arm.format("step")]) == 0
    assert "| hill | 6 |" in capsys.readouterr().out
    run = yaml.safe_load((tmp_path / "out/runs/fake/hill/seed_0000/config.yaml").read_text())
    assert run["agent"]["step"] == 0.3
    assert main([*words, arm.format("stp")]) == 2
    error = capsys.readouterr().err
    assert "unknown key 'stp'; nearest valid name: 'step'" in error
    assert error.count("\n") == 1


def test_the_command_writes_all_three_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "compare.yaml"
    path.write_text(yaml.safe_dump(CONFIG))
    arguments = ["--config", str(path), "--agents", "random,default", "--seeds", "2"]
    assert main([*arguments, "--out", str(tmp_path / "out"), "--dry-run"]) == 0
    assert "4 runs, 24 windows" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 0
    assert "| random |" in capsys.readouterr().out
    data = json.loads((tmp_path / "out/comparison.json").read_text())
    assert set(data) == {"meta", "runs", "summary"}
    assert len(data["runs"]) == 4
    assert (tmp_path / "out/comparison.md").read_text().startswith("# Comparison of tuners")
    assert (tmp_path / "out/comparison.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--agents", "bays"], "nearest valid name: 'bayes'"),
        (["--agents", ","], "--agents: the list is empty"),
        (["--agents", "random,random"], "'random' occurs twice"),
        (["--seeds", "0"], "--seeds: 0 is outside"),
        (["--jobs", "99999999", "--dry-run"], "--jobs: 99999999 is outside [1, 1024]"),
        (["--out", __file__], "test_compare_command.py is a file, expected a folder"),
        (["--tasks", "fak"], "nearest valid name: 'fake'"),
        (["--agent", "random"], "nearest valid name: '--agents'"),
        (["--config", "none.yaml"], "none.yaml: cannot be read"),
    ],
)
def test_bad_arguments_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    path = tmp_path / "compare.yaml"
    path.write_text(yaml.safe_dump(CONFIG))
    assert main(["--config", str(path), "--out", str(tmp_path / "out"), *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_what_only_other_tasks_need_may_be_missing(tmp_path: Path) -> None:
    path = tmp_path / "compare.yaml"
    tasks = {**TASKS, "recording": {"env": {"workload": str(tmp_path / "missing.yaml")}}}
    path.write_text(yaml.safe_dump({**CONFIG, "tasks": tasks}))
    words = ["--config", str(path), "--agents", "random", "--out", str(tmp_path), "--dry-run"]
    assert main([*words, "--tasks", "fake"]) == 0
    assert main(words) == 2
    path.write_text(yaml.safe_dump({**CONFIG, "tasks": {1: TASKS["fake"]}}))
    assert main([*words, "--tasks", "1"]) == 0
    assert main([*words, "--tasks", "2"]) == 2


def test_without_a_configuration_all_traffic_is_synthetic(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)  # as in a clone, or with a wheel: without recordings
    assert main(["--out", "o", "--dry-run"]) == 0
    assert "task bursts: bursty, windows of 40 s" in capsys.readouterr().out
    Path("my_log.csv").write_text("arrival_s,prompt_tokens,output_tokens\n0,10,10\n1,10,10\n")
    value = "tasks.bursts.env.workload=my_log.csv"  # as the configuration says in its first lines
    assert value.split("=")[0] in (configs_folder() / "compare.yaml").read_text()
    assert main(["--out", "o", "--dry-run", "--set", value]) == 0
    assert "task bursts: my_log.csv" in capsys.readouterr().out


def test_a_missing_recording_is_told_with_the_ways_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["--config", "compare_recorded", "--agents", "random", "--dry-run", "--out", "o"]
    assert main(words) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    where = "tasks: azure_code: env: workload: "
    file = "azure_code_first.yaml: trace: traces/azure2023_code_a.csv.gz: no such file"
    assert where in error and file in error and "docs/recordings.md" in error
    assert (Path(__file__).parents[3] / "docs/recordings.md").is_file()
    choice = "--tasks paper_overload,jump"
    value = "tasks.azure_code.env.workload"
    assert f"{choice} leaves the task out" in error and f"--set {value}=FILE" in error
    assert main([*words, *choice.split()]) == 0
    assert main([*words, "--set", f"{value}=bursty"]) == 2
    assert "azure_code: held_out: workload: " in capsys.readouterr().err
    more = "tasks.azure_code.held_out.workload=bursty"
    assert main([*words, "--set", f"{value}=bursty", "--set", more]) == 0
    Path("traces").mkdir()
    rows = "".join(f"{i},100,10\n" for i in range(20))
    trace = "arrival_s,prompt_tokens,output_tokens\n" + rows
    Path("traces/azure2023_code_a.csv.gz").write_bytes(gzip.compress(trace.encode()))
    assert main(words) == 0


@pytest.mark.parametrize(
    ("agents", "message"),
    [
        ("bays", "error: --agents: unknown 'bays'; nearest valid name: 'bayes'"),
        ("no_module:Tuner", "no_module"),
        ("random,random", "error: --agents: 'random' occurs twice"),
    ],
)
def test_agents_are_refused_before_traffic_is_read(
    agents: str,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["--config", "compare_recorded", "--out", "o"]
    assert main([*words, "--agents", agents]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "azure" not in error


def test_a_recording_that_is_repeated_is_warned_of_and_gives_no_probability(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A log of 40 s under windows of 12 s, seven and more of them: through it several times."""
    log = write_trace(tmp_path / "log.csv")
    env = {**ENV, "workload": str(log), "rates_per_s": [10.0]}
    path = tmp_path / "compare.yaml"
    path.write_text(
        yaml.safe_dump({"windows": 2, "tasks": {"short": {**TASKS["fake"], "env": env}}})
    )
    words = ["--config", str(path), "--agents", "random,default", "--seeds", "5"]
    assert main([*words, "--out", str(tmp_path / "out")]) == 0
    shown = capsys.readouterr().out
    meta = json.loads((tmp_path / "out/comparison.json").read_text())["meta"]
    passes = repeats_of(load_tuning(env))
    assert passes > 1
    assert meta["trace_repeats"] == {"short": passes}
    assert shown.count(f"was repeated up to {passes} times: the seeds") == 1
    assert "P(better" not in shown
    assert "| p |" not in shown
