"""The interface of an order: it holds waiting entries and names the next one.

Recovery, priorities, pinning and the overdue lane are not the order's business: `waiting_queue.py`
does them the same way for every order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol

from ewsjf_env.scheduling.entry import Entry

CostFunction = Callable[[int], float]  # C(b): prompt tokens -> seconds


class Order(Protocol):
    """Holds stamped entries and names the next one.

    `begin_step(now_s)` fixes the clock of the step; `best()` may be asked any number of times
    and answers the same entry until an entry is added or removed; `removed(entry, picked)`
    takes one out, `picked` telling a pick from an abort.  `best` is None when empty, or when
    the order closes the step (backfill `none`), which it announces by `may_close`.
    """

    may_close: bool = False

    def observe_arrival(self, entry: Entry) -> None:
        """Note that an entry that was added is new, not merely re-routed."""
        return None

    def may_overtake(self, entry: Entry) -> bool:
        """Whether an entry that is here may be served before all others by another rule."""
        return True

    def begin_step(self, now_s: float) -> None:
        """Start a scheduling step at `now_s`."""
        ...

    def add(self, entry: Entry) -> None:
        """Add an entry that arrived last."""
        ...

    def remove(self, entry: Entry, picked: bool) -> None:
        """Remove an entry that is here."""
        ...

    def best(self) -> Entry | None:
        """The next entry."""
        ...

    def best_fitting(self, lets_in: Callable[[Entry], bool]) -> Entry | None:
        """The next entry that a gate lets in; None, which closes the step, where it is not so."""
        entry = self.best()
        return entry if entry is not None and lets_in(entry) else None

    def __len__(self) -> int:
        """Number of entries."""
        ...

    def __iter__(self) -> Iterator[Entry]:
        """Entries, for inspection: queue by queue, or by key."""
        ...

    def describe(self) -> dict[str, Any]:
        """Depths and head waits for logs and metrics."""
        ...
