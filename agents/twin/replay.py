"""Replays: what a policy would have made of recorded requests, and the processes that do them.

A replay serves a block (`traffic.Block`) from an empty engine and measures its windows as the
environment does.  It depends on its arguments alone, so that what was replayed once is never
replayed again, not even by a run that was killed and resumed: results are kept by a hash of the
arguments, in memory and in `twin.jsonl`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import time
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import BrokenExecutor, Future, wait
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from loky import ProcessPoolExecutor

from agents.core.files import LineFile
from agents.twin.blocks import Block, Fit, own_latencies
from ewsjf_env.config import to_dict
from ewsjf_env.engine.base import Engine, EngineError
from ewsjf_env.engine.play import begin, run_until
from ewsjf_env.engine.simulated.latency import LatencyModel
from ewsjf_env.engine.virtual import build_virtual
from ewsjf_env.env.task import Task
from ewsjf_env.measure.records import WindowMetrics
from ewsjf_env.measure.traffic import QueueStatistics, queue_statistics
from ewsjf_env.parameters import Value
from ewsjf_env.policy.policy import Policy

RESULTS = "twin.jsonl"
IDLE_S = 60.0  # a worker without work ends after this
REPLAY_TRIES = 3  # where its process was killed
LOOK_S = 1.0  # between two looks whether the processes live
NICENESS = 10
_NAMES = tuple(f.name for f in dataclasses.fields(WindowMetrics))
Values = Mapping[str, Value]


@dataclass(frozen=True)
class Replay:
    """One replay to be done.

    Attributes:
        block: the requests, and where its windows lie.
        policy: in force before the first window.
        values: parameter values from each window on, one mapping a window; the last ones stay.
        latency: of the machine; None: that of the task.
    """

    block: Block
    policy: Policy
    values: tuple[Values, ...]
    latency: LatencyModel | None = None

    @cached_property
    def key(self) -> str:
        """16 hex digits of everything that decides the result, the task apart."""
        policy = {k: v for k, v in self.policy.to_dict().items() if k not in ("name", "provenance")}
        c = None if self.latency is None else to_dict(self.latency.coefficients)
        served = [dict(self.policy.with_parameters(v).parameters) for v in self.values]
        content = [self.block.key, policy, served, c]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Served:
    """One window of a replay.

    Attributes:
        metrics: of the window.
        queues: how the partition in force fits its arrivals.
        fit: latencies of the requests recorded with it, to compare with the measured ones.
    """

    metrics: WindowMetrics
    queues: QueueStatistics
    fit: Fit


@dataclass(frozen=True)
class Result:
    """All windows of a replay, and what it took.

    Attributes:
        windows: one a window of the block.
        cpu_s: of the process.
    """

    windows: tuple[Served, ...]
    cpu_s: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values, short: a run keeps hundreds of these."""
        return {
            "windows": [
                [
                    [w.metrics.to_dict()[name] for name in _NAMES],
                    list(dataclasses.astuple(w.queues)),
                    list(dataclasses.astuple(w.fit)),
                ]
                for w in self.windows
            ],
            "cpu_s": self.cpu_s,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Result:
        """Inverse of `to_dict`."""
        windows = tuple(
            Served(
                WindowMetrics.from_dict(dict(zip(_NAMES, metrics, strict=True))),
                QueueStatistics(*queues),
                Fit(*fit),
            )
            for metrics, queues, fit in data["windows"]
        )
        return cls(windows, float(data["cpu_s"]))


def serve(task: Task, replay: Replay) -> Result:
    """Do a replay in this process.

    Args:
        task: on an engine in virtual time, see `Task.twin`.
        replay: what to serve.

    Raises:
        EngineError: the engine failed.
    """
    started = time.process_time()
    block = replay.block
    engine: Engine
    if replay.latency is not None and task.has_model:
        engine = build_virtual(task.simulated, replay.latency)
    else:
        engine = task.build_engine()
    windows = []
    try:
        begin(engine, replay.policy, block.trace)
        for window, values in zip(block.windows, replay.values, strict=True):
            run_until(engine, window.switch_s)
            engine.apply(values)
            run_until(engine, window.start_s)
            metrics = engine.run_window(window.end_s - window.start_s)
            cuts = engine.cuts()
            requests = engine.requests(window.start_s, window.end_s)
            if window.fallback is not None:
                engine.apply(window.fallback)
            run_until(engine, window.until_s)
            queues = queue_statistics(requests, cuts, window.start_s)
            fit = own_latencies(engine.records(), window.since_s, window.until_s)
            windows.append(Served(metrics, queues, fit))
    finally:
        engine.close()
    return Result(tuple(windows), time.process_time() - started)


class Replayer:
    """Does replays, several at a time in other processes, and remembers all results.

    Args:
        task: on an engine in virtual time.
        jobs: processes beside this one, >= 0; 0: replays run in this process.
        folder: results are kept there, too, in `twin.jsonl`; None: nowhere.
        kept: another folder with results, to read only.

    Raises:
        OSError: results of an earlier process cannot be read.
    """

    def __init__(
        self, task: Task, jobs: int, folder: Path | None = None, kept: Path | None = None
    ) -> None:
        self._task, self._jobs = task, jobs
        self._known: dict[str, Result] = {}
        self._pool: ProcessPoolExecutor | None = None
        self._file: LineFile | None = None
        if kept is not None:
            self._read(LineFile(kept / RESULTS))
        if folder is not None:
            self._file = LineFile(folder / RESULTS)
            self._file.mend()
            self._read(self._file)

    @property
    def at_once(self) -> int:
        """How many replays run at the same time, >= 1."""
        return max(1, self._jobs)

    def results(self, replays: Sequence[Replay], new: bool = True) -> list[Result | None]:
        """The results, in order; None of a replay that engine or process did not survive.

        Args:
            replays: to be done, or known.
            new: False: what is not known is None, too.

        Raises:
            OSError: results cannot be written.
        """
        todo = {r.key: r for r in replays if r.key not in self._known}
        if todo and new:
            done = self._serve(list(todo.values()))
            lines = []
            for key, result in zip(todo, done, strict=True):
                if result is not None:
                    self._known[key] = result
                    lines.append({"key": key, **result.to_dict()})
            if self._file is not None and lines:
                self._file.append(*lines)
        return [self._known.get(r.key) for r in replays]

    def close(self) -> None:
        """End the processes; may be called more than once."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, kill_workers=True)
            self._pool = None

    def _serve(self, replays: Sequence[Replay]) -> list[Result | None]:
        if self._jobs == 0:
            return [_try(self._task, replay) for replay in replays]
        found: dict[str, Result | None] = {}
        for _ in range(REPLAY_TRIES):
            left = [replay for replay in replays if replay.key not in found]
            if not left:
                break
            found |= self._beside(left)
        return [found.get(replay.key) for replay in replays]

    def _beside(self, replays: Sequence[Replay]) -> dict[str, Result | None]:
        """Results, by key, of those that were done before a process died, if one did."""
        if self._pool is None:
            self._pool = ProcessPoolExecutor(self._jobs, timeout=IDLE_S, initializer=_be_nice)
        futures: dict[str, Future[Result | None]] = {}
        try:
            for replay in replays:
                futures[replay.key] = self._pool.submit(_try, self._task, replay)
            if self._are_done(list(futures.values())):
                return {key: future.result() for key, future in futures.items()}
        except BrokenExecutor:  # it had died before it was asked
            pass
        warnings.warn("the twin goes on: a process of its replays was killed", stacklevel=2)
        self.close()  # the next ones get new processes
        whole = {k: f for k, f in futures.items() if f.done() and not f.cancelled()}
        return {k: f.result() for k, f in whole.items() if f.exception() is None}

    def _are_done(self, futures: Sequence[Future[Result | None]]) -> bool:
        """Wait for all; False when a process has died meanwhile, which loky may not notice."""
        assert self._pool is not None
        while wait(futures, LOOK_S).not_done:
            processes = list(getattr(self._pool, "_processes", {}).values())
            if any(process.exitcode not in (None, 0) for process in processes):
                return False
        return not any(isinstance(future.exception(), BrokenExecutor) for future in futures)

    def _read(self, file: LineFile) -> None:
        """Know what an earlier process kept; what a damaged line held is served again."""
        for line in file.lines():
            try:
                row = json.loads(line)
                self._known[row["key"]] = Result.from_dict(row)
            except (ValueError, KeyError, TypeError):
                continue


def _be_nice() -> None:
    os.nice(NICENESS)
    os.environ["OMP_NUM_THREADS"] = "1"


def _try(task: Task, replay: Replay) -> Result | None:
    try:
        return serve(task, replay)
    except EngineError:
        return None
