"""Routers: the queue that a request joins.

A router maps a prompt length to a queue key; keys are sorted from short to long.  The paper's
routing is an interval look-up (=); with contiguous cuts no length is out of range.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from typing import Protocol

from ewsjf_env.scheduling.partition.partition import Partition

BUBBLES = 4
BUBBLE_TOKENS = 512
PATIENCE_STEPS = 50


class Router(Protocol):
    """Maps prompt tokens to the key of a queue; `temporary` ones want `end_step` calls."""

    temporary: bool

    def route(self, tokens: int) -> int:
        """The queue key for a prompt of `tokens`; keys ascend with length."""
        ...

    def end_step(self, occupied: frozenset[int]) -> None:
        """Note the queue keys that hold a request at the end of a step."""
        ...


class CutRouter:
    """Contiguous cuts: queue i holds cuts[i-1] < b <= cuts[i]; the last one is open."""

    temporary = False

    def __init__(self, partition: Partition) -> None:
        self.partition = partition

    def route(self, tokens: int) -> int:
        """Index of the queue, 0 for the shortest; O(log Q)."""
        return self.partition.route(tokens)

    def end_step(self, occupied: frozenset[int]) -> None:
        """Nothing to forget."""


class WidthRouter:
    """Queues of a fixed width in tokens, made on demand (= the authors' code)."""

    temporary = False

    def __init__(self, width_tokens: int) -> None:
        self.width_tokens = width_tokens

    def route(self, tokens: int) -> int:
        """floor(b / width)."""
        return tokens // self.width_tokens

    def end_step(self, occupied: frozenset[int]) -> None:
        """Nothing to forget."""


class LengthRouter:
    """One queue a distinct length: scoring heads is then scoring every request exactly.

    Holds for every score that grows with the wait, because the oldest request of a length is
    the best of that length.
    """

    temporary = False

    def route(self, tokens: int) -> int:
        """The length itself."""
        return tokens

    def end_step(self, occupied: frozenset[int]) -> None:
        """Nothing to forget."""


class BubbleRouter:
    """The paper's routing with data ranges and temporary bubble queues (=).

    Queue i covers the data between its neighbours' cuts, narrowed to `tolerance` around its
    mean's half of the interval; a length in no range goes to a bubble queue `width_tokens`
    wide.  At most `limit` bubbles exist; when they are used up the nearest queue takes the
    request.  A bubble that was empty for `patience` steps is dropped.

    Keys are positions in tokens (a queue's lower cut, a bubble's lower limit plus one half,
    doubled so that they stay whole), so they ascend with length.

    Attributes:
        ranges: of each queue, the least and the largest length that it takes.
    """

    temporary = True

    def __init__(
        self,
        partition: Partition,
        tolerance: float = 0.10,
        width_tokens: int = BUBBLE_TOKENS,
        limit: int = BUBBLES,
        patience: int = PATIENCE_STEPS,
    ) -> None:
        self.partition = partition
        self.width_tokens = width_tokens
        self.limit = limit
        self.patience = patience
        self.ranges = _data_ranges(partition, tolerance)
        self._bubbles: list[int] = []  # lower limits in tokens, ascending
        self._empty_steps: dict[int, int] = {}

    def route(self, tokens: int) -> int:
        """Key of the queue or bubble."""
        index = self.partition.route(tokens)
        low, high = self.ranges[index]
        if low <= tokens <= high:
            return self.queue_key(index)
        lower = tokens // self.width_tokens * self.width_tokens
        if lower in self._empty_steps:
            return 2 * lower + 1
        if len(self._bubbles) < self.limit:
            insort(self._bubbles, lower)
            self._empty_steps[lower] = 0
            return 2 * lower + 1
        return self.queue_key(index)

    def end_step(self, occupied: frozenset[int]) -> None:
        """Drop bubbles that have been empty for `patience` steps."""
        for lower in list(self._bubbles):
            used = 2 * lower + 1 in occupied
            self._empty_steps[lower] = 0 if used else self._empty_steps[lower] + 1
            if self._empty_steps[lower] >= self.patience:
                del self._bubbles[bisect_left(self._bubbles, lower)]
                del self._empty_steps[lower]

    def is_bubble(self, key: int) -> bool:
        """Whether a key is that of a bubble that there is now."""
        return key % 2 == 1 and key // 2 in self._empty_steps

    def queue_key(self, index: int) -> int:
        """The key of a queue of the partition."""
        return 2 * (0 if index == 0 else self.partition.cuts[index - 1] + 1)


def _data_ranges(partition: Partition, tolerance: float) -> list[tuple[float, float]]:
    """Closed ranges where the partition's data lie, widened by `tolerance`.

    A partition stores cuts and means, not the sample.  Reflecting the nearer limit at the mean
    bounds the data of a queue whose lengths are spread evenly; the first and last queue, open
    on one side, take the reflection alone.
    """
    ranges = []
    for index, mean in enumerate(partition.means):
        low = 0.0 if index == 0 else partition.cuts[index - 1] + 1.0
        high = float(partition.cuts[index]) if index < len(partition.cuts) else 2.0 * mean - low
        half = max(mean - low, high - mean, 1.0) if high > low else 1.0
        ranges.append(((mean - half) * (1.0 - tolerance), (mean + half) * (1.0 + tolerance)))
    return ranges
