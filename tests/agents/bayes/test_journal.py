"""Journal files: what a killed writer leaves in them, and what is no journal."""

import multiprocessing
import os
import signal
import time
from pathlib import Path

import optuna
import pytest
from optuna.distributions import FloatDistribution

from agents.bayes.fleet import open_shared
from agents.bayes.journal import JOURNAL, Export, open_journal
from ewsjf_env.config import ConfigError

MARKS: dict[str, str | int] = {"parameter_space_hash": "abc", "context_size": 2}


def shared(folder: Path, name: str = "s", marks: dict[str, str | int] = MARKS) -> optuna.Study:
    return open_shared(str(folder / JOURNAL), name, marks)


def trial(value: float) -> optuna.trial.FrozenTrial:
    return optuna.create_trial(
        value=value, params={"x": value}, distributions={"x": FloatDistribution(0.0, 9.0)}
    )


def test_reopens_what_it_wrote(tmp_path: Path):
    shared(tmp_path).add_trial(trial(1.0))
    again = shared(tmp_path)
    assert [t.value for t in again.trials] == [1.0]
    assert again.user_attrs == MARKS


@pytest.mark.parametrize("key", list(MARKS))
def test_refuses_other_marks(tmp_path: Path, key: str):
    shared(tmp_path)
    with pytest.raises(ConfigError, match=f"{key} is .*, this run's is 7; set `study`"):
        shared(tmp_path, marks=MARKS | {key: 7})


def test_refuses_the_other_direction(tmp_path: Path):
    optuna.create_study(
        storage=open_journal(tmp_path / JOURNAL), study_name="s", direction="minimize"
    )
    with pytest.raises(ConfigError, match="not to be maximised"):
        shared(tmp_path)


def test_refuses_trials_of_unknown_origin(tmp_path: Path):
    shared(tmp_path, marks={}).add_trial(trial(1.0))
    with pytest.raises(ConfigError, match="parameter_space_hash is None"):
        shared(tmp_path)


@pytest.mark.parametrize("bytes_kept", [1, 10, 60])
def test_half_a_line_is_cut(tmp_path: Path, bytes_kept: int):
    shared(tmp_path).add_trial(trial(1.0))
    path = tmp_path / JOURNAL
    whole = path.read_bytes()
    last = whole[:-1].rfind(b"\n") + 1
    path.write_bytes(whole + whole[last : last + bytes_kept])
    shared(tmp_path).add_trial(trial(2.0))
    assert [t.value for t in shared(tmp_path).trials] == [1.0, 2.0]


@pytest.mark.parametrize("text", ["no journal\nat all\n", "one line\n", "7\n", "{}\n", "[]\n"])
def test_a_broken_journal_is_told(tmp_path: Path, text: str):
    (tmp_path / JOURNAL).write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match="not a study journal"):
        shared(tmp_path)


@pytest.mark.parametrize("left", ["nothing", "a broken journal", "another study"])
def test_an_export_is_made_anew_whatever_was_left(tmp_path: Path, left: str):
    if left == "a broken journal":
        (tmp_path / JOURNAL).write_text("7\n{half", encoding="utf-8")
    if left == "another study":
        Export(tmp_path, "other").add(trial(5.0))
    export = Export(tmp_path, "mine")
    for value in (1.0, 2.0):
        export.add(trial(value))
    storage = open_journal(tmp_path / JOURNAL)
    assert optuna.get_all_study_names(storage) == ["mine"]
    study = optuna.load_study(study_name="mine", storage=storage)
    assert [t.value for t in study.trials] == [1.0, 2.0]


def write_for_ever(folder: Path) -> None:
    study = shared(folder)
    while True:
        study.add_trial(trial(1.0))


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
    study = shared(tmp_path)
    assert len(study.trials) > 10
    assert all(t.state.is_finished() for t in study.trials)
