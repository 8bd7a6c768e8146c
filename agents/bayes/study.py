"""How is the study of a run opened, so that a kill at any moment does no harm?

One folder holds one study in one journal file.  A killed process may leave half a line in it,
a lock, and a trial that runs for ever; all three are put right when the study is opened again.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import optuna
from optuna.storages import BaseStorage, InMemoryStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.study import Study, StudyDirection
from optuna.trial import TrialState

from agents.bayes.trials import IGNORED
from ewsjf_env.config import ConfigError

JOURNAL = "study.journal"
KILLED = "killed while its window ran"


class _KernelLock(JournalFileOpenLock):
    """A lock of the kernel's on `<journal>.lock`: it ends with the process that holds it.

    Optuna's own locks are files, and one left by a killed process blocks the next for 30 s.
    Whoever gets it cuts off what a killed process left of a line, before writing behind it.
    """

    def __init__(self, journal: Path) -> None:
        super().__init__(str(journal))
        self._journal = journal
        self._path = journal.with_name(journal.name + ".lock")
        self._descriptor: int | None = None

    def acquire(self) -> bool:
        descriptor = os.open(self._path, os.O_CREAT | os.O_RDWR)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        self._descriptor = descriptor
        _drop_half_line(self._journal)
        return True

    def release(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def open_study(folder: Path | None, name: str, marks: Mapping[str, str | int]) -> Study:
    """Open or create the study `name`, to be maximised, in `folder`; None: in memory.

    Args:
        folder: holds `study.journal`; made when missing.
        name: of the study; a journal holds one.
        marks: what trials depend on, for example the hash of the parameter space; written to
            the attributes of a new study and compared with those of an old one.

    Raises:
        ConfigError: the journal is unreadable, holds another study, or one of other marks.
    """
    where = str(folder / JOURNAL) if folder is not None else "study in memory"
    storage: BaseStorage = InMemoryStorage()
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        storage = open_journal(folder / JOURNAL)
    names = [s.study_name for s in optuna.get_all_study_summaries(storage=storage)]
    if names and name not in names:
        raise ConfigError(f"{where}: holds the study {names[0]!r}, not {name!r}")
    study = marked_study(storage, where, name, marks)
    discard_unfinished(study, KILLED)
    return study


def marked_study(
    storage: BaseStorage,
    where: str,
    name: str,
    marks: Mapping[str, str | int],
    otherwise: str = "start a new run",
) -> Study:
    """The study `name`, to be maximised, of a storage that may hold others; made when missing.

    Raises:
        ConfigError: it is one of other marks; `where` begins the line, `otherwise` ends it.
    """
    with _quiet():
        study = optuna.create_study(
            storage=storage, study_name=name, direction="maximize", load_if_exists=True
        )
    # load_if_exists takes a study of the other direction without a word.
    if study.directions != [StudyDirection.MAXIMIZE]:
        raise ConfigError(f"{where}: study {name!r} is not to be maximised")
    for key, value in marks.items():
        # A kill right after the study was created leaves it without marks, and without trials.
        if key not in study.user_attrs and not study.get_trials(deepcopy=False):
            study.set_user_attr(key, value)
        found = study.user_attrs.get(key)
        if found != value:
            raise ConfigError(f"{where}: {key} is {found!r}, this run's is {value!r}; {otherwise}")
    return study


def discard_unfinished(study: Study, reason: str) -> None:
    """End every trial that waits or runs as failed and ignored: nobody will tell its result."""
    for trial in study.get_trials(deepcopy=False, states=(TrialState.WAITING, TrialState.RUNNING)):
        study._storage.set_trial_user_attr(trial._trial_id, IGNORED, reason)
        study._storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)


def open_journal(path: Path) -> JournalStorage:
    """The storage in a journal file; made when missing.

    Raises:
        ConfigError: the file is something else.
    """
    lock = _KernelLock(path)
    lock.acquire()
    lock.release()
    try:
        if path.exists():  # Optuna looks at the last line when it has written another
            json.loads((path.read_bytes().splitlines() or [b"{}"])[-1])
        return JournalStorage(JournalFileBackend(str(path), lock_obj=lock))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{path}: not a study journal: {error}; move it away to have the study made anew from "
            "the windows of the run"
        ) from None


def _drop_half_line(path: Path) -> None:
    """Cut what follows the last newline: a line that was being written when a process died."""
    if not path.exists():
        return
    with path.open("rb+") as file:
        if not file.seek(0, os.SEEK_END):
            return
        file.seek(-1, os.SEEK_END)
        if file.read(1) != b"\n":
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)


@contextmanager
def _quiet() -> Iterator[None]:
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)
