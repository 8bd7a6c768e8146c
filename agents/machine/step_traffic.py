"""Requests that make an engine run steps of every kind, so that their times can be told apart.

Requests of random lengths whose rate grows from nothing to more than the engine can serve: steps
of prefill alone, of decoding alone and of both, at every batch size and context that serving
meets.  (Waves of equal requests, one size after another, seem the cleaner experiment.  But they
have hardly a step that mixes both, and on an H200 the model fitted to them told latencies 20 % too
low; fitted to traffic of this kind, 2 to 4 %.)
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ewsjf_env.workload.trace import Trace

SHORTEST_PROMPT, LONGEST_PROMPT = 32, 8000
SHORTEST_OUTPUT, LONGEST_OUTPUT = 8, 256
LAST_LOAD = 1.3  # of the estimated capacity, at the end of the ramp


def backlog(count: int, longest_prompt: int, seed: int = 0) -> Trace:
    """`count` requests of the ramp's lengths, all at time 0: for an estimate of the capacity."""
    return _trace(np.zeros(count), longest_prompt, np.random.default_rng(seed))


def ramp(capacity_per_s: float, duration_s: float, longest_prompt: int, seed: int = 0) -> Trace:
    """Requests whose rate grows in proportion to time, up to `LAST_LOAD` of the capacity.

    Args:
        capacity_per_s: what the engine serves of such requests, roughly; requests per second, > 0.
        duration_s: of the arrivals, > 0.
        longest_prompt: nothing longer is sent, tokens.
        seed: of lengths and moments.
    """
    random = np.random.default_rng(seed)
    count = max(8, round(0.5 * LAST_LOAD * capacity_per_s * duration_s))
    arrival_s = duration_s * np.sqrt(np.sort(random.uniform(0.0, 1.0, count)))
    return _trace(arrival_s, longest_prompt, random)


def _trace(arrival_s: np.ndarray, longest_prompt: int, random: np.random.Generator) -> Trace:
    longest = max(SHORTEST_PROMPT, min(LONGEST_PROMPT, longest_prompt))

    def lengths(low: int, high: int) -> NDArray[np.int64]:
        drawn = np.exp(random.uniform(np.log(low), np.log(high + 1), len(arrival_s)))
        return np.asarray(np.minimum(drawn, high), dtype=np.int64)

    return Trace(
        name="steps",
        arrival_s=arrival_s,
        prompt_tokens=lengths(SHORTEST_PROMPT, longest),
        output_tokens=lengths(SHORTEST_OUTPUT, LONGEST_OUTPUT),
    )
