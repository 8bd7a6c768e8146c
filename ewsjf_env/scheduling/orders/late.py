"""Late requests last: what cannot keep its service level any more makes room.  Beyond the paper.

A request is late from the moment on at which it could not have its first token in time if it began:

    late_at = arrival + limit - C(b)        limit = a + m C(b), see `measure.service`

by the C(b) in force when it joins.  An order in which nobody is late serves as it would; a late
request leaves it for a lane of its own, oldest first, which is served

* where nobody else waits, and
* for a share of the prompt tokens that are admitted while somebody does: others' tokens earn credit
  s/(1 - s), and a late request goes first once the credit has reached its tokens.

So nobody waits without bound: before a late request of b tokens at most b (1 - s)/s tokens of
others are admitted, and the rest of one prompt, once those that were late before it are served.
The overdue lane is above both; what a memory gate adds, `memory.py` bounds.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ewsjf_env.measure.service import ServiceLevel
from ewsjf_env.parameters import Parameter, Value, choice, linear
from ewsjf_env.scheduling.entry import Entry
from ewsjf_env.scheduling.orders.order import CostFunction, Order


def late_parameters(default: str) -> tuple[Parameter, ...]:
    """The parameters of an order whose late requests go by `default`."""
    return (
        choice(
            "late",
            default,
            of=("off", "last"),
            tunable=False,
            generation=4,
            description="last: requests that miss their service level anyway make room",
        ),
        linear(
            "late_share",
            0.05,
            low=0.01,
            high=0.5,
            named=True,
            generation=4,
            description="share of prompt tokens for late requests while others wait",
        ),
    )


def deadline_s(entry: Entry, level: ServiceLevel | None, cost_s: CostFunction) -> float:
    """The moment by which an entry's first token keeps its level; its arrival without a level."""
    if level is None:
        return entry.arrived_s
    return entry.arrived_s + level.ttft_s + level.ttft_cost_factor * cost_s(entry.prompt_tokens)


class LateLastOrder(Order):
    """An order, and the lane of those that are late.

    O(log n) amortised for each entry, besides what the order takes.

    Args:
        inner: the order.
        level: the service level.
        cost_s: C(b).
        share: s, of late requests, in (0, 1).
    """

    def __init__(
        self, inner: Order, level: ServiceLevel, cost_s: CostFunction, share: float
    ) -> None:
        self.inner = inner
        self.may_close = inner.may_close
        self._level = level
        self._cost_s = cost_s
        self._earns = share / (1.0 - share)
        self._credit = 0.0
        self._moments: list[tuple[float, int, Entry]] = []  # late_at, seq; of all, lazily removed
        self._in_time: set[int] = set()
        self._late: dict[int, Entry] = {}
        self._oldest: list[int] = []  # seq of late ones, a heap, lazily removed
        self._passed_over: Entry | None = None  # late, its turn, but a gate does not let it in

    @classmethod
    def around(
        cls,
        order: Order,
        values: Mapping[str, Value],
        level: ServiceLevel | None,
        cost_s: CostFunction,
    ) -> Order:
        """The order as its parameters ask: with a lane for late requests, or as it is."""
        if level is None or values.get("late") != "last":
            return order
        return cls(order, level, cost_s, float(values["late_share"]))

    def begin_step(self, now_s: float) -> None:
        """Let those leave the order that are late by now."""
        self.inner.begin_step(now_s)
        moments = self._moments
        while moments and moments[0][0] < now_s:
            _, seq, entry = heapq.heappop(moments)
            if seq in self._in_time:
                self._in_time.remove(seq)
                self.inner.remove(entry, False)
                self._late[seq] = entry
                heapq.heappush(self._oldest, seq)

    def add(self, entry: Entry) -> None:
        """O(log n) besides the order's own."""
        self.inner.add(entry)
        self._in_time.add(entry.seq)
        limit_s = deadline_s(entry, self._level, self._cost_s)
        late_at_s = limit_s - self._cost_s(entry.prompt_tokens)
        heapq.heappush(self._moments, (late_at_s, entry.seq, entry))

    def observe_arrival(self, entry: Entry) -> None:
        """As the order."""
        self.inner.observe_arrival(entry)

    def may_overtake(self, entry: Entry) -> bool:
        """As the order, for those that are in it."""
        return entry.seq in self._late or self.inner.may_overtake(entry)

    def remove(self, entry: Entry, picked: bool) -> None:
        """O(1) besides the order's own."""
        if picked and self._passed_over is not None:
            self._passed_over.passed += 1
        self._passed_over = None
        if self._late.pop(entry.seq, None) is None:
            self._in_time.remove(entry.seq)
            self.inner.remove(entry, picked)
            if picked and self._late:
                self._credit += self._earns * entry.prompt_tokens
            return
        if picked and self._in_time:
            self._credit -= entry.prompt_tokens
        if not self._late:
            self._credit = 0.0

    def best(self) -> Entry | None:
        """The order's next one, or the oldest late one."""
        return self._of(self.inner.best(), self._oldest_late())

    def best_fitting(self, lets_in: Callable[[Entry], bool]) -> Entry | None:
        """The same of the entries that a gate lets in; a late one is passed over boundedly."""
        self._passed_over = None
        found, late = self.inner.best_fitting(lets_in), self._oldest_late()
        if late is None or lets_in(late):
            return self._of(found, late)
        if self._credit >= late.prompt_tokens:
            self._passed_over = late
        return found

    def _of(self, found: Entry | None, late: Entry | None) -> Entry | None:
        if late is None or (found is None and self._in_time):
            return found  # nobody is late, or the order closes the step
        return late if found is None or self._credit >= late.prompt_tokens else found

    def _oldest_late(self) -> Entry | None:
        oldest = self._oldest
        while oldest and oldest[0] not in self._late:
            heapq.heappop(oldest)
        return self._late[oldest[0]] if oldest else None

    def __len__(self) -> int:
        return len(self._in_time) + len(self._late)

    def __iter__(self) -> Iterator[Entry]:
        yield from self.inner
        for seq in sorted(self._late):
            yield self._late[seq]

    def describe(self) -> dict[str, Any]:
        """What the order tells, and how many are late."""
        return {**self.inner.describe(), "late_depth": len(self._late)}
