import multiprocessing
import os
import signal
import time
from pathlib import Path

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from agents.bayes.study import JOURNAL, open_study
from ewsjf_env.config import ConfigError

MARKS: dict[str, str | int] = {"parameter_space_hash": "abc", "context_size": 2}


def foreign_study(folder: Path, name: str, direction: str) -> None:
    storage = JournalStorage(JournalFileBackend(str(folder / JOURNAL)))
    optuna.create_study(storage=storage, study_name=name, direction=direction)


def test_reopens_what_it_wrote(tmp_path: Path):
    study = open_study(tmp_path / "run", "s", MARKS)
    study.add_trial(optuna.create_trial(value=1.0))
    again = open_study(tmp_path / "run", "s", MARKS)
    assert [t.value for t in again.trials] == [1.0]
    assert again.user_attrs == MARKS


@pytest.mark.parametrize("key", list(MARKS))
def test_refuses_other_marks(tmp_path: Path, key: str):
    open_study(tmp_path, "s", MARKS)
    with pytest.raises(ConfigError, match=f"{key} is .*, this run's is 7"):
        open_study(tmp_path, "s", MARKS | {key: 7})


def test_refuses_another_study(tmp_path: Path):
    open_study(tmp_path, "s", MARKS)
    with pytest.raises(ConfigError, match="holds the study 's', not 't'"):
        open_study(tmp_path, "t", MARKS)


def test_refuses_the_other_direction(tmp_path: Path):
    foreign_study(tmp_path, "s", "minimize")
    with pytest.raises(ConfigError, match="not to be maximised"):
        open_study(tmp_path, "s", MARKS)


def test_refuses_trials_of_unknown_origin(tmp_path: Path):
    foreign_study(tmp_path, "s", "maximize")
    open_study(tmp_path, "s", {}).add_trial(optuna.create_trial(value=1.0))
    with pytest.raises(ConfigError, match="parameter_space_hash is None"):
        open_study(tmp_path, "s", MARKS)


@pytest.mark.parametrize("bytes_kept", [1, 10, 60])
def test_half_a_line_is_cut(tmp_path: Path, bytes_kept: int):
    open_study(tmp_path, "s", MARKS).add_trial(optuna.create_trial(value=1.0))
    path = tmp_path / JOURNAL
    whole = path.read_bytes()
    last = whole[:-1].rfind(b"\n") + 1
    path.write_bytes(whole + whole[last : last + bytes_kept])
    again = open_study(tmp_path, "s", MARKS)
    again.add_trial(optuna.create_trial(value=2.0))
    assert [t.value for t in open_study(tmp_path, "s", MARKS).trials] == [1.0, 2.0]


@pytest.mark.parametrize("text", ["no journal\nat all\n", "one line\n", "7\n", "{}\n", "[]\n"])
def test_a_broken_journal_is_told(tmp_path: Path, text: str):
    (tmp_path / JOURNAL).write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match="not a study journal"):
        open_study(tmp_path, "s", MARKS)


def write_for_ever(folder: Path) -> None:
    study = open_study(folder, "s", MARKS)
    while True:
        study.ask()


def test_a_killed_writer_leaves_a_study_that_opens_at_once(tmp_path: Path):
    path = tmp_path / JOURNAL
    writer = multiprocessing.get_context("spawn").Process(target=write_for_ever, args=(tmp_path,))
    writer.start()
    while not path.exists() or path.stat().st_size < 20_000:  # well under way
        assert writer.is_alive()
        time.sleep(0.01)
    assert writer.pid is not None
    os.kill(writer.pid, signal.SIGKILL)
    writer.join()
    study = open_study(tmp_path, "s", MARKS)
    assert len(study.trials) > 10
    assert all(t.state.is_finished() for t in study.trials)
