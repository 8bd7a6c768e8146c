"""The command line on vLLM's own scheduler, on traffic of a few seconds."""

import gzip
import json
import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from agents.cli import evaluate as evaluate_command
from agents.cli.evaluate import main
from ewsjf_env.measure.records import WindowMetrics

ROOT = Path(__file__).parents[3]
WORKLOAD = """
name: tiny
rate_per_s: 20.0
arrivals: {kind: poisson}
classes:
  - name: short
    share: 0.8
    prompt: {kind: uniform, low_tokens: 16, high_tokens: 128}
    output: {kind: uniform, low_tokens: 2, high_tokens: 8}
  - name: long
    share: 0.2
    prompt: {kind: uniform, low_tokens: 1024, high_tokens: 2048}
    output: {kind: uniform, low_tokens: 2, high_tokens: 8}
"""
ENGINE = """
max_num_seqs: 8
max_num_batched_tokens: 512
max_model_len: 4096
kv_blocks: 2000
"""
HEADER = "arrival_s,prompt_tokens,output_tokens\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    huge = WORKLOAD.replace("tiny", "huge").replace("16, high_tokens: 128", "9000")
    files = {
        "tiny.yaml": WORKLOAD,
        "huge.yaml": huge.replace("low_tokens: 9000", "low_tokens: 8000, high_tokens: 9000")
        .replace("low_tokens: 1024, high_tokens: 2048", "low_tokens: 8000, high_tokens: 9000"),
        "engine.yaml": ENGINE,
        "small_cache.yaml": ENGINE.replace("kv_blocks: 2000", "kv_blocks: 20"),
        "stock.yaml": ENGINE + "scheduler: stock\n",
        "key.yaml": "latncy: x\n",
        "twice.yaml": WORKLOAD + "name: other\n",
        "twice.json": '{"order": "hrrn", "order": "fcfs"}',
        "preset.yaml": "latency: llama3-8b_h10\n",
        "small.csv": HEADER + "0,10,10\n1,20,10\n2,30,5\n",
        "columns.csv": "arrival_s,prompt_tokens\n0,10\n",
        "negative.csv": HEADER + "-1,10,10\n2,3,4\n",
        "unsorted.csv": HEADER + "3,10,10\n2,3,4\n",
        "zero.csv": HEADER + "1,0,10\n2,3,4\n",
        "once.csv": HEADER + "1,5,10\n",
        "empty.csv": "",
        "header.csv": HEADER,
        "file": "",
    }  # fmt: skip
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "cut.csv.gz").write_bytes(gzip.compress(files["small.csv"].encode())[:30])
    return tmp_path


def command(*extra: str, out: str = "out") -> list[str]:
    quick = ["--seeds", "2", "--duration", "5", "--engine", "engine.yaml"]
    return [*quick, "--policies", "fcfs,sjf,ewsjf", "--out", out, *extra]


def read(path: Path) -> dict[str, Any]:
    def refuse(name: str) -> float:
        raise AssertionError(f"{name} in {path}")

    data: dict[str, Any] = json.loads(path.read_text(), parse_constant=refuse)
    return data


