"""An order by a static key, smallest first, in a heap: O(log n) to add and to pick."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Iterator
from typing import Any

from ewsjf_env.scheduling.entry import Entry
from ewsjf_env.scheduling.orders.order import Order

Key = tuple[Any, ...]  # comparable with the keys of the same order
_Item = tuple[Key, float, int, int, Entry]  # key, arrival, seq, ticket, entry


class KeyedOrder(Order):
    """Smallest static key first; ties by arrival, then sequence.

    Args:
        key: entry -> tuple, comparable with the others'.
        refresh: recompute the key when an entry reaches the head, once a step, because what it
            depends on (the cached prefix) may have changed; a grown key moves the entry back.

    An entry whose key cannot be computed goes before all others, first come; such exceptions are
    counted in `score_failures`.
    """

    def __init__(self, key: Callable[[Entry], Key], refresh: bool = False) -> None:
        self.score_failures = 0
        self._key = key
        self._refresh = refresh
        self._heap: list[_Item] = []
        self._live: dict[int, _Item] = {}  # seq -> its one item that counts
        self._fresh: set[int] = set()
        self._tickets = itertools.count()  # no two items compare equal, even of one entry

    def begin_step(self, now_s: float) -> None:
        """Static keys need no clock; refreshed heads are due again."""
        self._fresh.clear()

    def add(self, entry: Entry) -> None:
        """O(log n)."""
        heapq.heappush(self._heap, self._item(entry))

    def remove(self, entry: Entry, picked: bool) -> None:
        """O(1) amortised: the heap item is dropped when it surfaces, or when most are dead."""
        del self._live[entry.seq]
        if len(self._heap) > 64 and len(self._heap) > 2 * len(self._live):
            self._heap = list(self._live.values())
            heapq.heapify(self._heap)

    def best(self) -> Entry | None:
        """O(log n) amortised."""
        heap = self._heap
        while heap:
            item = heap[0]
            seq, entry = item[2], item[4]
            if self._live.get(seq) is not item:
                heapq.heappop(heap)
                continue
            if self._refresh and seq not in self._fresh:
                self._fresh.add(seq)
                heapq.heapreplace(heap, self._item(entry))
                continue
            return entry
        return None

    def rekey(self) -> None:
        """Recompute every key, O(n): after the key function's parameters have changed."""
        self._heap = [self._item(item[4]) for item in list(self._live.values())]
        heapq.heapify(self._heap)

    def _item(self, entry: Entry) -> _Item:
        try:
            key = self._key(entry)
        except Exception:  # whatever a key does, the server must go on
            self.score_failures += 1
            key = ()  # less than any other
        item = (key, entry.arrived_s, entry.seq, next(self._tickets), entry)
        self._live[entry.seq] = item
        return item

    def __len__(self) -> int:
        return len(self._live)

    def __iter__(self) -> Iterator[Entry]:
        return iter([item[4] for item in sorted(self._live.values(), key=lambda i: i[:4])])

    def describe(self) -> dict[str, Any]:
        """One queue."""
        return {
            "queues": [{"depth": len(self._live)}],
            "score_failures": self.score_failures,
        }
