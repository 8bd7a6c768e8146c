"""What a wheel installs works without the checkout: commands, configurations, presets, policies."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from importlib.metadata import Distribution
from pathlib import Path

import pytest

from ewsjf_env.shipped import config_names

ROOT = Path(__file__).parents[1]
SOURCES = ("agents", "ewsjf_env", "configs", "pyproject.toml", "README.md", "LICENSE")
pytestmark = pytest.mark.slow


def built(folder: Path) -> Path:
    """The wheel, of a copy: a build leaves its folders in the tree."""
    tree = folder / "tree"
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            tree.mkdir(exist_ok=True)
            shutil.copy(ROOT / name, tree)
    code = f"from setuptools import build_meta; build_meta.build_wheel({str(folder)!r})"
    command = [sys.executable, "-W", "ignore", "-c", code]
    subprocess.run(command, cwd=tree, check=True, capture_output=True, timeout=300)
    (wheel,) = folder.glob("*.whl")
    return wheel


class Installed:
    """An environment with our wheel, beside the packages of this one; and a folder elsewhere."""

    def __init__(self, folder: Path) -> None:
        self.elsewhere = folder / "elsewhere"
        self.elsewhere.mkdir()
        self._binaries = folder / "env" / "bin"
        venv.create(folder / "env", with_pip=False)
        (site,) = (folder / "env").glob("lib/python*/site-packages")
        # Packages alone: .pth files of a folder that a .pth file names are not read, so that an
        # editable installation of the checkout is not found.
        (site / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
        with zipfile.ZipFile(built(folder)) as wheel:
            wheel.extractall(site)
        (info,) = site.glob("ewsjf_env-*.dist-info")
        (point,) = Distribution.at(info).entry_points.select(group="console_scripts")
        script = self._binaries / point.name
        start = f"import sys; from {point.module} import {point.attr}; sys.exit({point.attr}())"
        script.write_text(f"#!{self._binaries / 'python'}\n{start}\n")
        script.chmod(0o755)

    def run(self, program: str, *words: str, code: int = 0) -> str:
        """Standard output of a program of the environment, started elsewhere."""
        clean = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
        path = f"{self._binaries}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(
            [str(self._binaries / program), *words],
            cwd=self.elsewhere,
            env={**clean, "PATH": path, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert done.returncode == code, done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    return Installed(tmp_path_factory.mktemp("wheel"))


def test_nothing_is_of_the_checkout(installed: Installed) -> None:
    code = (
        "import agents.cli.main, ewsjf_env.shipped as s; from ewsjf_env import default_policy;"
        "print(agents.cli.main.__file__, s.configs_folder(), default_policy().order);"
        "print(*(len(s.config_names(k)) for k in ('env', 'agents', 'workloads', 'latency', '')))"
    )
    first, second = installed.run("python", "-c", code).splitlines()
    assert str(ROOT) not in first
    assert first.endswith("site-packages/ewsjf_env/configs ewsjf")
    kinds = ("env", "agents", "workloads", "latency", "")
    assert second.split() == [str(len(config_names(kind))) for kind in kinds]  # type: ignore[arg-type]


def test_train_export_and_evaluate(installed: Installed) -> None:
    (installed.elsewhere / "task.yaml").write_text(
        "workload: mixed\nrates_per_s: [30.0]\nwindow_s: 8.0\nsettle_s: 1.0\nwindows: 2\n"
    )
    train = ["train", "--agent", "sobol", "--agent-config", "sobol", "--config"]
    shown = installed.run("ewsjf", *train, "tuning", "--dry-run")
    assert "steps of 2048 tokens and 256 requests" in shown
    shown = installed.run("ewsjf", *train, "task.yaml", "--windows", "2", "--out", "run")
    assert "ewsjf export run --out policy.json" in shown
    export = ["export", "run", "--out", "policy.json", "--force", "--seeds", "1", "--windows", "1"]
    assert "policy.json" in installed.run("ewsjf", *export)
    evaluate = ["--workload", "mixed", "--engine", "simulated", "--seeds", "1", "--rate", "3"]
    more = ["--policies", "fcfs,policy.json", "--duration", "5", "--out", "runs/table"]
    assert "policy" in installed.run("ewsjf", "evaluate", *evaluate, *more)


def test_serve(installed: Installed) -> None:
    serve = ["serve", "--policy", "ewsjf", "--simulate", "llama3-8b_h100", "--model-folder", "m"]
    shown = installed.run("ewsjf", *serve, "--tune", "remote", "--dry-run", "--")
    assert "--max-num-batched-tokens 8192" in shown
    assert "--max-num-seqs 1024" in shown


def test_other_commands_find_what_they_start_from(installed: Installed) -> None:
    assert "windows of 20 s" in installed.run(
        "ewsjf", "compare", "--tasks", "paper_overload", "--dry-run", "--out", "x"
    )
    assert installed.run("python", "-m", "agents.cli.train", "--help").startswith("usage: ewsjf t")
    installed.run("ewsjf", "policy-study", "--help")
