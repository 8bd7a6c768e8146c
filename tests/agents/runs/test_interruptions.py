"""A run that is killed, interrupted or out of disk goes on as if nothing had happened."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from optuna.trial import TrialState

from agents.bayes.journal import JOURNAL
from agents.runs.folder import RunDir
from tests.agents.forked import Trainer, cpu_s
from tests.agents.run_folders import GUARDED, SHORT

QUICK = {"startup_points": 2, "search": {"candidates": 32, "refinements": 1}}
KILLS = 20


@pytest.fixture(scope="module")
def trainer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trainer]:
    process = Trainer(tmp_path_factory.mktemp("log") / "log.txt")
    yield process
    process.close()


class Case:
    """Runs of one task by one agent, in folders by name."""

    def __init__(
        self, folder: Path, agent: str, task: Mapping[str, Any], settings: Any = None
    ) -> None:
        self.folder = folder
        (folder / "task.yaml").write_text(yaml.safe_dump(dict(task)))
        self.new = ["--agent", agent, "--config", str(folder / "task.yaml"), "--seed", "3"]
        if settings is not None:
            (folder / "agent.yaml").write_text(yaml.safe_dump(settings))
            self.new += ["--agent-config", str(folder / "agent.yaml")]

    def arguments(self, name: str, windows: int) -> list[str]:
        """Start the run, or go on with it."""
        path = self.folder / name
        known = (path / "config.yaml").exists()
        how = ["--resume", str(path)] if known else [*self.new, "--out", str(path)]
        return [*how, "--windows", str(windows)]

    def lines(self, name: str) -> bytes:
        path = self.folder / name / "windows.jsonl"
        return path.read_bytes() if path.exists() else b""


def agree(case: Case, trainer: Trainer) -> None:
    """Finish the run `torn` and compare it with one that nothing happened to."""
    windows = case.lines("torn").count(b"\n") + 3
    assert trainer.train(*case.arguments("torn", windows)) == 0, trainer.errors
    assert trainer.train(*case.arguments("whole", windows)) == 0, trainer.errors
    assert case.lines("torn") == case.lines("whole")
    torn, whole = (RunDir.open(case.folder / name) for name in ("torn", "whole"))
    assert [r.window for r in torn.windows()] == list(range(windows))
    assert torn.summary() is not None
    assert torn.summary() == whole.summary()
    table = (torn.path / "progress.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in table] == ["window", *map(str, range(windows))]


def test_killed_at_any_moment(trainer: Trainer, tmp_path: Path) -> None:
    case = Case(tmp_path, "sobol", SHORT)
    moments = random.Random(1)
    for _ in range(KILLS):
        kill_s = moments.uniform(0.0, 0.4)
        pid = trainer.start(case.arguments("torn", 10_000))
        while cpu_s(pid) < kill_s:
            time.sleep(0.002)
        os.kill(pid, signal.SIGKILL)
        assert trainer.wait() == -signal.SIGKILL
    assert case.lines("torn").count(b"\n") >= KILLS
    agree(case, trainer)


@pytest.mark.parametrize("task", [SHORT, GUARDED], ids=["free", "guarded"])
def test_killed_before_amid_and_after_writes(
    trainer: Trainer, tmp_path: Path, task: Mapping[str, Any]
) -> None:
    """The study that is exported is torn, too."""
    case = Case(tmp_path, "bayes", task, QUICK)
    points = random.Random(2)
    for _ in range(KILLS):
        # Amid what a resumed run writes again (six moments a window), or amid new windows.
        last = 90 + 12 * case.lines("torn").count(b"\n")
        arguments = case.arguments("torn", 10_000)
        assert trainer.train(*arguments, die_at=points.randint(1, last)) == -signal.SIGKILL
    assert case.lines("torn").count(b"\n") >= KILLS // 2
    agree(case, trainer)
    for name in ("torn", "whole"):
        trials = study_of(case.folder / name)
        assert all(trial.state in (TrialState.COMPLETE, TrialState.FAIL) for trial in trials)
        learnt = [t.user_attrs["window"] for t in trials if t.state == TrialState.COMPLETE]
        windows = RunDir.open(case.folder / name).windows()
        assert learnt == [r.window for r in windows if not r.agent.void]


def study_of(folder: Path) -> list[Any]:
    """Trials as they stand in the journal."""
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    storage = JournalStorage(JournalFileBackend(str(folder / JOURNAL)))
    (study,) = optuna.get_all_study_summaries(storage=storage)
    return optuna.load_study(study_name=study.study_name, storage=storage).get_trials()


def test_ctrl_c_leaves_a_run_to_resume(trainer: Trainer, tmp_path: Path) -> None:
    case = Case(tmp_path, "random", SHORT)
    pid = trainer.start(case.arguments("torn", 10_000))
    while case.lines("torn").count(b"\n") < 5:
        time.sleep(0.01)
    os.kill(pid, signal.SIGINT)
    assert trainer.wait() == 130
    assert not trainer.errors
    assert "interrupted: continue with: " in trainer.printed
    assert " train --resume " in trainer.printed
    agree(case, trainer)


def test_a_full_disk_is_one_error_and_loses_nothing(trainer: Trainer, tmp_path: Path) -> None:
    case = Case(tmp_path, "sobol", SHORT)
    assert trainer.train(*case.arguments("torn", 3)) == 0
    size = len(case.lines("torn"))
    for room in (10, size):  # in the middle of the next line; some windows later
        arguments = case.arguments("torn", 10_000)
        before = case.lines("torn")
        assert trainer.train(*arguments, limit_files_to=len(before) + room) == 2
        assert "cannot be written" in trainer.error
        assert "resume" in trainer.error
        assert case.lines("torn").startswith(before)
        assert case.lines("torn").endswith(b"}\n")
    agree(case, trainer)


def test_a_disk_that_is_full_for_the_study(trainer: Trainer, tmp_path: Path) -> None:
    case = Case(tmp_path, "bayes", SHORT, QUICK)
    for windows in (2, 3):
        arguments = case.arguments("torn", 10_000)
        assert trainer.train(*arguments, fill_journal_after=windows) == 2
        assert "cannot be written" in trainer.error
        assert "resume" in trainer.error
    assert case.lines("torn").count(b"\n") == 5
    agree(case, trainer)


def test_a_disk_that_is_full_from_the_start(trainer: Trainer, tmp_path: Path) -> None:
    case = Case(tmp_path, "sobol", SHORT)
    assert trainer.train(*case.arguments("torn", 3), limit_files_to=300) == 2
    assert "torn: cannot be written" in trainer.error
    assert not case.lines("torn")
    agree(case, trainer)


def test_two_processes_on_one_run(trainer: Trainer, tmp_path: Path) -> None:
    case = Case(tmp_path, "sobol", SHORT)
    assert trainer.train(*case.arguments("torn", 1)) == 0
    run = RunDir.open(tmp_path / "torn", lock=True)
    assert trainer.train(*case.arguments("torn", 2)) == 2
    assert "another process is working on this run" in trainer.error
    assert json.loads(case.lines("torn"))["window"] == 0
    run.close()
    agree(case, trainer)
