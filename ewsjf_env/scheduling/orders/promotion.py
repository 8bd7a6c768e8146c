"""An order in which a request that has waited too long goes before all others, FCFS."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

from ewsjf_env.scheduling.entry import Entry
from ewsjf_env.scheduling.orders.order import Order


class PromotingOrder(Order):
    """`inner`, with a first-come lane for entries that waited `max_wait_s` or more.

    Args:
        inner: the order of everybody else.
        max_wait_s: one limit for all, so entries age in arrival order and a FIFO suffices.
        ages: whether an entry can be promoted at all.
    """

    def __init__(self, inner: Order, max_wait_s: float, ages: Callable[[Entry], bool]) -> None:
        self.inner = inner
        self.max_wait_s = max_wait_s
        self._ages = ages
        self._ageing: OrderedDict[int, Entry] = OrderedDict()
        self._now_s = 0.0

    def begin_step(self, now_s: float) -> None:
        """O(1)."""
        self._now_s = now_s
        self.inner.begin_step(now_s)

    def add(self, entry: Entry) -> None:
        """As `inner`."""
        self.inner.add(entry)
        if self._ages(entry):
            self._ageing[entry.seq] = entry

    def remove(self, entry: Entry, picked: bool) -> None:
        """As `inner`."""
        self._ageing.pop(entry.seq, None)
        self.inner.remove(entry, picked)

    def best(self) -> Entry | None:
        """The oldest promoted entry, else what `inner` says."""
        if self._ageing:
            oldest = next(iter(self._ageing.values()))
            if self._now_s - oldest.arrived_s >= self.max_wait_s:
                return oldest
        return self.inner.best()

    def __len__(self) -> int:
        return len(self.inner)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.inner)

    def describe(self) -> dict[str, Any]:
        """As `inner`."""
        return self.inner.describe()
