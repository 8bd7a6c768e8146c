"""The queue of a scored order: its requests first come, first served, and what it is like."""

from __future__ import annotations

from collections import OrderedDict

from ewsjf_env.scheduling.entry import Entry

SHARE_HALF_LIFE_S = 60.0
_LEAST_ARRIVALS = 20.0  # fewer would let single arrivals swing a mean or a share
_MOST_ARRIVALS = 200.0  # that the mean length follows
_SMALLEST_SCALE = 1e-100


class Shares:
    """Shares of recent arrivals of the queues of one order, half-life a minute.

    Every arrival shrinks all shares alike.  So each queue stores its share over one common
    `scale`, and an arrival costs O(1) instead of a walk over the queues.
    """

    def __init__(self) -> None:
        self.scale = 1.0
        self._arrivals = 0.0
        self._stamp_s = 0.0

    def observe(self, arrived_s: float, queue: Queue, queues: dict[int, Queue]) -> None:
        """Count an arrival in one of the queues."""
        elapsed_s = max(0.0, arrived_s - self._stamp_s)
        self._stamp_s = max(self._stamp_s, arrived_s)
        self._arrivals = self._arrivals * 0.5 ** (elapsed_s / SHARE_HALF_LIFE_S) + 1.0
        weight = 1.0 / max(_LEAST_ARRIVALS, self._arrivals)
        self.scale *= 1.0 - weight
        queue.scaled_share += weight / self.scale
        if self.scale < _SMALLEST_SCALE:
            for each in queues.values():
                each.scaled_share *= self.scale
            self.scale = 1.0


class Queue:
    """One FCFS queue with what a scorer may know about it (a `QueueView`)."""

    __slots__ = (
        "_arrived_weight",
        "_shares",
        "entries",
        "key",
        "mean_tokens",
        "picks",
        "rank",
        "scaled_share",
        "score",
        "scored_head",
        "scored_step",
    )

    def __init__(self, key: int, mean_tokens: float, share: float, shares: Shares) -> None:
        self.key = key
        self.entries: OrderedDict[int, Entry] = OrderedDict()  # seq -> entry, oldest first
        self.mean_tokens = mean_tokens
        self.scaled_share = share / shares.scale
        self.rank = 1
        self.picks = 0
        self.score = 0.0
        self.scored_head: Entry | None = None
        self.scored_step = -1
        self._shares = shares
        self._arrived_weight = 0.0

    @property
    def head(self) -> Entry:
        """The oldest entry; the queue is not empty."""
        return next(iter(self.entries.values()))

    @property
    def share(self) -> float:
        """Share of recent arrivals, 0 to 1."""
        return self.scaled_share * self._shares.scale

    def observe(self, tokens: int) -> None:
        """Follow the mean length of the last few hundred arrivals."""
        self._arrived_weight = min(self._arrived_weight + 1.0, _MOST_ARRIVALS)
        if self._arrived_weight == 1.0 and not self.mean_tokens:
            self.mean_tokens = float(tokens)
        self.mean_tokens += (tokens - self.mean_tokens) / max(_LEAST_ARRIVALS, self._arrived_weight)
