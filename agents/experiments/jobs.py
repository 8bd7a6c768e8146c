"""How is one run played, and how do many survive a failure, a killed worker or Ctrl-C?

A run is one policy on one drawn trace.  Its result is one JSON file, written whole or not at
all; what has a result is not run again.
"""

from __future__ import annotations

import contextlib
import functools
import json
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from joblib import Parallel, delayed
from joblib.externals.loky.process_executor import TerminatedWorkerError

from agents.core.files import write_json
from agents.experiments.killed import KILLED, WorkerKilled
from ewsjf_env.config import to_dict
from ewsjf_env.engine.simulated.config import SimulatedConfig
from ewsjf_env.engine.simulated.engine import SimulatedEngine
from ewsjf_env.measure.buckets import bucket_table
from ewsjf_env.policy.policy import Policy
from ewsjf_env.workload import Trace, Workload, load_workload, trace_workload

BUCKET_EDGES = (64, 128, 256, 512, 1024, 2048, 4096, 8192)


@dataclass(frozen=True)
class Source:
    """Where traffic comes from: a workload YAML (or built-in name), or a trace file."""

    path: str
    is_trace: bool = False
    trace_format: str | None = None
    jitter_s: float = 0.0

    def load(self) -> Workload:
        """Read it; ConfigError when anything is wrong with it."""
        if not self.is_trace:
            return load_workload(self.path)
        return trace_workload(self.path, self.trace_format, jitter_s=self.jitter_s)


@dataclass(frozen=True)
class Job:
    """One run; `key` is the name of its result file without suffix."""

    key: str
    policy: Policy
    source: Source
    workload: str
    load: float | None
    rate_per_s: float
    seed: int
    duration_s: float
    engine: SimulatedConfig


Progress = Callable[[Iterable[str], int], Iterator[str]]
Simulate = Callable[[Job], dict[str, Any]]


def simulate(job: Job) -> dict[str, Any]:
    """Play a job; the record is plain values, the same every time except for `wall_s`."""
    started = time.perf_counter()
    record, engine = _window(job)
    record["drained"] = engine.drain().to_dict()
    record["wall_s"] = round(time.perf_counter() - started, 3)
    return record


def simulate_window(job: Job) -> dict[str, Any]:
    """Like `simulate`, but the requests that are left at the end are not served: no `drained`."""
    started = time.perf_counter()
    record, _ = _window(job)
    record["wall_s"] = round(time.perf_counter() - started, 3)
    return record


def _window(job: Job) -> tuple[dict[str, Any], SimulatedEngine]:
    engine = cached_engine(job.engine)
    trace = _trace(job.source, job.seed, job.duration_s, job.rate_per_s)
    engine.install(job.policy)
    engine.reset(trace)
    metrics = engine.run_window(job.duration_s)
    rows = bucket_table(engine.records(), BUCKET_EDGES, engine.now(), engine.prefill_cost_s)
    # What the workload capped above the engine's limit, the engine capped again: not a sum.
    capped = max(int(trace.notes.get("capped_prompts", 0)), engine.capped["capped_prompts"])
    notes = {**to_dict(trace.notes), **engine.capped, "capped_prompts": capped}
    record = {
        "policy": job.policy.name,
        "oracle": job.policy.oracle,
        "workload": job.workload,
        "load": job.load,
        "rate_per_s": job.rate_per_s,
        "seed": job.seed,
        "metrics": metrics.to_dict(),
        "buckets": [_no_nan(to_dict(row)) for row in rows],
        "notes": {**notes, "trace": trace.digest()},
    }
    return record, engine


