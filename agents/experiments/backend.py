"""Backends for many independent calls: processes of this machine, or a Ray cluster.

All of them go through `joblib.Parallel`; `parallel_on` decides for everything inside it.
"""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterator

from joblib import parallel_config, register_parallel_backend

from ewsjf_env.config import ConfigError, check_range

BACKENDS = ("loky", "ray")
MAX_JOBS = 1024


def check_jobs(jobs: int) -> None:
    """ConfigError for a number of workers that no machine and no cluster of ours has."""
    check_range("--jobs", jobs, 1, MAX_JOBS)


@contextlib.contextmanager
def parallel_on(backend: str, jobs: int) -> Iterator[None]:
    """All of joblib's calls inside run on this backend.

    Args:
        backend: one of `BACKENDS`.
        jobs: how many calls at a time, at most.

    Raises:
        ConfigError: Ray is not installed, or does not answer.
    """
    if backend == "loky":
        yield
        return
    if importlib.util.find_spec("ray") is None:
        raise ConfigError("--backend: 'ray' needs the package ray: pip install -e '.[ray]'")
    from agents.experiments import ray_backend as ray_tasks

    ray_tasks.connect(jobs)
    register_parallel_backend("ray", ray_tasks.RayTasks)
    with parallel_config(backend="ray"):
        yield
