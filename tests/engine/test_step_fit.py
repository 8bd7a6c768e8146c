"""Fitting measured steps, and the command that does it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from agents.cli.fit_latency import main
from agents.machine.step_traffic import ramp
from ewsjf_env.config import ConfigError
from ewsjf_env.engine.simulated.latency import LatencyModel
from ewsjf_env.engine.steps.step_fit import STRETCH_S, fit_steps, stretches
from ewsjf_env.engine.steps.step_samples import MeasuredStep

TRUTH = LatencyModel.load("qwen2.5-7b_h200")
NOISE = 0.02  # of a stretch, relative


def measured(count: int, overlapped: bool = True, late_s: float = 0.0) -> list[MeasuredStep]:
    """Steps of `TRUTH`, as traffic changes; every tenth result is seen late, the next is not."""
    random = np.random.default_rng(0)
    steps: list[MeasuredStep] = []
    now_s = 0.0
    for i in range(count):
        if i % 20 == 0:
            share, decodes = random.choice([0.0, 0.5, 1.0]), int(random.integers(1, 200))
            length = int(random.integers(64, 2048))
        prefill = int(random.integers(1, 2049)) if random.uniform() < share else 0
        context = decodes * length
        attention = prefill * (int(random.integers(0, 4096)) + prefill / 2)
        noise = float(np.exp(NOISE * random.standard_normal()))
        seconds = noise * TRUTH.step_s(prefill, decodes, context, attention)
        ran_late_s = steps[-1].at_s - now_s if steps else 0.0
        now_s += seconds
        late = late_s if i % 10 == 0 else max(0.0, ran_late_s - 0.9 * seconds)
        steps.append(
            MeasuredStep(
                at_s=now_s + late,
                seconds=seconds + late - ran_late_s,
                overlapped=overlapped,
                prefill_tokens=prefill,
                prefill_attention=attention,
                decode_requests=decodes,
                context_tokens=context,
            )
        )
    return steps


def test_stretches_that_were_not_fitted_are_told() -> None:
    steps = measured(3000)
    fit = fit_steps(LatencyModel.load("llama3-8b_h100"), steps)
    error = fit.error["stretches"]
    assert error["count"] == fit.steps["stretches"] - fit.steps["fitted_stretches"]
    assert (error["median"] or 1.0) < NOISE  # a stretch averages the noise of its steps
    assert abs(error["bias"] or 0.0) < 0.01
    for kind in ("prefill", "decode"):  # the median of |N(0, 0.02)| is 0.0135
        assert fit.error[kind]["median"] == pytest.approx(0.0135, rel=0.3)
    assert fit.steps["measured"] == 3000 and fit.steps["overlapped_share"] == 1.0


def test_results_that_are_seen_late_do_not_bend_the_fit() -> None:
    """By 15 ms, three times a decoding step."""
    fit = fit_steps(LatencyModel.load("llama3-8b_h100"), measured(3000, late_s=0.015))
    assert (fit.error["stretches"]["median"] or 1.0) < 0.03
    for work in ((0, 64, 60_000, 0.0), (2048, 64, 60_000, 4e6)):
        assert fit.model.step_s(*work) == pytest.approx(TRUTH.step_s(*work), rel=0.03)


def test_a_pause_is_no_stretch_and_no_step_is_in_two() -> None:
    steps = measured(400)
    steps = [*steps[:200], *(dataclasses.replace(s, at_s=s.at_s + 5.0) for s in steps[200:])]
    found = stretches(steps)
    assert all(sum(s.seconds for s in stretch) >= STRETCH_S for stretch in found)
    moments = [step.at_s for stretch in found for step in stretch]
    assert len(set(moments)) == len(moments) > 300
    assert not any(stretch[0] in steps[:200] and stretch[-1] in steps[200:] for stretch in found)


def test_host_work_is_left_out_where_most_steps_overlapped() -> None:
    alone = measured(100, overlapped=False)
    later_s = alone[-1].at_s
    rest = [dataclasses.replace(s, at_s=s.at_s + later_s) for s in measured(900)]
    assert all(step.overlapped for stretch in stretches([*alone, *rest]) for step in stretch)
    assert sum(map(len, stretches(alone))) > 90


def test_too_few_steps_are_refused() -> None:
    with pytest.raises(ConfigError, match="at least 8"):
        fit_steps(TRUTH, measured(20))
    with pytest.raises(ConfigError, match="at least 8"):
        fit_steps(TRUTH, [])


def test_the_rate_of_the_ramp_grows_and_lengths_stay_within_the_limits() -> None:
    trace = ramp(20.0, 30.0, longest_prompt=500, seed=3)
    assert len(trace) == round(0.5 * 1.3 * 20 * 30)
    assert (np.diff(trace.arrival_s) >= 0).all() and trace.arrival_s[-1] < 30.0
    assert (trace.arrival_s < 15.0).mean() == pytest.approx(0.25, abs=0.05)
    assert trace.prompt_tokens.min() >= 32 and trace.prompt_tokens.max() <= 500
    assert trace.prompt_tokens.max() > 300
    assert (ramp(20.0, 30.0, 500, seed=3).prompt_tokens == trace.prompt_tokens).all()


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
        ("nowhere.jsonl --like llama3-8b_h100 --out a.json", "nowhere.jsonl: cannot be read: No"),
        (
            "nowhere.jsonl --like llama3-8b_h10 --out a.json",
            "--like: unknown preset 'llama3-8b_h10'",
        ),
        ("bad.jsonl --like llama3-8b_h100 --out a.json", "bad.jsonl: line 1: is no measured"),
        ("bad.jsonl --like llama3-8b_h10 --out a.json", "--like: unknown preset 'llama3-8b_h10'"),
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
