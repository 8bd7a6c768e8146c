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
        assert case["largest_difference_s"] <= 1e-9
    assert "requests are equal in 4 cases" in capsys.readouterr().out


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
    ],
)
def test_bad_input_is_one_line(
    more: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(tmp_path / "f.json", *more)) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    assert message in error
