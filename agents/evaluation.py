"""How do policies compare on the same traffic? A resumable grid of runs on the simulated engine.

A run is one policy on one drawn trace at one rate.  Its result is one JSON file whose name ends
in a hash of everything that determines it, so that an interrupted evaluation resumes from the
finished files and a changed setting never mixes with old results.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from joblib import Parallel, delayed
from joblib.externals.loky.process_executor import TerminatedWorkerError

from ewsjf_env.config import ConfigError, check_range, to_dict
from ewsjf_env.engine.simulated import SimulatedConfig, SimulatedEngine
from ewsjf_env.policy import Policy
from ewsjf_env.records import bucket_table
from ewsjf_env.workload import Trace, Workload, load_workload, trace_workload

BUCKET_EDGES = (64, 128, 256, 512, 1024, 2048, 4096, 8192)
CAPACITY_SEED = 1_000_003  # the backlog that measures capacity shares no draw with any run
CAPACITY_REQUESTS = (600, 2400)  # first try, and when that many run at once
RECORD_VERSION = 1


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
class Plan:
    """The grid: policies x sources x (loads or rates) x seeds.

    Attributes:
        loads: fractions of the measured FCFS capacity, > 0; or none when rates are given.
        rates_per_s: arrival rates, > 0; or none when loads are given.
        seeds: number of traces per rate; seed s is the same trace for every policy.
        duration_s: length of the fixed window.
    """

    policies: tuple[Policy, ...]
    sources: tuple[Source, ...]
    loads: tuple[float, ...]
    rates_per_s: tuple[float, ...]
    seeds: int
    duration_s: float
    engine: SimulatedConfig

    def __post_init__(self) -> None:
        if bool(self.loads) == bool(self.rates_per_s):
            raise ConfigError("load, rate: give exactly one of them")
        for name in ("loads", "rates_per_s"):
            for value in getattr(self, name):
                check_range({"loads": "load"}.get(name, "rate"), value, 0.0, low_open=True)
        check_range("seeds", self.seeds, 1)
        check_range("duration", self.duration_s, 0.0, low_open=True)
        if not self.sources:
            raise ConfigError("workload, trace: give at least one")

    @property
    def runs(self) -> int:
        """Number of runs."""
        points = len(self.loads) or len(self.rates_per_s)
        return len(self.policies) * len(self.sources) * points * self.seeds


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


def measure_capacities(plan: Plan, out: Path, jobs: int) -> dict[str, float]:
    """FCFS capacity in requests/s by workload name, measured once and kept in `out/capacity`."""
    loaded = {source: source.load() for source in plan.sources}
    names = [w.name for w in loaded.values()]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"workload: the name {name!r} occurs twice; rename one in its YAML")
    folder = out / "capacity"
    folder.mkdir(parents=True, exist_ok=True)
    files = {}
    for source, workload in loaded.items():
        backlog = workload.draw_backlog(CAPACITY_SEED, CAPACITY_REQUESTS[0])
        content = [backlog.digest(), to_dict(plan.engine), _latency_hash(plan.engine)]
        files[source] = folder / f"{_slug(workload.name)}-{_hash(content)}.json"
    todo = [source for source, path in files.items() if not path.exists()]
    tasks = (delayed(_measure_capacity)(s, plan.engine, files[s]) for s in todo)
    Parallel(n_jobs=jobs)(tasks)
    return {
        loaded[source].name: float(json.loads(path.read_text())["requests_per_s"])
        for source, path in files.items()
    }


def make_jobs(plan: Plan, capacities: dict[str, float]) -> list[Job]:
    """All runs, in an order that draws each trace once: source, rate, seed, policy."""
    jobs = []
    for source in plan.sources:
        workload = source.load()
        capacity = capacities.get(workload.name, 1.0)
        points: list[tuple[float | None, float]] = [(x, x * capacity) for x in plan.loads]
        points += [(None, rate) for rate in plan.rates_per_s]
        for load, rate in points:
            for seed in range(plan.seeds):
                trace = _draw(workload, seed, plan, rate)
                for policy in plan.policies:
                    key = _key(policy, workload.name, load, rate, seed, trace, plan)
                    jobs.append(
                        Job(key, policy, source, workload.name, load, rate, seed,
                            plan.duration_s, plan.engine)
                    )  # fmt: skip
    return jobs


def run_jobs(
    jobs: list[Job], out: Path, workers: int, progress: Progress
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Run what has no result yet; return all records, and the reasons of failed runs by key.

    A run that raises or whose worker is killed has failed; the others go on.  Failed runs are
    tried again by the next call.
    """
    folder = out / "runs"
    folder.mkdir(parents=True, exist_ok=True)
    for job in jobs:
        _failure_path(folder, job.key).unlink(missing_ok=True)
        _running_path(folder, job.key).unlink(missing_ok=True)
    todo = [job for job in jobs if not _record_path(folder, job.key).exists()]
    for _ in progress(_finished_keys(todo, folder, workers), len(todo)):
        pass
    records, failures = [], {}
    for job in jobs:
        path = _record_path(folder, job.key)
        if path.exists():
            records.append(json.loads(path.read_text(encoding="utf-8")))
        else:
            failures[job.key] = _reason(folder, job.key)
    return records, failures


