"""A study in a real PostgreSQL: tuners that start together, are killed, and lose the database."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml

from agents.bayes.fleet import NAME, RUN, Recorded
from agents.bayes.journal import open_journal
from agents.bayes.storage import open_storage
from agents.bayes.trials import WINDOW
from agents.cli.train import main as train
from agents.runs.folder import WINDOWS, RunDir
from agents.runs.loop import tune
from tests.agents.bayes.postgresql_server import PASSWORD, USER, WANTED, Database, binaries
from tests.agents.bayes.test_shared_study import TASK
from tests.serving.server import free_port

ROOT = Path(__file__).parents[3]
missing = "" if binaries() else WANTED
if importlib.util.find_spec("psycopg") is None:
    missing = "psycopg is not installed: pip install -e '.[postgresql]'"
pytestmark = pytest.mark.skipif(bool(missing), reason=missing)


@pytest.fixture(scope="module")
def server() -> Iterator[Database]:
    database = Database()
    yield database
    database.close()


@pytest.fixture
def database(server: Database, monkeypatch: pytest.MonkeyPatch) -> Database:
    """The server, with the password where PostgreSQL's client looks for it."""
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    return server


@pytest.fixture
def task(tmp_path: Path) -> Path:
    """Arguments for a study that no other test has."""
    (tmp_path / "task.yaml").write_text(yaml.safe_dump(TASK))
    agent = {"study": tmp_path.name, "search": {"candidates": 32, "refinements": 1}}
    (tmp_path / "agent.yaml").write_text(yaml.safe_dump(agent))
    return tmp_path


def command(database: Database, task: Path, name: str, seed: int, windows: int) -> list[str]:
    return [
        *("--agent", "bayes", "--config", str(task / "task.yaml")),
        *("--agent-config", str(task / "agent.yaml"), "--seed", str(seed)),
        *("--windows", str(windows), "--out", str(task / name), "--storage", database.url),
    ]


def start(arguments: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(ROOT / "scripts" / "train.py"), *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT) + os.pathsep + os.environ.get("PYTHONPATH", "")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def trials(database: Database, task: Path) -> list[optuna.trial.FrozenTrial]:
    storage = open_storage(database.url, open_journal)
    return optuna.load_study(study_name=task.name, storage=storage).trials


def by_run(found: list[optuna.trial.FrozenTrial]) -> dict[str, list[int]]:
    windows: dict[str, list[int]] = {}
    for trial in found:
        windows.setdefault(trial.user_attrs[NAME], []).append(trial.user_attrs[WINDOW])
    return windows


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / WINDOWS).read_text().splitlines()]


@pytest.mark.slow
def test_tuners_that_start_together_share_one_study(database: Database, task: Path) -> None:
    """On a database without tables, which one of them makes."""
    both = [start(command(database, task, name, seed, 5)) for seed, name in enumerate("ab")]
    for tuner in both:
        output, _ = tuner.communicate(timeout=300)
        assert tuner.returncode == 0, output
        assert PASSWORD not in output
    assert by_run(trials(database, task)) == {"a": [0, 1, 2, 3, 4], "b": [0, 1, 2, 3, 4]}
    # A third one proposes with the trials of both.
    assert train(command(database, task, "c", 2, 2)) == 0
    assert len(Recorded(task / "c").found) == 10
    assert lines(task / "c")[1]["agent"]["diagnostics"]["bo/shared_windows"] == 10.0
    rewards = {(t.user_attrs[NAME], t.user_attrs[WINDOW]): t.value for t in trials(database, task)}
    for name in "abc":
        for line in lines(task / name):
            assert rewards[name, line["window"]] == line["score"]["reward"]
    for path in task.rglob("*"):
        if path.is_file():
            assert PASSWORD.encode() not in path.read_bytes(), path
    assert f"{USER}@127.0.0.1" in (task / "a" / "config.yaml").read_text()


@pytest.mark.slow
def test_a_killed_tuner_goes_on_and_adds_nothing_twice(database: Database, task: Path) -> None:
    assert train(command(database, task, "other", 5, 3)) == 0
    tuner = start(command(database, task, "killed", 1, 40))
    deadline_s = time.monotonic() + 200.0
    path = task / "killed" / WINDOWS
    while not path.exists() or path.read_bytes().count(b"\n") < 3:
        assert tuner.poll() is None and time.monotonic() < deadline_s
        time.sleep(0.05)
    tuner.send_signal(signal.SIGKILL)
    tuner.communicate()
    done = len(lines(task / "killed")) + 2
    assert train(["--resume", str(task / "killed"), "--windows", str(done)]) == 0
    assert by_run(trials(database, task)) == {"other": [0, 1, 2], "killed": [*range(done)]}
    assert len({t.user_attrs[RUN] for t in trials(database, task)}) == 2
    assert [found.before for found in Recorded(task / "killed").found] == [0, 0, 0]


def test_a_database_that_goes_away_is_no_end(
    database: Database, task: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(command(database, task, "run", 1, 1)) == 0
    run = RunDir.open(task / "run", lock=True)

    def away(progress: Any) -> None:
        if progress.window == 2:
            database.stop()
        if progress.window == 4:
            database.start()

    try:
        tune(run, 7, away)
    finally:
        run.close()
    assert by_run(trials(database, task)) == {"run": [*range(7)]}
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("storage: ")]
    assert len(told) == 2, told
    assert "the run goes on alone" in told[0] and "answers again" in told[1]


@pytest.mark.parametrize("trouble", ["password", "port", "database"])
def test_what_cannot_be_reached_is_one_line(
    database: Database,
    task: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    trouble: str,
) -> None:
    words = command(database, task, "run", 1, 1)
    if trouble == "password":
        monkeypatch.setenv("PGPASSWORD", "another")
    elif trouble == "port":
        words[-1] = f"postgresql://{USER}@127.0.0.1:{free_port()}/postgres"
    else:
        words[-1] = database.url.replace("/postgres", "/nowhere")
    assert train(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    expected = {"password": "password authentication failed", "port": "refused"}
    assert line.startswith("error: storage: postgresql://tuner@")
    assert expected.get(trouble, "does not exist") in line
    assert "another" not in line and not (task / "run").exists()
