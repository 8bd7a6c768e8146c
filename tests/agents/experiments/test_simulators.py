"""The comparison with AISimulate: the file that both read, and the count of what agrees.

AISimulate is no dependency of ours.  In its place a package of that name plays the same file with
vLLM's own scheduler, and answers in the form of AISimulate's reports.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from agents.cli.project.simulators import main
from agents.experiments.simulators.aisimulate import GUARD_S, STEP_S, specification, trace_of
from agents.experiments.simulators.comparison import agreement, fixed_engine
from ewsjf_env.measure.records import RequestRecord
from ewsjf_env.workload import Trace

ROOT = Path(__file__).parents[3]
STAND_IN = """
import dataclasses, json
from ewsjf_env.engine.simulated.config import SimulatedConfig
from ewsjf_env.engine.simulated.engine import SimulatedEngine
from ewsjf_env.engine.simulated.latency import Coefficients, LatencyModel
from ewsjf_env.workload import Trace

def run_replay_json(payload):
    spec = json.loads(payload)
    if not spec["record_per_request"]:
        return "{}"  # a timed call
    rank, requests = spec["engine"]["rank"], spec["requests"]
    law = rank["timing_model"]
    assert (law["type"], law["prefill_ms"]) == ("fixed", 0.0)
    config = SimulatedConfig(
        scheduler="stock",
        async_scheduling=False,
        max_num_seqs=rank["max_num_seqs"],
        max_num_batched_tokens=rank["max_num_batched_tokens"],
        block_tokens=rank["block_size"],
        kv_blocks=rank["num_gpu_blocks"] + 1,
    )
    step_s = law["decode_ms"] / 1000
    steps = Coefficients(overhead_s=step_s, weights_s=0.0, linear_s_per_token=0.0,
                         attention_s_per_pair=0.0, kv_read_s_per_token=0.0)
    latency = dataclasses.replace(LatencyModel.load(config.latency), measured=steps)
    engine = SimulatedEngine(config, latency)
    # A prefill alone takes AISimulate no time: its first request is served a step later.
    assert requests[0]["arrival_time_ms"] == law["decode_ms"]
    arrival_s = [0.0, *(r["arrival_time_ms"] / 1000 for r in requests[1:])]
    engine.reset(Trace("stand-in", arrival_s, [r["input_tokens"] for r in requests],
                       [r["output_tokens"] for r in requests]))
    engine.run_window(max(arrival_s) + step_s)
    engine.drain()
    rows = [
        {
            "request_id": request["id"],
            "first_token_ms": record.first_token_s * 1000,
            "last_token_ms": record.finish_s * 1000,
            "readmission_count": record.preemptions,
            "terminal_status": "completed",
        }
        for request, record in zip(requests, engine.records(), strict=True)
    ]
    return json.dumps({"per_request": rows})