def test_an_evaluation_from_end_to_end(folder: Path, capsys: pytest.CaptureFixture[str]):
    assert main(command("--workload", "tiny.yaml", "--load", "0.9")) == 0
    shown = capsys.readouterr()
    assert "tiny: load 0.9" in shown.out
    assert "measuring FCFS capacity" in shown.err
    assert "traffics: 100%" in shown.err
    assert "runs: 100%" in shown.err
    data = read(folder / "out" / "evaluation.json")
    assert list(data) == ["meta", "runs", "summary"]
    assert len(data["runs"]) == 6
    names = [f.name for f in fields(WindowMetrics)]
    for run in data["runs"]:
        assert {"policy", "workload", "load", "seed", "metrics", "drained"} <= set(run)
        assert list(run["metrics"]) == list(run["drained"]) == names
        assert (run["workload"], run["load"]) == ("tiny", 0.9)
        assert run["drained"]["outstanding"] == 0
    for seed in (0, 1):
        same = [run for run in data["runs"] if run["seed"] == seed]
        assert len({run["notes"]["trace"] for run in same}) == 1
        assert len({run["drained"]["finished"] for run in same}) == 1
    assert data["meta"]["capacity_requests_per_s"]["tiny"] > 0
    assert {e["policy"] for e in data["summary"]} == {"fcfs", "sjf", "ewsjf"}
    assert "## tiny: load 0.9" in (folder / "out" / "evaluation.md").read_text()
    assert (folder / "out" / "frontier.png").read_bytes().startswith(b"\x89PNG")
    names = [path.name for path in (folder / "out").rglob("*.*")]
    assert not [name for name in names if "failure" in name or name.endswith((".tmp", ".running"))]

    # Once more: nothing is run again.  In another folder: the same to the bit but for wall time.
    before = {p: p.stat().st_mtime_ns for p in (folder / "out" / "runs").iterdir()}
    assert main(command("--workload", "tiny.yaml", "--load", "0.9")) == 0
    assert {p: p.stat().st_mtime_ns for p in (folder / "out" / "runs").iterdir()} == before
    assert main(command("--workload", "tiny.yaml", "--load", "0.9", out="again")) == 0
    for path in before:
        first, second = read(path), read(folder / "again" / "runs" / path.name)
        assert first.pop("wall_s") >= 0
        assert second.pop("wall_s") >= 0
        assert json.dumps(first) == json.dumps(second)


def test_a_small_trace_is_replayed_at_a_load(folder: Path):
    assert main(command("--trace", "small.csv", "--load", "0.5")) == 0
    assert len(read(folder / "out" / "evaluation.json")["runs"]) == 6


def test_a_log_is_replayed_as_it_was_recorded(folder: Path, capsys: pytest.CaptureFixture[str]):
    """`--load` stretches a log and `--rate` does not say which load it is: both stand beside."""
    assert main(command("--workload", "small.csv", "--load", "recorded")) == 0
    data = read(folder / "out" / "evaluation.json")
    assert {run["rate_per_s"] for run in data["runs"]} == {1.0}
    assert {run["notes"]["time_stretch"] for run in data["runs"]} == {1.0}
    load = round(1.0 / data["meta"]["capacity_requests_per_s"]["small"], 3)
    assert {run["load"] for run in data["runs"]} == {load}
    heading, titles, row = capsys.readouterr().out.splitlines()[:3]
    assert heading.split()[:2] == ["asked", "arrived"]
    assert titles.split()[-1] == "engine"
    assert row.endswith("llama2-13b_a100-80g, steps of 512 tokens and 8 requests")


def test_a_preset_is_an_engine_with_the_budget_of_vllm(
    folder: Path, capsys: pytest.CaptureFixture[str]
):
    arguments = ["--workload", "mixed", "--engine", "llama3-8b_h100", "--out", "o", "--dry-run"]
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    assert "engine: compiled llama3-8b_h100, steps of 8192 tokens and 1024 requests" in shown


def test_dry_run_prints_the_plan_and_writes_nothing(
    folder: Path, capsys: pytest.CaptureFixture[str]
):
    before = sorted(folder.rglob("*"))
    assert main(command("--workload", "tiny.yaml", "--dry-run")) == 0
    assert sorted(folder.rglob("*")) == before
    shown = capsys.readouterr().out
    assert "fcfs, sjf, ewsjf" in shown
    assert "18 runs" in shown


