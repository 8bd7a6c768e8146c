"""A bounded, weighted sample of the prompt lengths that arrived of late.

An arrival at time t has the weight 2^(t / half-life): older ones count less, and because only
ratios matter no weight ever has to be lowered (forward decay).  Priority sampling keeps the
`capacity` arrivals with the largest weight/u, u uniform in (0, 1]; with tau the largest priority
that was dropped, max(weight, tau) makes every sum over the sample unbiased.

Weights overflow after a thousand half-lives, so only their logarithms are stored.

Sources: Duffield, Lund, Thorup, "Priority sampling for estimation of arbitrary subset sums" (J.
ACM 2007); Cormode et al., "Forward decay" (ICDE 2009).  ALGORITHM 3, sample (~).
"""

from __future__ import annotations

import heapq
import math
import random
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ewsjf_env.config import check_range


@dataclass(frozen=True)
class ReservoirSnapshot:
    """The sample at one moment, cheap to take; `sample` may run in another thread.

    Attributes:
        entries: (ln priority, prompt tokens, ln weight) of each kept arrival.
        log_threshold: ln tau; -inf while nothing was dropped.
    """

    entries: tuple[tuple[float, int, float], ...]
    log_threshold: float

    def sample(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Lengths in tokens and their weights, both shape (kept,); the weights' mean is 1."""
        lengths = np.array([tokens for _, tokens, _ in self.entries], dtype=np.int64)
        logs = np.array([log_weight for _, _, log_weight in self.entries], dtype=np.float64)
        if not len(lengths):
            return lengths, logs
        logs = np.maximum(logs, self.log_threshold)
        weights = np.exp(logs - np.max(logs))
        return lengths, weights / np.mean(weights)


class LengthReservoir:
    """A weighted sample of prompt lengths with exponential decay; O(log capacity) an arrival.

    Args:
        capacity: most arrivals kept, >= 1.
        half_life_s: seconds after which an arrival weighs half, > 0.
        seed: of the draw; same seed and same arrivals give the same sample.

    Raises:
        ConfigError: capacity or half-life out of range.
    """

    def __init__(self, capacity: int = 4096, half_life_s: float = 1800.0, seed: int = 0) -> None:
        check_range("capacity", capacity, 1)
        check_range("half_life_s", half_life_s, 0.0, low_open=True)
        self._capacity = capacity
        self._decay_per_s = math.log(2.0) / half_life_s
        self._random = random.Random(seed)
        self._heap: list[tuple[float, int, float]] = []
        self._log_threshold = -math.inf
        self._start_s: float | None = None

    def __len__(self) -> int:
        """Arrivals kept."""
        return len(self._heap)

    def add(self, length: int, now_s: float) -> None:
        """Offer one arrival of `length` tokens at `now_s`, seconds on any monotonic clock."""
        if self._start_s is None:
            self._start_s = now_s  # large clock readings would cost the logarithm its precision
        log_weight = (now_s - self._start_s) * self._decay_per_s
        entry = (log_weight + self._random.expovariate(1.0), length, log_weight)
        if len(self._heap) < self._capacity:
            heapq.heappush(self._heap, entry)
        else:
            dropped = heapq.heappushpop(self._heap, entry)
            self._log_threshold = max(self._log_threshold, dropped[0])

    def snapshot(self) -> ReservoirSnapshot:
        """The sample now; later arrivals do not change it."""
        return ReservoirSnapshot(tuple(self._heap), self._log_threshold)

    def sample(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Lengths in tokens and weights, see `ReservoirSnapshot.sample`."""
        return self.snapshot().sample()
