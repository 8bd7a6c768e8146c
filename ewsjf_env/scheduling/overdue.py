"""The overdue lane: a bound on how long a request can be passed over (+ beyond the paper).

The paper admits that EWSJF has no fairness guarantee.  Two mechanisms give one each:

* Bounded overtaking (in `ScoredOrder`): with window A, a request is never passed by one that
  arrived more than A after it, so its delay over FCFS is at most the service time of the work
  that arrived in that window.
* The overdue lane (here): an overdue request, W > max(floor, kappa C(b)), is served from a
  reserved share phi of each step's token budget B, oldest first.  If overdue work arrives below
  phi B tokens a step and its KV blocks can be allocated, an overdue request is served within
  ceil((overdue tokens ahead + cap)/(phi B)) steps that reach the waiting queue.

No order bounds waits in sustained overload; that is what `depth` and the overdue share show.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass

from ewsjf_env.scheduling.entry import Entry

CAP_BUDGETS = 4  # credit saved up, in step budgets


@dataclass(frozen=True)
class OverdueSettings:
    """The overdue rule.

    Attributes:
        share: phi in [0, 1]; 0 switches the lane off.
        floor_s: a wait below this is never overdue.
        cost_factor: kappa: a wait of this many times the request's own prefill is overdue.
    """

    share: float = 0.0
    floor_s: float = 10.0
    cost_factor: float = 60.0

    def limit_s(self, cost_s: float) -> float:
        """The wait in seconds at which a request of prefill cost `cost_s` becomes overdue."""
        return max(self.floor_s, self.cost_factor * cost_s)


class OverdueLane:
    """Oldest overdue request first, while the lane has token credit."""

    def __init__(self, settings: OverdueSettings, cost_s: Callable[[int], float]) -> None:
        self.settings = settings
        self.served = 0
        self.credit_tokens = 0.0
        self._cost_s = cost_s
        self._cap_tokens = 0.0
        self._watched: set[int] = set()  # seq of entries in the lane or on their way to it
        self._deadlines: list[tuple[float, int, Entry]] = []
        self._overdue: list[tuple[int, Entry]] = []
        self._live = 0

    def begin_step(self, now_s: float, budget_tokens: int) -> None:
        """Earn this step's share, then `admit`."""
        if self.settings.share <= 0.0:
            return
        self._cap_tokens = CAP_BUDGETS * float(budget_tokens)
        earned = self.settings.share * budget_tokens
        self.credit_tokens = min(self._cap_tokens, self.credit_tokens + earned)
        self.admit(now_s)

    def admit(self, now_s: float) -> None:
        """Let requests whose limit has passed enter the lane; O(log n) each."""
        while self._deadlines and self._deadlines[0][0] < now_s:
            _, seq, entry = heapq.heappop(self._deadlines)
            if seq in self._watched:
                heapq.heappush(self._overdue, (seq, entry))
                self._live += 1
                entry.overdue = True

    def inherit(self, other: OverdueLane) -> None:
        """Take over the accounts of the lane that this one replaces."""
        self.credit_tokens, self._cap_tokens = other.credit_tokens, other._cap_tokens
        self.served = other.served

    def add(self, entry: Entry) -> None:
        """Watch an entry; O(log n)."""
        if self.settings.share <= 0.0:
            return
        limit_s = self.settings.limit_s(self._cost_s(entry.prompt_tokens))
        self._watched.add(entry.seq)
        heapq.heappush(self._deadlines, (entry.arrived_s + limit_s, entry.seq, entry))

    def remove(self, entry: Entry) -> None:
        """Stop watching an entry; O(1)."""
        if entry.seq in self._watched:
            self._watched.discard(entry.seq)
            self._live -= entry.overdue
            entry.overdue = False
            if not self._watched:  # drop what aborted entries have left behind
                self._deadlines.clear()
                self._overdue.clear()

    def best(self) -> Entry | None:
        """The oldest overdue entry when there is credit, else None."""
        while self._overdue and self._overdue[0][0] not in self._watched:
            heapq.heappop(self._overdue)
        return self._overdue[0][1] if self._overdue and self.credit_tokens > 0.0 else None

    def charge(self, entry: Entry) -> None:
        """Pay for an entry served from the lane; one request costs at most the cap."""
        self.served += 1
        self.credit_tokens -= min(float(entry.prompt_tokens), self._cap_tokens)

    @property
    def depth(self) -> int:
        """Number of overdue entries."""
        return self._live
