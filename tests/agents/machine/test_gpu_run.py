"""Measuring a machine: what is refused, and what is kept; stages on a server: gpu_run.sh."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agents.cli import gpu_run as gpu_command
from agents.cli.gpu_run import main
from agents.experiments.source import Source
from agents.machine import stages as gpu_stages
from agents.machine.plan import RESULT, GpuPlan, Measurement
from agents.machine.server import make_launch
from agents.machine.table import table
from ewsjf_env.config import ConfigError
from ewsjf_env.engine.simulated.latency import LatencyModel
from ewsjf_env.engine.stand_in.settings import ExecutorSettings
from ewsjf_env.engine.steps.step_samples import KEY

PLAN = GpuPlan(
    simulate=ExecutorSettings("llama3-8b_h100"),
    sources=(Source("paper_mix"),),
    loads=(0.9,),
    duration_s=4.0,
)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--simulate", "--out"),
        ("--out o --simulate --like llama3", "--like: unknown preset 'llama3'"),
        ("--out o --simulate --speed 0", "speed: 0.0 is outside (0, 1000]"),
        ("--out o --simulate --loads high", "--loads: 'high' is no list of numbers"),
        ("--out o --simulate --loads 0", "--loads: 0.0 is outside (0, 10]"),
        ("--out o --simulate --duration 0", "--duration: 0.0 is outside [1, 3600]"),
        ("--out o --simulate --stages step", "--stages: 'step' is not one of"),
        ("--out o --simulate --trace nowhere.csv", "nowhere.csv"),
        ("--out o --simulate --worklod x", "unknown option '--worklod'; nearest valid name"),
    ],
)
def test_bad_input_is_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: str,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments.split()) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not Path("o").exists()


def test_without_a_gpu_nothing_is_simulated_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # no nvidia-smi
    assert main(["--out", str(tmp_path / "o")]) == 2
    assert "no NVIDIA GPU answers here" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


def test_a_failed_stage_says_why_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """No server can start; what needs none is done all the same, and done once."""
    measured = []

    def broken(result: Measurement) -> None:
        raise ConfigError("no server today")

    monkeypatch.setattr(gpu_stages, "make_launch", broken)
    monkeypatch.setattr(gpu_command, "make_launch", broken)
    monkeypatch.setattr(gpu_stages, "measure_capacity", measured.append)  # takes a while
    out = tmp_path / "o"
    command = ["--out", str(out), "--simulate", "--workload", "paper_mix", "--short"]
    assert main(command) == 1
    found = json.loads((out / RESULT).read_text(encoding="utf-8"))
    assert found["device"] == "simulated"
    stages = found["stages"]
    assert {name for name in stages if stages[name]["ok"]} == {"machine", "capacity"}
    assert "no server today" in stages["steps"]["error"]
    assert "no serving runs to predict" in stages["prediction"]["error"]
    printed = capsys.readouterr()
    assert "steps: not done: ConfigError: no server today" in printed.out
    assert main(command) == 1
    assert len(measured) == 1
    capsys.readouterr()
    assert main([*command, "--loads", "0.5"]) == 2
    assert "holds a measurement of another plan" in capsys.readouterr().err


def test_requests_are_predicted_by_the_fitted_model(tmp_path: Path) -> None:
    """Measured here in virtual time itself, on a machine that is 10 % slower."""
    result = Measurement(tmp_path, PLAN, "simulated")
    result.note("capacity", requests_per_s={"paper_mix": 15.0})
    (case,) = (case for case in gpu_stages.cases(result) if case[1] == "fcfs")
    key, _, trace = case
    engine = gpu_stages.build_virtual(gpu_stages.simulated_config(result))
    engine.install(gpu_stages.parse_policy("fcfs"))
    engine.reset(trace)
    metrics = engine.run_window(PLAN.duration_s).to_dict()
    for name in ("ttft_mean_s", "ttft_p50_s", "ttft_p95_s"):
        metrics[name] += 0.008
    result.note("steps", front_end_s=0.008)
    metrics["ttft_p50_s"] *= 1.1
    result.note("serving", runs={key: {"metrics": metrics, "scheduler_share": 0.01}}, ok=True)
    gpu_stages.predict(result)
    found = result.stage("prediction")
    assert found["runs"][key]["error"]["ttft_p50_s"] == pytest.approx(1 / 1.1 - 1)
    assert found["runs"][key]["error"]["ttft_p95_s"] == 0.0
    assert found["absolute_error"]["ttft_p50_s"]["worst"] == pytest.approx(1 - 1 / 1.1)
    assert "nothing here was measured on a GPU" in table(result.data)
    assert f"| {key} |" in table(result.data)


def test_the_server_that_logs_steps_differs_in_its_scheduler_only(tmp_path: Path) -> None:
    result = Measurement(tmp_path, PLAN, "simulated")
    LatencyModel.load("llama3-8b_h100").save(tmp_path / "latency.json")
    plain = make_launch(result).command
    result.step_log = "steps.jsonl"
    logging = make_launch(result).command
    assert "ewsjf_env.serving.scheduler.EWSJFScheduler" in plain
    assert "ewsjf_env.engine.steps.step_log.StepLogScheduler" in logging
    assert not any(KEY in part for part in plain)
    assert any(KEY in part and str(tmp_path) in part for part in logging)
