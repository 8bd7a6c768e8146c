"""Seeds of the traces of the study: those whose slice of the traffic holds requests.

A bursty recording has lulls in which nobody arrives for minutes: such a slice says nothing about
any policy, and one without a single request cannot be played.  The next seed takes its place.
Only arrivals are looked at, so no policy gains by it.
"""

from __future__ import annotations

from agents.experiments.policy_study.config import PolicyStudyConfig
from ewsjf_env.config import ConfigError
from ewsjf_env.seeds import TRAINING
from ewsjf_env.workload import Workload

PASSED_OVER = 200  # seeds in a row without one that serves: then something else is wrong


def trace_seeds(
    config: PolicyStudyConfig, name: str, training: bool, count: int, capacity_per_s: float
) -> list[int]:
    """The first `count` seeds of a workload, ascending; more of them begin with the same ones.

    Judged are those from the study's `first_seed` on.

    At the lowest load their windows have `min_requests` or more.  A slice at a higher load begins
    at the same moment of the recording and is longer.

    Raises:
        ConfigError: hardly any slice holds so many requests.
    """
    workload = config.source(name, training).load()
    loads = config.tuning.loads if training else config.loads
    duration_s = config.workloads[name].duration_s
    duration_s *= config.tuning.duration_factor if training else 1.0
    rate_per_s = min(loads) * capacity_per_s
    found: list[int] = []
    seed = first = TRAINING.start if training else config.first_seed
    while len(found) < count:
        if _requests(workload, seed, duration_s, rate_per_s) >= config.min_requests:
            found.append(seed)
        seed += 1
        if seed - (found[-1] if found else first) > PASSED_OVER:
            raise ConfigError(
                f"workloads: {name}: hardly a window of {duration_s:g} s at load {min(loads):g} "
                f"has {config.min_requests} requests; raise its duration_s, or lower min_requests"
            )
    return found


def _requests(workload: Workload, seed: int, duration_s: float, rate_per_s: float) -> int:
    try:
        return len(workload.draw(seed, duration_s, rate_per_s))
    except ConfigError:  # not a single one
        return 0
