"""Grids of runs on Ray: what loky finds, a cluster that is there already, workers that die."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from agents.cli.compare import main as compare
from agents.cli.evaluate import main as evaluate
from agents.cli.export import main as export
from agents.experiments.backend import parallel_on
from ewsjf_env.config import ConfigError
from tests.agents.cli.test_evaluate import ENGINE, WORKLOAD
from tests.agents.experiments.test_comparison import CONFIG
from tests.serving.server import free_port

ROOT = Path(__file__).parents[3]
HOLD = """
import ray
ray.init(address="local", num_cpus=2, include_dashboard=False)
print(ray.get_runtime_context().gcs_address, flush=True)
input()
"""
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled", "PYTHONPATH": str(ROOT)}

needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None,
    reason="ray is not installed: pip install -e '.[ray]'",
)


def environment(**changes: str) -> dict[str, str]:
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, **QUIET, "PYTHONPATH": path, **changes}


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Of a cluster of two CPUs that somebody else has started."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD],
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as holder:
        assert holder.stdout is not None
        found = holder.stdout.readline().strip()
        assert ":" in found
        yield found
        holder.communicate("\n")


def run(command: str, folder: Path, address: str, code: int = 0) -> str:
    """A script in a folder, by --backend on the cluster; what it says on standard error.

    In a process of its own: workers that are there already may stand in another folder.
    """
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / command.split()[0]), *command.split()[1:]],
        cwd=folder,
        env=environment(RAY_ADDRESS=address),
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stderr


def results(path: Path, *wall: str) -> list[dict[str, Any]]:
    """The runs of a report, without wall time."""
    runs: list[dict[str, Any]] = json.loads(path.read_text())["runs"]
    return [{key: value for key, value in one.items() if key not in wall} for one in runs]


@needs_ray
@pytest.mark.slow
def test_an_evaluation_on_a_cluster_is_the_same(address: str, tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(WORKLOAD)
    (tmp_path / "engine.yaml").write_text(ENGINE)
    command = "--workload tiny.yaml --engine engine.yaml --seeds 2 --duration 5 --load 0.9"
    command += " --policies fcfs,sjf,ewsjf --jobs 2 --out"
    run(f"evaluate.py {command} on_ray --backend ray", tmp_path, address)
    run(f"evaluate.py {command} here", tmp_path, address)
    here = results(tmp_path / "here/evaluation.json", "wall_s")
    assert results(tmp_path / "on_ray/evaluation.json", "wall_s") == here
    # Results of one backend are those of the other: nothing is played again.
    runs = tmp_path / "on_ray/runs"
    before = {path: path.stat().st_mtime_ns for path in runs.iterdir()}
    run(f"evaluate.py {command} on_ray", tmp_path, address)
    assert {path: path.stat().st_mtime_ns for path in runs.iterdir()} == before


@needs_ray
@pytest.mark.slow
def test_a_comparison_on_a_cluster_is_the_same(address: str, tmp_path: Path) -> None:
    (tmp_path / "compare.yaml").write_text(yaml.safe_dump(CONFIG))
    command = "--config compare.yaml --agents bayes,random --seeds 2 --jobs 2 --out"
    run(f"compare.py {command} on_ray --backend ray", tmp_path, address)
    run(f"compare.py {command} here", tmp_path, address)
    wall = ("tuned_wall_s", "tuner_s_per_window")
    here = results(tmp_path / "here/comparison.json", *wall)
    assert results(tmp_path / "on_ray/comparison.json", *wall) == here


@needs_ray
@pytest.mark.slow
def test_a_killed_worker_fails_its_run_alone(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.agents.experiments.ray_runs", str(tmp_path)],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "survived" in done.stdout


@needs_ray
def test_a_cluster_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(WORKLOAD)
    (tmp_path / "engine.yaml").write_text(ENGINE)
    command = "evaluate.py --workload tiny.yaml --rate 3 --out out --backend ray --jobs 2"
    (line,) = run(command, tmp_path, f"127.0.0.1:{free_port()}", code=2).splitlines()
    assert line.startswith("error: RAY_ADDRESS: '127.0.0.1:") and "refused" in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", [evaluate, compare, export])
def test_an_unknown_backend_is_one_line(command: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["run", "--out", "x", "--backend", "dask"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "--backend: invalid choice: 'dask' (choose from " in line


def test_without_ray_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with (
        pytest.raises(ConfigError, match=r"'ray' needs .* ray: pip install -e '\.\[ray\]'"),
        parallel_on("ray", 2),
    ):
        pass