BAD = [
    ("--workload tiny.yaml --load 0", "--load: 0.0 is outside (0, inf)"),
    ("--workload tiny.yaml --load -1", "--load: -1.0 is outside (0, inf)"),
    ("--workload tiny.yaml --load nan", "--load: nan is outside (0, inf)"),
    ("--workload tiny.yaml --load 0.5,abc", "--load: 'abc' is not a number > 0"),
    ("--workload tiny.yaml --load=", "--load: '' is not a number > 0"),
    ("--workload tiny.yaml --load 1,1", "--load: a value occurs twice"),
    ("--workload tiny.yaml --rate 0", "--rate: 0.0 is outside (0, inf)"),
    ("--workload tiny.yaml --rate 1e12", "20000000"),
    ("--workload tiny.yaml --load 1 --rate 2", "--load, --rate: give exactly one"),
    ("--workload tiny.yaml --seeds 0", "--seeds: 0 is outside [1, 5000]"),
    ("--workload tiny.yaml --rate 5 --seeds 100000000", "--seeds: 100000000 is outside [1, 5000]"),
    ("--workload tiny.yaml --seeds two", "--seeds: 'two' is not an integer"),
    ("--workload tiny.yaml --duration 0", "--duration: 0.0 is outside (0, inf)"),
    ("--workload tiny.yaml --duration -5", "--duration: -5.0 is outside (0, inf)"),
    ("--workload tiny.yaml --duration inf", "--duration: inf is outside (0, inf)"),
    ("--workload tiny.yaml --duration nan", "--duration: nan is outside (0, inf)"),
    ("--workload tiny.yaml --duration long", "--duration: 'long' is not a number"),
    ("--workload tiny.yaml --jobs 0", "--jobs: 0 is outside [1, inf)"),
    ("--workload tiny.yaml --policies fcsf", "unknown policy 'fcsf'; nearest valid name: 'fcfs'"),
    (
        "--workload tiny.yaml --against fcsf",
        "--against: 'fcsf' is none of --policies; nearest valid name: 'fcfs'",
    ),
    (
        "--workload tiny.yaml --policies fcfs --against x",
        "--against: 'x' is none of --policies; valid names: fcfs",
    ),
    ("--workload tiny.yaml --policies fcfs,fcfs", "'fcfs' occurs twice"),
    ("--workload tiny.yaml --policies none.json", "none.json: policy file cannot be read"),
    ("--workload tiny.yaml --policies=", "policies: the list is empty"),
    ("--workload tiny.yaml --policies linear_aging(r=nan)", "nan is outside [0.1, 100000]"),
    ("", "--workload, --trace: give at least one"),
    ("--workload tiny.yaml --workload tiny.yaml", "'tiny' is the name of both"),
    ("--workload tiny.yaml --engine key.yaml", "key.yaml: unknown key 'latncy'; nearest valid"),
    ("--workload tiny.yaml --engine none.yaml", "none.yaml: cannot be read"),
    ("--workload tiny.yaml --engine preset.yaml", "preset.yaml: latency: unknown preset"),
    ("--workload tiny.yaml --engine stock.yaml", "stock.yaml: scheduler: 'stock'"),
    ("--workload tiny.yaml --rate 2 --engine small_cache.yaml", "tiny: request "),
    ("--workload tiny.yaml --load 1 --engine small_cache.yaml", "tiny: request "),
    ("--workload tiny.yaml --out=", "--out: the name is empty, expected a folder"),
    ("--workload tiny.yaml --out file", "--out: file is a file, expected a folder"),
    ("--workload tiny.yaml --out file/below", "--out: file/below cannot be written: Not a dir"),
    ("--workload tiny.yaml --out /proc", "--out: /proc cannot be written: "),
    ("--workload none.yaml", "none.yaml: cannot be read"),
    ("--workload twice.yaml", "twice.yaml: not valid YAML: key 'name' is given twice"),
    (
        "--workload tiny.yaml --policies twice.json",
        "twice.json: not valid JSON: key 'order' is",
    ),
    ("--workload mixd", "nearest valid name: 'mixed'"),
    ("--workload zero.csv", "zero.csv: row 2: prompt_tokens: 0"),
    ("--workload tiny.yaml --load recorded", "--load: recorded: tiny has no times of its own"),
    ("--workload tiny.yaml --engine llama3-8b_h10", "neither a preset nor a file of a machine; n"),
    ("--workload huge.yaml --rate 2", "huge: prompt_tokens: all"),
    ("--workload huge.yaml --load 1", "expected at most 4095"),
    ("--workload tiny.yaml --rate 0.0001", "no request arrives in duration_s 5.0"),
    ("--trace tiny.yaml", "--trace: tiny.yaml is a YAML file"),
    ("--trace columns.csv", "columns.csv: row 1: missing column 'output_tokens'"),
    ("--trace negative.csv", "negative.csv: row 2: arrival_s: -1.0"),
    ("--trace unsorted.csv", "unsorted.csv: row 3: arrival_s: 2.0"),
    ("--trace zero.csv", "zero.csv: row 2: prompt_tokens: 0"),
    ("--trace once.csv", "once.csv: arrival_s: 1 requests at one time have no rate"),
    ("--trace empty.csv", "empty.csv: the file is empty"),
    ("--trace header.csv", "header.csv: no request"),
    ("--trace cut.csv.gz", "cut.csv.gz: after row 0: truncated gzip"),
    ("--trace none.csv", "none.csv: no such file"),
    ("--trace out", "error: out: is a directory; expected a trace file"),
    (
        "--trace small.csv --trace-format cvs",
        "--trace-format: unknown 'cvs'; nearest valid name: 'csv'",
    ),
    ("--trace small.csv --jitter -1", "--jitter: -1.0 is outside [0, 3600]"),
    ("--workload tiny.yaml --polices fcfs", "'--polices'; nearest valid name: '--policies'"),
    ("--workload tiny.yaml --load", "--load: expected one argument"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=[a for a, _ in BAD])
def test_bad_input_is_one_line_and_keeps_results(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: str, message: str
):
    kept = folder / "out" / "runs" / "finished.json"
    kept.parent.mkdir(parents=True)
    kept.write_text("{}")
    assert main([*command(), *arguments.split()]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    lines = [line for line in lines if line != "measuring FCFS capacity ..."]
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert message in lines[0]
    assert kept.read_text() == "{}"


def test_out_is_required(capsys: pytest.CaptureFixture[str]):
    assert main(["--workload", "mixed"]) == 2
    assert "--out" in capsys.readouterr().err


def test_a_failed_run_is_told_and_the_others_are_reported(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    from agents.experiments import policy_runs as runs

    real = runs.run_all

    def failing(job: runs.PolicyRun) -> dict[str, Any]:
        if job.policy.name == "sjf" and job.seed == 0:
            raise RuntimeError("stuck")
        return runs.simulate(job)

    arguments = command("--workload", "tiny.yaml", "--rate", "5")
    with monkeypatch.context() as patched:
        patched.setattr(evaluate_command, "run_all", lambda *a: real(*a, simulate=failing))
        assert main(arguments) == 1
    error = [line for line in capsys.readouterr().err.splitlines() if "error: run" in line]
    assert len(error) == 1
    assert "sjf" in error[0]
    assert error[0].endswith("failed: RuntimeError: stuck")
    assert len(read(folder / "out" / "evaluation.json")["runs"]) == 5
    assert main(arguments) == 0
    assert len(read(folder / "out" / "evaluation.json")["runs"]) == 6


def test_interruption_says_how_to_go_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(evaluate_command, "run_all", interrupted)
    assert main(command("--workload", "tiny.yaml", "--rate", "5")) == 130
    assert "the same command goes on" in capsys.readouterr().err


def run_script(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "scripts/evaluate.py", *arguments],
        cwd=ROOT, env={**os.environ, "COLUMNS": "80"}, capture_output=True, text=True,
        timeout=300, check=False,
    )  # fmt: skip


def test_help_of_the_script_fits_one_screen():
    done = run_script("--help")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert len(lines) <= 36
    assert max(map(len, lines)) <= 80
    assert "linear_aging" in done.stdout


def test_bad_flag_of_the_script():
    done = run_script("--workload", "mixed", "--out", "nowhere", "--sedes", "3")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == "error: unknown option '--sedes'; nearest valid name: '--seeds'\n"
