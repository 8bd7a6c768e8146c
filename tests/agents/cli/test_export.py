"""`export_policy.py` on small runs: writes what is better, refuses the rest, in one line."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from agents.analysis.statistics import Estimate
from agents.cli.evaluate import main as evaluate
from agents.cli.export import advice, main
from agents.runs.confirmation import Confirmation
from ewsjf_env.engine.simulated.engine import SimulatedEngine
from ewsjf_env.policy.policy import Policy, default_policy
from ewsjf_env.workload import load_workload
from tests.agents.experiments.evaluations import write_trace
from tests.agents.run_folders import TASK, make_run

ROOT = Path(__file__).parents[3]
SMALL = ["--seeds", "3", "--windows", "2"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    make_run(folder / "good", "sobol", 16)
    make_run(folder / "idle", "default", 3)
    make_run(
        folder / "table",
        "random_modelled",
        28,
        ("arrival_rate_per_s",),
        {"drift": {"enabled": False}, "caution": 0.0, "startup_radius": 1.0},
        rates_per_s=[2.0, 20.0],
        fake={**TASK["fake"], "context_gain": 0.25},
    )
    return folder


def test_what_is_better_is_written_with_where_it_comes_from(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "policy.json"
    assert main([str(runs / "good"), "--out", str(out), *SMALL]) == 0
    printed = capsys.readouterr()
    assert "95% interval +" in printed.out
    assert str(out) in printed.out
    policy = Policy.load(out)
    notes: Any = policy.provenance
    assert policy.kind == "static"
    assert policy.name == "sobol good"
    assert notes["run"] == "good"
    assert (notes["agent"], notes["seed"], notes["windows"]) == ("sobol", 0, 16)
    versions = json.loads((runs / "good" / "versions.json").read_text())
    assert notes["run_git"] == versions["git"]
    assert set(notes["git"] or {"commit", "dirty"}) == {"commit", "dirty"}
    assert notes["vllm"] == importlib.metadata.version("vllm")
    module, _, name = notes["scheduler"].rpartition(".")
    assert f"class {name}(" in (ROOT / f"{module.replace('.', '/')}.py").read_text()
    evaluation = notes["evaluation"]
    assert evaluation["better"] is True
    assert 0.0 < evaluation["gain"]["low"] <= evaluation["gain"]["value"]
    assert evaluation["gain"]["value"] <= evaluation["gain"]["high"]
    assert evaluation["seeds"] == 3
    assert notes["forced"] is False
    assert [path.name for path in tmp_path.iterdir()] == ["policy.json"]
    # Asked again it plays nothing again, and finds the same.
    assert main([str(runs / "good"), "--out", str(out), *SMALL]) == 0
    assert "confirming" not in capsys.readouterr().err
    assert Policy.load(out) == policy


def test_what_is_not_better_is_refused_unless_forced(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "policy.json"
    default_policy().save(out)
    before = out.read_bytes()
    assert main([str(runs / "idle"), "--out", str(out), *SMALL]) == 3
    printed = capsys.readouterr().err
    assert "refused: it serves as the default does; --force" in printed
    assert "confirming" not in printed  # known without playing
    assert out.read_bytes() == before
    assert main([str(runs / "idle"), "--out", str(out), "--force", *SMALL]) == 0
    warned = capsys.readouterr().err
    assert "warning: written by --force although it serves as the default does" in warned
    notes: Any = Policy.load(out).provenance
    assert notes["forced"] is True
    assert notes["evaluation"]["better"] is False
    assert main([str(runs / "good"), "--out", str(out), "--seeds", "1", "--windows", "2"]) == 3
    assert "refused: one seed gives no interval" in capsys.readouterr().err


def test_a_recording_that_is_repeated_proves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a log of 40 s every unseen trace has the same requests, whatever its seed."""
    log = write_trace(tmp_path / "log.csv")
    run = make_run(tmp_path / "run", "sobol", 16, workload=str(log), rates_per_s=[10.0])
    out = tmp_path / "policy.json"
    assert main([str(run), "--out", str(out), *SMALL]) == 3
    (line,) = capsys.readouterr().err.splitlines()[1:]
    assert "refused: the recording is shorter than a trace and is repeated up to 2 times" in line
    assert main([str(run), "--out", str(out), "--force", *SMALL]) == 0
    printed = capsys.readouterr()
    assert "repeated up to 2 times" in printed.err
    assert printed.out.splitlines()[-1].startswith("do not serve it")
    notes: Any = Policy.load(out).provenance
    assert (notes["forced"], notes["evaluation"]["better"]) == (True, False)


