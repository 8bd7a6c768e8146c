"""A store of results: a folder in which nothing is computed twice, whatever ends a process.

A result is a JSON mapping in a file of its own, written whole or not at all.  Its key is a hash of
everything that decides it (`key_of`), so that a changed setting never meets an old result: results
of other settings lie beside, and are left alone.  A result carries a seal, a hash of itself: one
that was damaged, even to a mapping that lacks a key, is told and made again.  What failed has a
file that says why, and is tried again by the next call.  Several processes may work on one folder:
what another one has finished meanwhile is taken from it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NewType

from joblib import Parallel, delayed

from agents.core.files import write_json
from agents.core.progress import Progress
from ewsjf_env.config import ConfigError, to_dict
from ewsjf_env.engine.base import EngineError

KILLED = "its worker process was killed (out of memory?)"
SEAL = "sha256"  # the key under which a result's file has the hash of all its others
RESULT, FAILURE, RUNNING = ".json", ".failure.json", ".running"
WORD_LENGTH = 60  # characters of each readable part of a file's name

Key = NewType("Key", str)
"""Of a result: the name of its file without suffix."""
Result = dict[str, Any]
Compute = Callable[[], Result]


class WorkerKilled(BrokenProcessPool):
    """A worker was killed, it is known which, and all others go on: so Ray says it."""

    def __init__(self, arguments: tuple[Any, ...]) -> None:
        """`arguments`: of the call whose worker was killed."""
        super().__init__(KILLED)
        self.arguments = arguments


def digest(content: object, digits: int = 16) -> str:
    """Hexadecimal digits of a hash of plain values and dataclasses: equal content, equal digits.

    Raises:
        TypeError, ValueError: a value that JSON does not have, such as an object or NaN.
    """
    text = json.dumps(to_dict(content), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:digits]


def key_of(content: object, *words: str) -> Key:
    """The key of a result.

    Args:
        content: everything that decides the result, as `digest` takes it.
        words: for people who read the folder; they may be the same for different results.
    """
    said = (re.sub(r"[^A-Za-z0-9.=+-]+", "_", word).strip("_")[:WORD_LENGTH] for word in words)
    return Key("__".join([*said, digest(content)]))


class Store:
    """The results in a folder, which need not be there yet.

    Args:
        folder: of the files.
        sealed: each has a seal; False: files that people read, and may have changed.
    """

    def __init__(self, folder: Path, sealed: bool = True) -> None:
        self.folder, self._sealed = folder, sealed

    def path(self, key: Key) -> Path:
        """The file of a result."""
        return self.folder / f"{key}{RESULT}"

    def find(self, key: Key) -> Result | None:
        """A result; None where there is none, or a damaged one."""
        found = _read(self.path(key))
        if found is None or not self._sealed:
            return found
        seal = found.pop(SEAL, None)
        return found if found and seal == _seal(found) else None

    def keep(self, key: Key, result: Result) -> None:
        """Write a result.

        Raises:
            OSError: the folder or the file cannot be written.
            ValueError: NaN, or another value that JSON does not have.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        seal = {SEAL: _seal(result)} if self._sealed else {}
        write_json(self.path(key), {**result, **seal})

    def get(self, key: Key, compute: Compute) -> Result:
        """A result: that of the folder, or one that is computed now, and kept."""
        found = self.find(key)
        if found is None:
            self._tell_damaged([key])
            found = compute()
            self.keep(key, found)
        return found

    def get_all(
        self, tasks: Mapping[Key, Compute], workers: int, progress: Progress
    ) -> tuple[dict[Key, Result], dict[Key, str]]:
        """Many results, and reasons of those that failed; both in the order of the tasks.

        A task that raises, or whose worker is killed, has failed; the others go on.  An
        interruption keeps what is finished.

        Args:
            tasks: what makes each result, for another process.
            workers: processes; 1 works in this one, unless `parallel_on` says otherwise.
            progress: wraps the keys as their results come in.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        for key in tasks:
            for suffix in (FAILURE, RUNNING):
                self._beside(key, suffix).unlink(missing_ok=True)
        todo = [key for key in tasks if self.find(key) is None]
        self._tell_damaged(todo)
        if todo:
            for _ in progress(self._finished(todo, tasks, workers), len(todo)):
                pass
        found = {key: self.find(key) for key in tasks}
        results = {key: result for key, result in found.items() if result is not None}
        return results, {key: self._reason(key) for key in tasks if key not in results}

    def every(self, tasks: Mapping[Key, Compute], workers: int, progress: Progress) -> list[Result]:
        """`get_all`, where one failure is too many.

        Raises:
            ConfigError: the first failure was bad input.
            EngineError: it was something else.
        """
        results, failures = self.get_all(tasks, workers, progress)
        for key, reason in failures.items():
            kind, _, text = reason.partition(": ")
            if kind == ConfigError.__name__:
                raise ConfigError(text)
            raise EngineError(
                f"{len(failures)} of {len(tasks)} runs failed; the first: {key}: {reason}; the "
                "same command tries them again"
            )
        return list(results.values())

    def others(self, keys: Iterable[Key]) -> int:
        """How many results and failures in the folder are of other keys."""
        ours = {f"{key}{suffix}" for key in keys for suffix in (RESULT, FAILURE)}
        return sum(path.name not in ours for path in self.folder.glob(f"*{RESULT}"))

    def _finished(
        self, todo: list[Key], tasks: Mapping[Key, Compute], workers: int
    ) -> Iterator[Key]:
        """Keys as their tasks end, one way or the other."""
        while todo:
            calls = (delayed(_attempt)(key, tasks[key], self) for key in todo)
            try:
                for ended in Parallel(n_jobs=workers, return_as="generator_unordered")(calls):
                    yield self._conclude(ended)
                return
            except WorkerKilled as error:
                yield self._conclude(_Ended(error.arguments[0], reason=KILLED))
                suspects = []
            except BrokenProcessPool:
                # The whole pool is gone.  One of the tasks that had started is to blame, the
                # others only shared its fate: each is tried again alone.
                suspects = [key for key in todo if self._beside(key, RUNNING).exists()]
                suspects = suspects or todo[:1]
            for key in suspects:
                yield self._alone(key, tasks[key])
            todo = [key for key in todo if not self._settled(key)]

    def _alone(self, key: Key, compute: Compute) -> Key:
        try:
            # One task for two workers: joblib starts a process of its own for it.
            (ended,) = Parallel(n_jobs=2)([delayed(_attempt)(key, compute, self)])
        except BrokenProcessPool:
            ended = _Ended(key, reason=KILLED)
        return self._conclude(ended)

    def _conclude(self, ended: _Ended) -> Key:
        """Write the one file of a task, here where all of them come together."""
        self._beside(ended.key, RUNNING).unlink(missing_ok=True)  # of a worker that was killed
        reason = ended.reason
        if ended.result is not None:
            try:
                self.keep(ended.key, ended.result)
            except (OSError, ValueError) as error:  # a full disk, a result with NaN
                reason = _told(error)
        if reason:
            write_json(self._beside(ended.key, FAILURE), {"reason": reason})
        return ended.key

    def _tell_damaged(self, missing: Iterable[Key]) -> None:
        """One line about files that are there and hold no result."""
        damaged = [self.path(key) for key in missing if self.path(key).exists()]
        if damaged:
            more = f" and {len(damaged) - 1} more" if len(damaged) > 1 else ""
            print(
                f"{damaged[0]}{more}: damaged, or written by an older version; made again",
                file=sys.stderr,
            )

    def _settled(self, key: Key) -> bool:
        return self.find(key) is not None or self._beside(key, FAILURE).exists()

    def _reason(self, key: Key) -> str:
        failure = _read(self._beside(key, FAILURE)) or {"reason": "not run"}
        return str(failure["reason"])

    def _beside(self, key: Key, suffix: str) -> Path:
        return self.folder / f"{key}{suffix}"


@dataclass(frozen=True)
class _Ended:
    """What a worker hands back of a task: its result, or why there is none."""

    key: Key
    result: Result | None = None
    reason: str = ""


def _attempt(key: Key, compute: Compute, store: Store) -> _Ended:
    """In a worker: another process on the folder may have been faster."""
    running = store.folder / f"{key}{RUNNING}"
    with contextlib.suppress(OSError):  # on another machine there may be no such folder
        if store.find(key) is not None:
            return _Ended(key)
        running.touch()
    try:
        ended = _Ended(key, compute())
    except Exception as error:  # one bad task must not lose the others: it is reported by name
        ended = _Ended(key, reason=_told(error))
    with contextlib.suppress(OSError):
        running.unlink(missing_ok=True)
    return ended


def _told(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


def _seal(result: Mapping[str, Any]) -> str:
    """The hash of a result as its file says it."""
    return digest(json.loads(json.dumps(result, allow_nan=False)))


def _read(path: Path) -> Result | None:
    """The JSON mapping in a file; None where there is none, or one that is damaged."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return data if isinstance(data, dict) and data else None
