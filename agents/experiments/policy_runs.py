"""Runs of policies on the engine of an experiment: one policy on one drawn trace, one result.

The result is a record of plain values.  It is a file of the evaluation's store, so that a run that
has one is not played again.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agents.core.progress import Progress
from agents.core.store import Key, Store
from agents.experiments.engines import cached_engine
from agents.experiments.source import Source, drawn
from ewsjf_env.config import to_dict
from ewsjf_env.engine.play import play
from ewsjf_env.engine.simulated.config import SimulatedConfig
from ewsjf_env.measure.buckets import bucket_table
from ewsjf_env.policy.policy import Policy

BUCKET_EDGES = (64, 128, 256, 512, 1024, 2048, 4096, 8192)
Record = dict[str, Any]


@dataclass(frozen=True)
class PolicyRun:
    """One policy on one drawn trace.

    Attributes:
        key: of its record.
        policy: that serves.
        source: of the traffic; `workload` is its name.
        load: `rate_per_s` over FCFS capacity; None where a rate was asked for.
        rate_per_s: mean arrivals.
        seed: of the draw.
        duration_s: of the window, from an empty start.
        engine: what is simulated.
    """

    key: Key
    policy: Policy
    source: Source
    workload: str
    load: float | None
    rate_per_s: float
    seed: int
    duration_s: float
    engine: SimulatedConfig


Simulate = Callable[[Any], Record]
"""Plays a run; plain values, the same every time except for `wall_s`."""


def simulate(run: PolicyRun) -> Record:
    """Play the window, and drain it: what is left at its end is served, too."""
    return _simulate(run, drain=True)


def simulate_window(run: PolicyRun) -> Record:
    """Play the window alone: the record has no `drained`."""
    return _simulate(run, drain=False)


def _simulate(run: PolicyRun, drain: bool) -> Record:
    started = time.perf_counter()
    engine = cached_engine(run.engine)
    trace = drawn(run.source, run.seed, run.duration_s, run.rate_per_s)
    (metrics,) = play(engine, run.policy, trace, [run.duration_s])
    end_s = engine.now()
    rows = bucket_table(engine.requests(0.0, end_s), BUCKET_EDGES, end_s)
    # What the workload capped above the engine's limit, the engine capped again: not a sum.
    capped = max(int(trace.notes.get("capped_prompts", 0)), engine.capped["capped_prompts"])
    notes = {**to_dict(trace.notes), **engine.capped, "capped_prompts": capped}
    record = {
        "policy": run.policy.name,
        "oracle": run.policy.oracle,
        "workload": run.workload,
        "load": run.load,
        "rate_per_s": run.rate_per_s,
        "seed": run.seed,
        "metrics": metrics.to_dict(),
        "buckets": [_no_nan(to_dict(row)) for row in rows],
        "notes": {**notes, "trace": trace.digest()},
    }
    if drain:
        record["drained"] = engine.drain().to_dict()
    record["wall_s"] = round(time.perf_counter() - started, 3)
    return record


def store_of(out: Path) -> Store:
    """The records of an evaluation or a study in the folder `out`."""
    return Store(out / "runs")


def run_all(
    runs: Sequence[PolicyRun],
    out: Path,
    workers: int,
    progress: Progress,
    simulate: Simulate = simulate,
) -> tuple[list[Record], dict[Key, str]]:
    """All records, of runs played now or before, and the reasons of failed runs by key.

    See `Store.get_all`.
    """
    records, failures = store_of(out).get_all(_tasks(runs, simulate), workers, progress)
    return list(records.values()), failures


def run_every(
    runs: Sequence[PolicyRun],
    out: Path,
    workers: int,
    progress: Progress,
    simulate: Simulate = simulate_window,
) -> list[Record]:
    """The records of all runs, in their order; errors of `Store.every` where one failed."""
    tasks = _tasks(runs, simulate)
    by_key = dict(zip(tasks, store_of(out).every(tasks, workers, progress), strict=True))
    return [by_key[run.key] for run in runs]


def _tasks(runs: Sequence[PolicyRun], simulate: Simulate) -> dict[Key, functools.partial[Record]]:
    return {run.key: functools.partial(simulate, run) for run in runs}


def _no_nan(row: Record) -> Record:
    return {k: None if isinstance(v, float) and v != v else v for k, v in row.items()}
