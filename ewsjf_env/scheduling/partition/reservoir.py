"""A bounded, weighted sample of the prompt lengths that arrived of late.

An arrival at time t has the weight 2^(t / half-life): older ones count less, and because only
ratios matter no weight ever has to be lowered (forward decay).  Priority sampling keeps the
`capacity` arrivals with the largest weight/u, u uniform in (0, 1]; with tau the largest priority
that was dropped, max(weight, tau) makes every sum over the sample unbiased.

Weights overflow after a thousand half-lives, so only their logarithms are stored.  Arrivals are
weighed many at a time, when somebody asks for the sample or the buffer is full.

Sources: Duffield, Lund, Thorup, "Priority sampling for estimation of arbitrary subset sums" (J.
ACM 2007); Cormode et al., "Forward decay" (ICDE 2009).  ALGORITHM 3, sample (~).
"""

from __future__ import annotations

import functools
import math
import random
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ewsjf_env.config import check_range

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]

_BLOCK = 512  # draws made, and single arrivals weighed, at a time


@dataclass(frozen=True)
class ReservoirSnapshot:
    """The sample at one moment, cheap to take; `sample` may run in another thread.

    Attributes:
        lengths: prompt tokens of each kept arrival, in order of arrival, shape (kept,).
        log_weights: ln of their weights, shape (kept,).
        log_threshold: ln tau; -inf while nothing was dropped.
    """

    lengths: Integers
    log_weights: Floats
    log_threshold: float

    def sample(self) -> tuple[Integers, Floats]:
        """Lengths in tokens and their weights, both shape (kept,); the weights' mean is 1."""
        if not len(self.lengths):
            return self.lengths, self.log_weights
        logs = np.maximum(self.log_weights, self.log_threshold)
        weights = np.exp(logs - np.max(logs))
        return self.lengths, weights / np.mean(weights)


NO_SAMPLE = ReservoirSnapshot(np.zeros(0, np.int64), np.zeros(0), -math.inf)


class LengthReservoir:
    """A weighted sample of prompt lengths with exponential decay; O(1) an arrival, amortised.

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
        self._random_state = _first_state(seed)
        self._draws = np.zeros(0)  # not used yet
        self._start_s: float | None = None
        self._offered = 0
        # What was weighed: lengths, ln weights, ln priorities, in order of arrival.
        self._kept: tuple[Integers, Floats, Floats] = (np.zeros(0, np.int64), *np.zeros((2, 0)))
        self._log_threshold = -math.inf
        # What was not: single arrivals, and before them whole arrays.
        self._lengths: list[int] = []
        self._times_s: list[float] = []
        self._arrays: list[tuple[Integers, Floats]] = []
        self._unweighed = 0

    def __len__(self) -> int:
        """Arrivals kept."""
        return min(self._offered, self._capacity)

    def add(self, length: int, now_s: float) -> None:
        """Offer one arrival of `length` tokens at `now_s`, seconds on any monotonic clock."""
        self._lengths.append(length)
        self._times_s.append(now_s)
        self._offered += 1
        if len(self._lengths) >= _BLOCK:
            self._put_by()

    def add_many(self, lengths: Integers, times_s: Floats) -> None:
        """Offer arrivals one after another: the same as so many calls of `add`.

        Args:
            lengths: prompt tokens, shape (n,); the arrays are kept, not copied.
            times_s: shape (n,).
        """
        if len(lengths):
            self._put_by()
            self._offered += len(lengths)
            self._buffer(lengths, times_s)

    def snapshot(self) -> ReservoirSnapshot:
        """The sample now; later arrivals do not change it."""
        self._put_by()
        if self._unweighed:
            self._weigh()
        lengths, log_weights, _ = self._kept
        return ReservoirSnapshot(lengths, log_weights, self._log_threshold)

    def sample(self) -> tuple[Integers, Floats]:
        """Lengths in tokens and weights, see `ReservoirSnapshot.sample`."""
        return self.snapshot().sample()

    def _put_by(self) -> None:
        """Put single arrivals behind those that wait to be weighed."""
        if self._lengths:
            self._buffer(np.array(self._lengths, np.int64), np.array(self._times_s))
            self._lengths, self._times_s = [], []

    def _buffer(self, lengths: Integers, times_s: Floats) -> None:
        self._arrays.append((lengths, times_s))
        self._unweighed += len(lengths)
        if self._unweighed >= self._capacity:
            self._weigh()

    def _weigh(self) -> None:
        """Give the new arrivals their weights and priorities, and drop the least of all."""
        lengths = np.concatenate([lengths for lengths, _ in self._arrays])
        times_s = np.concatenate([times_s for _, times_s in self._arrays])
        self._arrays, self._unweighed = [], 0
        if self._start_s is None:  # large clock readings would cost the logarithm its precision
            self._start_s = float(times_s[0])
        log_weights = (times_s - self._start_s) * self._decay_per_s
        found = (lengths, log_weights, log_weights + self._draw(len(lengths)))
        if len(self._kept[0]):
            pairs = zip(self._kept, found, strict=True)
            found = tuple(np.concatenate(pair) for pair in pairs)
        surplus = len(found[0]) - self._capacity
        if surplus > 0:
            order = np.argpartition(found[2], surplus)
            dropped, chosen = order[:surplus], np.sort(order[surplus:])
            self._log_threshold = max(self._log_threshold, float(found[2][dropped].max()))
            found = found[0][chosen], found[1][chosen], found[2][chosen]
        self._kept = found

    def _draw(self, count: int) -> Floats:
        """The next draws: -ln u, u uniform in (0, 1]."""
        blocks, drawn = [self._draws], len(self._draws)
        while drawn < count:
            block, self._random_state = _draw_block(self._random_state)
            blocks.append(block)
            drawn += _BLOCK
        draws = np.concatenate(blocks)
        self._draws = draws[count:]
        return draws[:count]


# Many reservoirs of one seed draw the same: what one has drawn the others read.


@functools.lru_cache(maxsize=64)
def _first_state(seed: int) -> Any:
    return random.Random(seed).getstate()


@functools.lru_cache(maxsize=256)
def _draw_block(state: Any) -> tuple[Floats, Any]:
    """Draws from a state of the generator, and the state after them."""
    generator = random.Random(0)
    generator.setstate(state)
    draws = np.array([generator.expovariate(1.0) for _ in range(_BLOCK)])
    draws.flags.writeable = False
    return draws, generator.getstate()