@pytest.mark.parametrize(
    ("violations", "sure", "begins", "serve"),
    [
        (0.1, True, "serve it: ", True),
        (0.2, True, "do not serve it as it is: keep what you serve", True),
        (0.1, False, "do not serve it: nothing shows", False),
        (0.2, False, "do not serve it: nothing shows", False),
    ],
)
def test_the_last_line_says_whether_to_serve_it(
    violations: float, sure: bool, begins: str, serve: bool
) -> None:
    result = Confirmation(0.5, 0.0, Estimate(0.5, 0.4, 0.6), violations, 0.1, 8)
    said = advice(result, Path("tuned.json"), sure)
    assert said.startswith(begins)
    assert ("serve --policy tuned.json -- MODEL" in said) is serve


def test_a_warning_of_constraints_names_them_and_their_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A limit that the start just keeps and that whatever is better breaks."""
    limits = [{"metric": "output_tokens_per_s", "limit": 1.0}, {"metric": "wait_max_s", "limit": 2}]
    run = make_run(tmp_path / "run", "sobol", 16, constraints=limits)
    assert main([str(run), "--out", str(tmp_path / "policy.json"), "--force", *SMALL]) == 0
    printed = capsys.readouterr()
    (warning,) = [line for line in printed.err.splitlines() if "breaks a constraint" in line]
    assert "the constraints (output_tokens_per_s_vs_reference, wait_max_s_vs_reference)" in warning
    assert f"kept in {run / 'config.yaml'} below `env`" in warning
    assert "do not serve it" in printed.out.splitlines()[-1]


def test_an_exported_table_runs_in_evaluate_and_in_the_scheduler(
    runs: Path, tmp_path: Path
) -> None:
    out = tmp_path / "policy.json"
    assert main([str(runs / "table"), "--out", str(out), "--force", *SMALL]) == 0
    policy = Policy.load(out)
    assert policy.kind == "table"
    part = policy.adaptive
    assert part is not None

    engine = SimulatedEngine()
    engine.install(policy)
    engine.reset(load_workload("mixed").draw(1, 60.0, 2.0))
    engine.run_window(55.0)
    state = engine.scheduler.ewsjf.state()
    assert state["adaptation"]["acts"] == 2  # every 24 s
    assert state["adaptation"]["fallbacks"] == 0
    acted = policy.act(list(state["adaptation"]["inputs"].values()))
    assert state["parameters"] == acted

    arguments = ["--workload", str(ROOT / "configs/workloads/mixed.yaml"), "--rate", "2"]
    arguments += ["--policies", f"fcfs,{out}", "--seeds", "1", "--duration", "55"]
    assert evaluate([*arguments, "--out", str(tmp_path / "evaluation")]) == 0
    data = json.loads((tmp_path / "evaluation" / "evaluation.json").read_text())
    assert [run["policy"] for run in data["runs"]] == ["fcfs", "random_modelled table"]
    assert data["meta"]["policies"][1]["kind"] == "table"


Damage = Callable[[dict[str, Any]], object]


def edited(folder: Path, damage: Damage) -> None:
    """Damage one thing in an otherwise whole configuration."""
    data = yaml.safe_load((folder / "config.yaml").read_text())
    damage(data)
    (folder / "config.yaml").write_text(yaml.safe_dump(data))


def refused(folder: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> str:
    assert main([str(folder), "--out", str(out), *SMALL]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 1
    assert not out.exists()
    return errors[0]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: d.pop("agent"), "config.yaml: missing key 'agent'"),
        (lambda d: d.pop("schema_version"), "config.yaml: missing key 'schema_version'"),
        (
            lambda d: d.update(schema_version=1),
            "this run was started with an older version; start a new run",
        ),
        (lambda d: d.update(agent="sobol"), "agent: expected a mapping with a name, got 'sobol'"),
        (lambda d: d["agent"].update(name="sbol"), "unknown 'sbol'; nearest valid name: 'sobol'"),
        (lambda d: d["agent"].update(drw="x"), "agent: unknown key 'drw'"),
        (lambda d: d["env"].update(engin="fake"), "env: unknown key 'engin'; nearest"),
        (lambda d: d.update(context=["rate"]), "context: unknown feature 'rate'"),
        (lambda d: d.update(context="rate"), "context: expected a list, got 'rate'"),
        (lambda d: d.update(seed="one"), "seed: expected an integer, got 'one'"),
        (lambda d: d.update(windows=1.5), "windows: expected an integer, got 1.5"),
        (lambda d: d.update(sead=1), "unknown key 'sead'; nearest valid name: 'seed'"),
        (lambda d: d.update(parameter_space_hash="abc"), "parameter_space_hash: 'abc' is not"),
        (
            lambda d: d.update(environment="ewsjf/FakeSchedulerTuning-v9"),
            "environment: 'ewsjf/FakeSchedulerTuning-v9' is not",
        ),
    ],
)
def test_a_damaged_configuration_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: Damage, message: str
) -> None:
    folder = make_run(tmp_path / "run", "sobol", 1)
    edited(folder, damage)
    assert message in refused(folder, tmp_path / "policy.json", capsys)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("config.yaml", None, "holds no run (config.yaml is missing)"),
        ("config.yaml", "agent: [", "not valid YAML"),
        ("windows.jsonl", None, "no window was measured"),
        ("windows.jsonl", '{"window": 1}\n', "line 1: window 1, not 0"),
        ("windows.jsonl", '{"window": 0}\n', "line 1: not a window: it lacks 'plan'"),
        ("windows.jsonl", "{}}\n", "line 1: not a window"),
        ("windows.jsonl", "[0]\n", "line 1: not a window"),
        ("windows.jsonl", '{"window": 0', "no window was measured"),
        ("windows.jsonl", '{"window": NaN}\n', "line 1: window nan, not 0"),
    ],
)
def test_a_damaged_run_is_one_line(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    text: str | None,
    message: str,
) -> None:
    folder = make_run(tmp_path / "run", "default", 1)
    (folder / name).unlink()
    if text is not None:
        (folder / name).write_text(text)
    assert message in refused(folder, tmp_path / "policy.json", capsys)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--out", "policy.yaml"], "--out: policy.yaml must be a file ending in .json"),
        (["--out", "nowhere/policy.json"], "in a folder that exists"),
        (["--seeds", "0"], "--seeds: 0 is outside [1, 5000]"),
        (["--windows", "0"], "--windows: 0 is outside"),
        (["--jobs", "0"], "--jobs: 0 is outside"),
        (["--kind", "tree"], "--kind: invalid choice: 'tree'"),
        (["--kind", "mlp"], "agent 'sobol' has no network"),
        (["--seeds", "x"], "--seeds: 'x' is not an integer"),
        (["--forse"], "unknown option '--forse'; nearest valid name: '--force'"),
    ],
)
def test_bad_arguments_are_one_line(
    runs: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    changes: list[str],
    message: str,
) -> None:
    out = ["--out", str(tmp_path / "policy.json")]
    assert main([str(runs / "good"), *out, *changes]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert message in errors[-1]
    assert not list(tmp_path.iterdir())


def test_the_script_has_help_of_one_screen() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts/export_policy.py"), "--help"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "--force" in done.stdout
    assert len(done.stdout.splitlines()) <= 40
