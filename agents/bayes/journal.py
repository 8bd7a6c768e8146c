"""Journal files of Optuna: how one is opened, and the export of a run for optuna-dashboard.

A run's windows.jsonl is its truth.  `study.journal` shows the same windows to a dashboard; it is
written anew by every process that goes on with the run, read by none, and can be deleted.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.study import Study
from optuna.trial import FrozenTrial

from ewsjf_env.config import ConfigError

JOURNAL = "study.journal"


class Export:
    """`study.journal` of a run, made when the first window is added.

    Args:
        folder: of the run, to which nobody else writes.
        name: of the study.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self._path, self._name = folder / JOURNAL, name
        self._study: Study | None = None

    def add(self, trial: FrozenTrial) -> None:
        """Append a finished trial.

        Raises:
            OSError: it cannot be written; the run loses nothing by that.
        """
        if self._study is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.unlink(missing_ok=True)  # an earlier process's, perhaps a part of it
            storage = open_journal(self._path)
            with quiet():
                self._study = optuna.create_study(
                    storage=storage, study_name=self._name, direction="maximize"
                )
        self._study.add_trial(trial)


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
            f"{path}: not a study journal: {error}; name another file, or move this one away"
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
def quiet() -> Iterator[None]:
    """Optuna does not tell of every study that is made."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)