def _finished_keys(todo: list[Job], folder: Path, workers: int) -> Iterator[str]:
    while todo:
        tasks = (delayed(_run_job)(job, folder) for job in todo)
        try:
            yield from Parallel(n_jobs=workers, return_as="generator_unordered")(tasks)
            return
        except TerminatedWorkerError:
            # The pool is gone; the runs that had started are the suspects.
            for job in todo:
                if _running_path(folder, job.key).exists():
                    _running_path(folder, job.key).unlink()
                    _fail(folder, job.key, "its worker process was killed (out of memory?)")
                    yield job.key
            todo = [
                job
                for job in todo
                if not _record_path(folder, job.key).exists()
                and not _failure_path(folder, job.key).exists()
            ]


def _run_job(job: Job, folder: Path) -> str:
    running = _running_path(folder, job.key)
    running.touch()
    try:
        record = _simulate(job)
    except Exception as error:  # one bad run must not lose the others: it is reported by name
        _fail(folder, job.key, f"{type(error).__name__}: {error}")
    else:
        _write_json(_record_path(folder, job.key), record)
    running.unlink(missing_ok=True)
    return job.key


def _simulate(job: Job) -> dict[str, Any]:
    engine = _engine(job.engine)
    trace = _trace(job.source, job.seed, job.duration_s, job.rate_per_s)
    started = time.perf_counter()
    engine.install(job.policy)
    engine.reset(trace)
    metrics = engine.run_window(job.duration_s)
    rows = bucket_table(engine.records(), BUCKET_EDGES, engine.now(), engine.prefill_cost_s)
    drained = engine.drain()
    return {
        "policy": job.policy.name,
        "oracle": job.policy.oracle,
        "workload": job.workload,
        "load": job.load,
        "rate_per_s": job.rate_per_s,
        "seed": job.seed,
        "metrics": metrics.to_dict(),
        "drained": drained.to_dict(),
        "buckets": [_no_nan(to_dict(row)) for row in rows],
        "notes": {**to_dict(trace.notes), **engine.capped, "trace": trace.digest()},
        "wall_s": round(time.perf_counter() - started, 3),
    }


@functools.lru_cache(maxsize=2)
def _engine(config: SimulatedConfig) -> SimulatedEngine:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    return SimulatedEngine(config)


@functools.lru_cache(maxsize=4)
def _loaded(source: Source) -> Workload:
    return source.load()


@functools.lru_cache(maxsize=4)
def _trace(source: Source, seed: int, duration_s: float, rate_per_s: float) -> Trace:
    return _loaded(source).draw(seed, duration_s, rate_per_s)


def _draw(workload: Workload, seed: int, plan: Plan, rate: float) -> Trace:
    return workload.draw(seed, plan.duration_s, rate)


def _measure_capacity(source: Source, config: SimulatedConfig, path: Path) -> None:
    workload, engine = source.load(), _engine(config)
    few, many = CAPACITY_REQUESTS
    try:
        count, value = few, engine.measure_capacity(workload.draw_backlog(CAPACITY_SEED, few))
    except ConfigError:  # too many run at once for so few
        count, value = many, engine.measure_capacity(workload.draw_backlog(CAPACITY_SEED, many))
    _write_json(path, {"workload": workload.name, "requests": count, "requests_per_s": value})


def _key(
    policy: Policy,
    workload: str,
    load: float | None,
    rate: float,
    seed: int,
    trace: Trace,
    plan: Plan,
) -> str:
    content = [
        RECORD_VERSION,
        {k: v for k, v in policy.to_dict().items() if k != "provenance"},
        trace.digest(),
        plan.duration_s,
        load,
        to_dict(plan.engine),
        _latency_hash(plan.engine),
    ]
    point = f"rate{rate:g}" if load is None else f"load{load:g}"
    parts = (workload, point, f"seed{seed}", policy.name)
    return "__".join(_slug(part) for part in parts) + f"__{_hash(content)}"


@functools.lru_cache(maxsize=8)
def _latency_hash(config: SimulatedConfig) -> str:
    return _engine(config).latency.content_hash


def _hash(content: object) -> str:
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9.=+-]+", "_", text).strip("_")[:60]


def _record_path(folder: Path, key: str) -> Path:
    return folder / f"{key}.json"


def _failure_path(folder: Path, key: str) -> Path:
    return folder / f"{key}.failure"


def _running_path(folder: Path, key: str) -> Path:
    return folder / f"{key}.running"


def _fail(folder: Path, key: str, reason: str) -> None:
    _write_json(_failure_path(folder, key), {"reason": reason})


def _reason(folder: Path, key: str) -> str:
    path = _failure_path(folder, key)
    return str(json.loads(path.read_text())["reason"]) if path.exists() else "not run"


def _write_json(path: Path, data: object) -> None:
    """Atomically: a reader, or a second process on the same folder, sees a whole file or none."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(data, allow_nan=False, indent=1) + "\n", encoding="utf-8")
    temporary.replace(path)


def _no_nan(row: dict[str, Any]) -> dict[str, Any]:
    return {k: None if isinstance(v, float) and v != v else v for k, v in row.items()}
