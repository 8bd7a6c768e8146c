"""A Ray cluster as a backend of joblib.

It makes every call a Ray task of one CPU.  Ray's own (`ray.util.joblib`) deals
calls out to a fixed pool of actors in turn: one that is busy gets the next call while others
wait, results only come back when all are there, and a worker that dies takes all calls with it.
Here the next call goes wherever a CPU is free, results come one by one, Ray gives a call whose
worker was killed one more try, and then says which it was.

Needs the package `ray`; imported by `agents.experiments.backend` alone, when it is asked for.
"""

from __future__ import annotations

import os
import socket
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from importlib.metadata import version
from pathlib import Path
from typing import Any

import ray
from joblib.parallel import ParallelBackendBase
from ray.exceptions import (
    NodeDiedError,
    OutOfMemoryError,
    RayError,
    RayTaskError,
    WorkerCrashedError,
)

from agents.core.store import WorkerKilled
from ewsjf_env import __version__
from ewsjf_env.config import ConfigError
from ewsjf_env.engine.base import EngineError

TRIES_MORE = 1  # of a call whose worker was killed
CONNECT_S = 10.0


class RayTasks(ParallelBackendBase):
    """The backend; see the module.  At most `n_jobs` calls are with Ray at a time."""

    supports_retrieve_callback = True

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._jobs = 1
        self._lock = threading.RLock()
        self._waiting: deque[_Call] = deque()
        self._running: set[_Call] = set()

    def effective_n_jobs(self, n_jobs: int) -> int:
        """Number of calls at a time: as many as are asked for."""
        return n_jobs

    def configure(self, n_jobs: int = 1, parallel: Any = None, **options: Any) -> int:
        """Get ready for one `Parallel`."""
        self.parallel = parallel
        self._jobs = n_jobs
        return n_jobs

    def submit(self, func: Any, callback: Callable[[_Call], None]) -> _Call:
        """Queue a call; `callback` gets it back when it is done or has failed."""
        call = _Call(func, callback)
        with self._lock:
            self._waiting.append(call)
        self._start()
        return call

    def retrieve_result_callback(self, call: _Call) -> Any:
        """What came of a call.

        Raises:
            WorkerKilled: its worker was, each time.
            EngineError: the cluster has failed.
        """
        try:
            return call.done.result()
        except RayTaskError as error:
            raise error.cause from None
        except (WorkerCrashedError, NodeDiedError, OutOfMemoryError):
            raise WorkerKilled(call.arguments) from None
        except RayError as error:
            raise EngineError(f"ray: {_line(error)}") from None

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """Drop what waits, and end what runs."""
        with self._lock:
            self._waiting.clear()
            running = list(self._running)
        for call in running:
            ray.cancel(call.ref, force=True)

    def terminate(self) -> None:
        """Nothing is left over: Ray ends a cluster of its own with this process."""

    def _start(self) -> None:
        with self._lock:
            while self._waiting and len(self._running) < self._jobs:
                call = self._waiting.popleft()
                self._running.add(call)
                call.ref = _run_there.remote(call.func, str(Path.cwd()), _versions())
                call.ref.future().add_done_callback(lambda done, call=call: self._end(call, done))

    def _end(self, call: _Call, done: Future[Any]) -> None:
        with self._lock:
            self._running.discard(call)
        call.done = done
        self._start()
        call.callback(call)


class _Call:
    """A batch of calls of joblib, which is one here."""

    def __init__(self, func: Any, callback: Callable[[_Call], None]) -> None:
        self.func, self.callback = func, callback
        self.ref: Any = None
        self.done: Future[Any] = Future()

    @property
    def arguments(self) -> tuple[Any, ...]:
        return tuple(argument for _, given, _ in self.func.items for argument in given)


def connect(jobs: int) -> None:
    """Use the cluster of RAY_ADDRESS; where that is not set, start one of `jobs` CPUs here.

    Raises:
        ConfigError: nothing answers at RAY_ADDRESS.
    """
    if ray.is_initialized():
        return
    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    address = os.environ.get("RAY_ADDRESS")
    if not address:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        ray.init(address="local", num_cpus=jobs, include_dashboard=False, **quiet)
        return
    host, _, port = address.rpartition("://")[2].rpartition(":")
    try:
        if port.isdecimal():  # Ray itself would try for minutes
            socket.create_connection((host.strip("[]"), int(port)), CONNECT_S).close()
        ray.init(**quiet)
    except (OSError, RuntimeError, ValueError, RayError) as error:
        raise ConfigError(f"RAY_ADDRESS: {address!r}: {_line(error)}") from None


@ray.remote(num_cpus=1, max_retries=TRIES_MORE)
def _run_there(func: Any, folder: str, versions: tuple[str, str]) -> Any:
    """The call, in the folder where the command was given: file names mean the same there."""
    node = socket.gethostname()
    if versions != _versions():
        raise ConfigError(
            f"--backend: {node} has ewsjf-env and vllm {_versions()}, here they are {versions}"
        )
    try:
        os.chdir(folder)
    except OSError:
        raise ConfigError(
            f"--backend: {node} has no {folder}; Ray needs the same paths on all machines"
        ) from None
    return func()


def _versions() -> tuple[str, str]:
    return __version__, version("vllm")


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