def run_jobs(
    jobs: list[Job], out: Path, workers: int, progress: Progress, simulate: Simulate = simulate
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Run what has no result yet; return all records, and the reasons of failed runs by key.

    A run that raises or whose worker is killed has failed; the others go on.  Failed runs are
    tried again by the next call.

    Args:
        jobs: all runs.
        out: folder of the evaluation; results are in `out/runs`.
        workers: processes; 1 works in this one, unless `parallel_on` says otherwise.
        progress: wraps the keys of runs as they end, with their number.
        simulate: plays one job.
    """
    folder = out / "runs"
    folder.mkdir(parents=True, exist_ok=True)
    for job in jobs:
        _failure_path(folder, job.key).unlink(missing_ok=True)
        _running_path(folder, job.key).unlink(missing_ok=True)
    todo = [job for job in jobs if _read(_record_path(folder, job.key)) is None]
    if todo:
        for _ in progress(_finished_keys(todo, folder, workers, simulate), len(todo)):
            pass
    records, failures = [], {}
    for job in jobs:
        record = _read(_record_path(folder, job.key))
        if record is not None:
            records.append(record)
        else:
            failure = _read(_failure_path(folder, job.key)) or {"reason": "not run"}
            failures[job.key] = str(failure["reason"])
    return records, failures


def _finished_keys(
    todo: list[Job], folder: Path, workers: int, simulate: Simulate
) -> Iterator[str]:
    while todo:
        tasks = (delayed(_run_job)(job, folder, simulate) for job in todo)
        try:
            for ended in Parallel(n_jobs=workers, return_as="generator_unordered")(tasks):
                yield _keep(ended, folder)
            return
        except WorkerKilled as error:
            yield _keep(Ended(error.arguments[0].key, reason=KILLED), folder)
            suspects = []
        except TerminatedWorkerError:
            # The whole pool is gone.  One of the runs that had started is to blame, the others
            # only shared its fate: each is tried again alone.
            suspects = [job for job in todo if _running_path(folder, job.key).exists()]
            suspects = suspects or todo[:1]
        for job in suspects:
            yield _run_alone(job, folder, simulate)
        todo = [job for job in todo if not _settled(folder, job.key)]


def _run_alone(job: Job, folder: Path, simulate: Simulate) -> str:
    try:
        # One task for two workers: joblib starts a process of its own for it.
        (ended,) = Parallel(n_jobs=2)([delayed(_run_job)(job, folder, simulate)])
    except TerminatedWorkerError:
        ended = Ended(job.key, reason=KILLED)
    return _keep(ended, folder)


@dataclass(frozen=True)
class Ended:
    """What a worker hands back of a run: its record, or why there is none."""

    key: str
    record: dict[str, Any] | None = None
    reason: str = ""


def _run_job(job: Job, folder: Path, simulate: Simulate) -> Ended:
    running = _running_path(folder, job.key)
    with contextlib.suppress(OSError):  # on another machine there may be no such folder
        running.touch()
    try:
        ended = Ended(job.key, simulate(job))
    except Exception as error:  # one bad run must not lose the others: it is reported by name
        ended = Ended(job.key, reason=_reason(error))
    with contextlib.suppress(OSError):
        running.unlink(missing_ok=True)
    return ended


def _keep(ended: Ended, folder: Path) -> str:
    """Write a run's one file, here where all runs come together."""
    _running_path(folder, ended.key).unlink(missing_ok=True)  # of a worker that was killed
    reason = ended.reason
    if ended.record is not None:
        try:
            write_json(_record_path(folder, ended.key), ended.record)
        except (OSError, ValueError) as error:  # a full disk, a record with NaN
            reason = _reason(error)
    if reason:
        write_json(_failure_path(folder, ended.key), {"reason": reason})
    return ended.key


def _reason(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


def other_results(jobs: Iterable[Job], out: Path) -> int:
    """How many results of other settings lie in `out/runs`; they are left alone."""
    ours = {f"{job.key}{end}" for job in jobs for end in (".json", ".failure.json")}
    return sum(path.name not in ours for path in (out / "runs").glob("*.json"))


@functools.lru_cache(maxsize=2)
def cached_engine(config: SimulatedConfig) -> SimulatedEngine:
    """The engine of this process for `config`."""
    return SimulatedEngine(config)


@functools.lru_cache(maxsize=32)  # a study goes through its traffics again and again
def _loaded(source: Source) -> Workload:
    return source.load()


@functools.lru_cache(maxsize=4)
def _trace(source: Source, seed: int, duration_s: float, rate_per_s: float) -> Trace:
    return _loaded(source).draw(seed, duration_s, rate_per_s)


def _read(path: Path) -> dict[str, Any] | None:
    """The JSON mapping in a file; None where there is none, or one that is damaged."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return data if isinstance(data, dict) else None


def _settled(folder: Path, key: str) -> bool:
    done = _read(_record_path(folder, key)) is not None
    return done or _failure_path(folder, key).exists()


def _record_path(folder: Path, key: str) -> Path:
    return folder / f"{key}.json"


def _failure_path(folder: Path, key: str) -> Path:
    return folder / f"{key}.failure.json"


def _running_path(folder: Path, key: str) -> Path:
    return folder / f"{key}.running"


def _no_nan(row: dict[str, Any]) -> dict[str, Any]:
    return {k: None if isinstance(v, float) and v != v else v for k, v in row.items()}
