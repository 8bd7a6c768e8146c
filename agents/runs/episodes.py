"""The traffic that episode number e of a run meets.

A function of the run's seed and the number alone: every agent tuned with one seed sees the same
traces in the same order, and a resumed run goes on with the trace it was at.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ewsjf_env.env.task import Task
from ewsjf_env.seeds import TRAINING


def episode_options(task: Task, seed: int, episode: int) -> dict[str, Any]:
    """Options for `reset`: `trace_seed` among the training seeds and `rate_per_s`.

    With a `trace_pool` of n traces every run draws from the same n.
    """
    random = np.random.default_rng([seed, episode])
    last = TRAINING.start + task.trace_pool if task.trace_pool else TRAINING.stop
    options: dict[str, Any] = {"trace_seed": int(random.integers(TRAINING.start, last))}
    if task.rates_per_s:
        options["rate_per_s"] = task.rates_per_s[int(random.integers(len(task.rates_per_s)))]
    return options