"""


def install(folder: Path, monkeypatch: pytest.MonkeyPatch, runtime: str) -> None:
    """Put a package `aisimulate` on the path of the processes that are started from here."""
    (folder / "aisimulate").mkdir()
    (folder / "aisimulate" / "__init__.py").touch()
    (folder / "aisimulate" / "_runtime.py").write_text(runtime, encoding="utf-8")
    (folder / "aisimulate-0.1.dist-info").mkdir()
    metadata = "Metadata-Version: 2.1\nName: aisimulate\nVersion: 0.1\n"
    (folder / "aisimulate-0.1.dist-info" / "METADATA").write_text(metadata, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), str(ROOT)]))


def test_vllms_own_scheduler_in_place_of_aisimulate_agrees_on_every_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    install(tmp_path, monkeypatch, STAND_IN)
    out = tmp_path / "simulators.json"
    words = ["--python", sys.executable, "--loads", "1.3", "--duration", "20", "--turns", "2"]
    assert main([*words, "--out", str(out)]) == 0
    content = json.loads(out.read_text(encoding="utf-8"))
    (case,) = content["cases"]
    assert case["requests"] > 200
    assert case["first_tokens_equal"] == case["finishes_equal"] == case["requests"]
    assert case["preemptions_equal"] == case["requests"]
    assert case["preemptions"] == case["preemptions_aisimulate"] > 0
    assert case["largest_difference_s"] <= 1e-6
    assert case["virtual_s"] == pytest.approx(case["steps"] * STEP_S)
    assert content["aisimulate"]["aisimulate"] == "0.1"
    assert content["engine"]["async_scheduling"] is False
    assert f"{case['requests']} of {case['requests']} equal" in capsys.readouterr().out
    assert str(tmp_path) not in out.read_text(encoding="utf-8")


def test_both_read_the_same_requests_behind_a_guard_that_decodes(tmp_path: Path) -> None:
    early, late = STEP_S / 2, [1.25, 3.5]
    trace = Trace("t", np.array([early, *late]), np.array([7, 8, 9]), np.array([1, 2, 3]))
    written = specification(fixed_engine(), trace)
    path = tmp_path / "load_1.json"
    path.write_text(json.dumps(written), encoding="utf-8")
    found = trace_of(path)
    assert found.arrival_s.tolist() == [0.0, *late]
    assert found.prompt_tokens.tolist()[1:] == [8, 9]
    assert found.output_tokens.tolist() == [round(GUARD_S / STEP_S), 2, 3]
    arrivals_ms = [row["arrival_time_ms"] for row in written["requests"]]
    assert arrivals_ms == [1000 * STEP_S, 1250.0, 3500.0]
    # vLLM's null block is not one of AISimulate's.
    assert written["engine"]["rank"]["num_gpu_blocks"] == fixed_engine().kv_blocks - 1


def record(first_s: float, finish_s: float, preemptions: int = 0) -> RequestRecord:
    return RequestRecord(
        request_id="r",
        arrival_s=0.0,
        prompt_tokens=1,
        output_tokens=2,
        cached_tokens=0,
        generated_tokens=2,
        first_token_s=first_s,
        finish_s=finish_s,
        preemptions=preemptions,
    )


def test_what_differs_is_counted_and_its_size_told() -> None:
    records = [record(1.0, 2.0), record(1.0, 2.0, 3), record(1.0, 2.0)]
    found = {0: (1.0 + 9e-7, 2.0, 0), 1: (1.0 + 2e-6, 2.0, 2), 2: (1.0, 2.5, 0)}
    assert agreement(records, found) == {
        "first_tokens_equal": 2,
        "finishes_equal": 2,
        "largest_difference_s": 0.5,
        "preemptions_aisimulate": 2,
        "preemptions_equal": 2,
    }


def test_a_request_that_aisimulate_did_not_serve_agrees_in_nothing() -> None:
    found = agreement([record(1.0, 2.0), record(1.0, 2.0)], {0: (1.0, 2.0, 0)})
    assert found["first_tokens_equal"] == found["finishes_equal"] == found["preemptions_equal"] == 1
    assert found["largest_difference_s"] is None


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--python", "no/python"], "python: no/python cannot be started: No such file"),
        (["--loads", "0"], "loads: 0.0 is outside (0, inf)"),
        (["--turns", "1"], "turns: 1 is outside [2, inf)"),
        (["--duration", "-1"], "duration_s: -1.0 is outside (0, inf)"),
        (["--workload", "paper_mx"], "nearest valid name: 'paper_mix'"),
    ],
)
def test_bad_input_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], line: str
) -> None:
    out = tmp_path / "r.json"
    assert main(["--python", sys.executable, "--out", str(out), *words]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert line in said[-1]
    assert not out.exists()


def test_an_environment_without_aisimulate_is_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    install(tmp_path, monkeypatch, "raise ImportError('no runtime here')")
    out = tmp_path / "r.json"
    assert main(["--python", sys.executable, "--out", str(out)]) == 2
    expected = "error: python: AISimulate cannot play there: ImportError: no runtime here"
    assert capsys.readouterr().err.strip().splitlines()[-1] == expected
    assert not out.exists()


@pytest.mark.parametrize("out", ["r.txt", "none/r.json"])
def test_a_result_that_cannot_be_written_is_refused_first(
    out: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--python", "no/python", "--out", str(tmp_path / out)]) == 2
    assert "must be a file ending in .json" in capsys.readouterr().err
