"""Fitting measured steps, and the command that does it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from agents.fit_latency_command import main
from agents.step_fit import fit_steps
from agents.step_waves import Limits, waves
from ewsjf_env.config import ConfigError
from ewsjf_env.engine.latency import LatencyModel
from ewsjf_env.engine.step_samples import MeasuredStep

TRUTH = LatencyModel.load("qwen2.5-7b_h200")


def measured(count: int, hiccups: int = 0, overlapped: bool = True) -> list[MeasuredStep]:
    """Steps of `TRUTH` with 2 % noise; some take a second more."""
    random = np.random.default_rng(0)
    steps = []
    for i in range(count):
        prefill = 0 if i % 2 else int(random.integers(1, 2049))
        decodes = int(random.integers(1, 200))
        context = decodes * int(random.integers(64, 2048))
        attention = prefill * (int(random.integers(0, 4096)) + prefill / 2)
        seconds = TRUTH.step_s(prefill, decodes, context, attention)
        seconds *= float(np.exp(0.02 * random.standard_normal()))
        seconds += 1.0 if i < hiccups else 0.0
        step = MeasuredStep(float(i), seconds, overlapped, prefill, attention, decodes, context)
        steps.append(step)
    return steps


def test_steps_that_were_not_fitted_are_told() -> None:
    fit = fit_steps(LatencyModel.load("llama3-8b_h100"), measured(800))
    for kind in ("all", "prefill", "decode"):
        # The median of |N(0, 0.02)| is 0.0135.
        assert fit.error[kind]["median"] == pytest.approx(0.0135, rel=0.25)
    assert fit.error["all"]["steps"] == 400
    assert abs(fit.error["all"]["bias"] or 0.0) < 0.01
    assert fit.steps == {"measured": 800, "overlapped_share": 1.0, "fitted": 400}


def test_a_host_that_pauses_does_not_bend_the_fit() -> None:
    """Every tenth result comes late, and the next one at once after it."""
    steps = measured(800)
    for i in range(0, 800, 10):
        late = 0.98 * steps[i + 1].seconds
        steps[i] = dataclasses.replace(steps[i], seconds=steps[i].seconds + late)
        steps[i + 1] = dataclasses.replace(steps[i + 1], seconds=steps[i + 1].seconds - late)
    steps += [dataclasses.replace(step, seconds=30.0) for step in steps[:8]]
    fit = fit_steps(LatencyModel.load("llama3-8b_h100"), steps)
    assert fit.error["all"]["median"] == pytest.approx(0.0135, rel=0.5)


def test_host_work_is_left_out_where_most_steps_overlapped() -> None:
    slow = [dataclasses.replace(s, seconds=2 * s.seconds) for s in measured(100, overlapped=False)]
    fit = fit_steps(TRUTH, [*slow, *measured(400)])
    assert fit.steps["overlapped_share"] == 0.8
    assert fit.error["all"]["steps"] == 200
    assert fit_steps(TRUTH, slow).error["all"]["steps"] == 50


def test_too_few_steps_are_refused() -> None:
    with pytest.raises(ConfigError, match="at least 8"):
        fit_steps(TRUTH, measured(20))
    with pytest.raises(ConfigError, match="at least 8"):
        fit_steps(TRUTH, [])


def test_waves_stay_within_the_limits_of_the_engine() -> None:
    found = list(waves(Limits(requests=8, prompt_tokens=500)))
    *equal, mixed = found
    assert max(len(wave) for wave in equal) == 8
    assert max(int(wave.prompt_tokens.max()) for wave in found) <= 500
    sizes = [(len(wave), int(wave.prompt_tokens[0])) for wave in equal]
    assert len(set(sizes)) == len(sizes) >= 5
    assert mixed.arrival_s[-1] > 0 and len(set(mixed.prompt_tokens.tolist())) > 10


def test_the_command_writes_a_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log, out = tmp_path / "steps.jsonl", tmp_path / "mine.json"
    log.write_text("".join(step.to_line() for step in measured(400)), encoding="utf-8")
    command = [str(log), "--like", "llama3-8b_h100", "--out", str(out), "--name", "mine"]
    assert main(command) == 0
    model = LatencyModel.load(out)
    assert model.machine.name == "mine"
    assert model.step_s(1024, 0, 0, 2**19) == pytest.approx(
        TRUTH.step_s(1024, 0, 0, 2**19), rel=0.03
    )
    printed = capsys.readouterr().out
    assert json.loads(printed[: printed.rindex("}") + 1])["steps"]["measured"] == 400


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("nowhere.jsonl --like llama3-8b_h100 --out a.json", "nowhere.jsonl: cannot be read"),
        ("bad.jsonl --like llama3-8b_h100 --out a.json", "bad.jsonl: line 1: is no measured"),
        ("bad.jsonl --like llama3-8b_h10 --out a.json", "unknown preset 'llama3-8b_h10'"),
        ("bad.jsonl --like llama3-8b_h100 --out a.txt", "--out: a.txt must be a file ending in"),
        ("bad.jsonl --out a.json", "--like"),
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
    Path("bad.jsonl").write_text("{}\n", encoding="utf-8")
    assert main(arguments.split()) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not Path("a.json").exists()
