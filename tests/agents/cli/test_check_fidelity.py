"""The command `check_fidelity.py`: its file, its exit codes, its one-line errors."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from agents.cli import check_fidelity
from agents.cli.check_fidelity import main
from ewsjf_env.engine.compiled.fidelity import compare_engines

KEYS = {
    "policy",
    "workload",
    "rate_per_s",
    "arrived_per_s",
    "seed",
    "requests",
    "first_tokens",
    "first_tokens_equal",
    "finishes",
    "finishes_equal",
    "preemptions",
    "preemptions_simulated",
    "largest_difference_s",
    "compiled_x_real_time",
    "simulated_x_real_time",
    "ratio",
}


def arguments(out: Path, *more: str) -> list[str]:
    return ["--workload", "paper_mix", "--duration", "10", "--out", str(out), *more]


def test_writes_a_row_a_case(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "fidelity.json"
    assert main(arguments(out, "--policies", "fcfs,ewsjf", "--seeds", "2", "--rate", "6")) == 0
    cases = json.loads(out.read_text())["cases"]
    assert [(c["policy"], c["seed"]) for c in cases] == [
        ("fcfs", 0),
        ("ewsjf", 0),
        ("fcfs", 1),
        ("ewsjf", 1),
    ]
    for case in cases:
        assert set(case) >= KEYS
        assert case["first_tokens_equal"] == case["first_tokens"] > 0
        assert case["finishes_equal"] == case["finishes"]
        assert case["rate_per_s"] == 6.0
        assert case["arrived_per_s"] == case["requests"] / 10.0 != 6.0
        assert case["largest_difference_s"] <= 1e-9
    shown = capsys.readouterr().out
    assert "requests are equal in 4 cases" in shown
    arrived = cases[0]["arrived_per_s"]
    assert f"paper_mix 6/s asked, {arrived:.3g}/s arrived, seed 0, fcfs: " in shown


def test_without_a_rate_the_traffics_own_is_asked(tmp_path: Path) -> None:
    rows = "".join(f"{0.25 * i},20,2\n" for i in range(40))
    log = tmp_path / "log.csv"
    log.write_text("arrival_s,prompt_tokens,output_tokens\n" + rows)
    out = tmp_path / "f.json"
    words = ["--policies", "fcfs", "--duration", "2", "--out", str(out)]
    for traffic, rate in (("--workload=mixed", 8.0), (f"--trace={log}", 4.0)):
        assert main([traffic, *words]) == 0
        (case,) = json.loads(out.read_text())["cases"]
        assert case["rate_per_s"] == rate
        assert case["arrived_per_s"] == case["requests"] / 2.0


def test_a_request_that_differs_is_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def differing(*given: Any) -> Any:
        return dataclasses.replace(compare_engines(*given), differing=1)

    monkeypatch.setattr(check_fidelity, "compare_engines", differing)
    assert main(arguments(tmp_path / "f.json", "--policies", "fcfs")) == 1
    assert "error: 1 of" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--seeds", "0"], "--seeds: 0 is outside"),
        (["--duration", "-1"], "--duration: -1.0 is outside"),
        (["--rate", "0"], "--rate: 0.0 is outside"),
        (["--trace", "log.csv"], "expected exactly one"),
        (["--policies", "fcsf"], "unknown policy 'fcsf'"),
        (["--durations", "3"], "unknown option '--durations'; nearest valid name: '--duration'"),
        (["--out", "nowhere/f.json"], "--out: nowhere/f.json must be a file"),
        (["--engine", "nowhere.yaml"], "nowhere.yaml"),
        (["--engine", "live"], "--engine: 'live' is not simulated: the fidelity check plays"),
        (["--engine", "remote"], "allowed: llama2-13b_a100-80g, llama3-8b_h100, "),
        (["--engine", "fake"], "h200, long_context, "),
        (["--engine", "configs/env/live.yaml"], "live.yaml: engine: 'live' is not one of compiled"),
        (["--engine", "tuning"], "--engine: 'tuning' is neither a preset nor a file of a machine"),
    ],
)
def test_bad_input_is_one_line(
    more: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(tmp_path / "f.json", *more)) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    assert message in error
