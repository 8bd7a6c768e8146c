"""A wheel, and that it works without the checkout: commands, configurations, policies."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from collections.abc import Sequence
from importlib.metadata import Distribution
from importlib.util import find_spec
from pathlib import Path

import pytest

from ewsjf_env.shipped import config_names

ROOT = Path(__file__).parents[1]
SOURCES = ("agents", "ewsjf_env", "configs", "pyproject.toml", "README.md", "LICENSE")
NAME = ("-c", "user.name=x", "-c", "user.email=x@localhost", "-c", "commit.gpgsign=false")
PLAYED = """
import contextlib, io, json, sys
from agents.cli.main import main
found = []
for line in sys.argv[1:]:
    try:
        with contextlib.redirect_stdout(io.StringIO()) as shown:
            code = main(line.split())
    except SystemExit as end:  # --help
        code = end.code
    if code:
        sys.exit(f"{line}: exit code {code}")
    found.append(shown.getvalue())
print(json.dumps(found))
"""
pytestmark = pytest.mark.slow


def git(folder: Path, *words: str) -> None:
    """Git on a folder, whatever the settings of the user are."""
    command = ["git", "-C", str(folder), *NAME, *words]
    subprocess.run(command, check=True, capture_output=True, timeout=60)


def built(kind: str, tree: Path, folder: Path) -> Path:
    """The `wheel` or `sdist` of a tree, by its build backend as pip calls it."""
    folder.mkdir()
    code = f"from setuptools import build_meta; build_meta.build_{kind}({str(folder)!r})"
    command = [sys.executable, "-W", "ignore", "-c", code]
    clean = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        command, cwd=tree, env=clean, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    (path,) = folder.iterdir()
    return path


def names(wheel: Path) -> set[str]:
    """Files that a wheel installs."""
    with zipfile.ZipFile(wheel) as opened:
        return {name for name in opened.namelist() if ".dist-info/" not in name}


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone of a repository that holds these sources as they are here, committed or not."""
    folder = tmp_path_factory.mktemp("sources")
    origin = folder / "origin"
    ignore = shutil.ignore_patterns("__pycache__")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, origin / name, symlinks=True, ignore=ignore)
        else:
            origin.mkdir(exist_ok=True)
            shutil.copy(ROOT / name, origin)
    git(origin, "init")
    git(origin, "add", "--all")
    git(origin, "commit", "--message", "sources")
    git(folder, "clone", str(origin), "clone")
    return folder / "clone"


@pytest.fixture(scope="module")
def wheel(clone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of the clone, with setuptools-scm at work, which lists what Git tracks."""
    assert find_spec("setuptools_scm"), "of the dependency group build"
    return built("wheel", clone, tmp_path_factory.mktemp("built") / "wheel")


class Installed:
    """An environment with our wheel, beside the packages of this one; and a folder elsewhere."""

    def __init__(self, folder: Path, wheel: Path) -> None:
        self.elsewhere = folder / "elsewhere"
        self.elsewhere.mkdir()
        self._binaries = folder / "env" / "bin"
        venv.create(folder / "env", with_pip=False)
        (site,) = (folder / "env").glob("lib/python*/site-packages")
        # Packages alone: .pth files of a folder that a .pth file names are not read, so that an
        # editable installation of the checkout is not found.
        (site / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
        with zipfile.ZipFile(wheel) as opened:
            opened.extractall(site)
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

    def play(self, commands: Sequence[str]) -> list[str]:
        """What each of some commands prints, all of them in one process."""
        found: list[str] = json.loads(self.run("python", "-c", PLAYED, *commands))
        return found


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    return Installed(tmp_path_factory.mktemp("installed"), wheel)


def test_a_wheel_of_a_clone_holds_every_configuration(wheel: Path) -> None:
    shipped = {path.relative_to(ROOT) for path in (ROOT / "configs").rglob("*.*")}
    held = {Path(name) for name in names(wheel)}
    assert {path.relative_to("ewsjf_env") for path in held if "configs" in path.parts} == shipped
    assert {Path("ewsjf_env/py.typed"), Path("ewsjf_env/policy/default.json")} < held


def test_a_wheel_by_way_of_an_sdist_is_the_same(wheel: Path, clone: Path, tmp_path: Path) -> None:
    sdist = built("sdist", clone, tmp_path / "sdist")
    with tarfile.open(sdist) as opened:
        opened.extractall(tmp_path, filter="data")
    unpacked = tmp_path / sdist.name.removesuffix(".tar.gz")
    assert names(built("wheel", unpacked, tmp_path / "wheel")) == names(wheel)


def test_sdist_and_wheel_without_git_are_the_same(wheel: Path, clone: Path, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    unwanted = shutil.ignore_patterns(".git", "build", "*.egg-info")
    shutil.copytree(clone, tree, symlinks=True, ignore=unwanted)
    assert names(built("wheel", tree, tmp_path / "wheel")) == names(wheel)
    with tarfile.open(built("sdist", tree, tmp_path / "sdist")) as opened:
        held = {name.partition("/")[2] for name in opened.getnames()}
    assert names(wheel) < held


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


def test_commands_find_what_they_start_from(installed: Installed) -> None:
    train = ["train", "--agent", "sobol", "--agent-config", "sobol", "--config"]
    shown = installed.run("ewsjf", *train, "tuning", "--dry-run")
    assert "steps of 2048 tokens and 256 requests" in shown
    assert installed.run("python", "-m", "agents.cli.train", "--help").startswith("usage: ewsjf t")


def test_commands_in_turn(installed: Installed) -> None:
    """In one process: what takes long is to import vLLM."""
    (installed.elsewhere / "task.yaml").write_text(
        "engine: simulated\nworkload: mixed\nrates_per_s: [30.0]\n"  # nothing to be compiled anew
        "window_s: 8.0\nsettle_s: 1.0\nwindows: 2\n"
    )
    train = "train --agent sobol --agent-config sobol --config task.yaml --windows 2 --out run"
    export = "export run --out policy.json --force --seeds 1 --windows 1"
    evaluate = "evaluate --workload mixed --engine simulated --seeds 1 --rate 3"
    evaluate += " --policies fcfs,policy.json --duration 5 --out runs/table"
    serve = "serve --policy ewsjf --simulate llama3-8b_h100 --model-folder m --tune remote"
    commands = [train, export, evaluate, f"{serve} --dry-run --", "policy-study --help"]
    commands += ["compare --dry-run --out x"]
    trained, exported, evaluated, served, studied, compared = installed.play(commands)
    assert "ewsjf export run --out policy.json" in trained
    assert "policy.json" in exported
    assert "policy" in evaluated
    assert "--max-num-batched-tokens 8192" in served
    assert "--max-num-seqs 1024" in served
    assert studied.startswith("usage: ewsjf policy-study")
    assert "windows of 20 s" in compared
