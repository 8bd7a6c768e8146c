"""Sources of traffic: a workload file or a recorded trace, read and drawn once a process."""

from __future__ import annotations

import functools
from dataclasses import dataclass

from ewsjf_env.env.task import Task
from ewsjf_env.workload import Trace, Workload, load_workload, trace_workload
from ewsjf_env.workload.replay import TraceWorkload


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


@functools.lru_cache(maxsize=32)  # a study goes through its traffics again and again
def _loaded(source: Source) -> Workload:
    return source.load()


@functools.lru_cache(maxsize=4)  # policies that meet the same trace follow each other
def drawn(source: Source, seed: int, duration_s: float, rate_per_s: float) -> Trace:
    """A trace of a source, of the files as this process first saw them."""
    return _loaded(source).draw(seed, duration_s, rate_per_s)


def repeats_of(task: Task) -> int:
    """How often an episode of a task goes through its recording, at the highest of its rates.

    1 where no request is served twice, as in synthetic traffic.
    """
    workload = load_workload(task.workload)
    if not isinstance(workload, TraceWorkload):
        return 1
    return max(workload.repeats(task.episode_s, rate) for rate in task.rates_per_s or (None,))
