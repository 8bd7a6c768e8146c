"""The waiting queue: the same lanes, pinning and recovery rule around every order.

Each pick looks, within the most urgent priority that has requests, at
    1. the recovery lane: preempted or returned requests, in order,
    2. the overdue lane, while it has token credit,
    3. the order; with tenants, that of the tenant which is owed most (`tenants.py`).
A choice is pinned from `peek` to `pop`, so that both see the same request; a new step, a
removal, a prepend or, with a memory gate, another number of free blocks releases it.  The queue
never reads a clock: `begin_step(now_s)` brings one stamp a step, and a request is stamped by the
first step that sees it (or by the time its caller gives).  Stamps never go back, whatever the clock
does.
"""

from __future__ import annotations

from bisect import insort
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import Any, Generic, TypeVar
from weakref import WeakKeyDictionary

from ewsjf_env.scheduling.entry import Entry
from ewsjf_env.scheduling.memory import MemoryGate
from ewsjf_env.scheduling.orders.order import Order
from ewsjf_env.scheduling.overdue import OverdueLane
from ewsjf_env.scheduling.step_shape import WaitingTokens
from ewsjf_env.scheduling.tenants import TenantAccounts

R = TypeVar("R", bound=Hashable)

MAX_IDLE_PRIORITIES = 32  # callers may use a new priority number for every request


class _Class:
    """The lanes of one priority."""

    def __init__(self, order: Order, overdue: OverdueLane) -> None:
        self.recovery: deque[Entry] = deque()
        self.order = order
        self.overdue = overdue

    def __len__(self) -> int:
        return len(self.recovery) + len(self.order)


class WaitingQueue(Generic[R]):
    """Waiting requests of any hashable, weakly referable type.

    Args:
        make_order: a new empty order; called once a priority and at every policy change.
        make_overdue: a new overdue lane.
        describe_request: request -> a new, unstamped `Entry` (given the sequence number).
        on_arrival: called with each stamped new entry (statistics).
        by_priority: smaller `Entry.priority` first.  Returned requests then re-enter the order
            instead of the recovery lane, as in stock vLLM's priority queue, which has no front.
        tenants: accounts to keep; `Entry.tenant` then names what is entered into them.  Not
            together with `by_priority`.
    """

    def __init__(
        self,
        make_order: Callable[[], Order],
        make_overdue: Callable[[], OverdueLane],
        describe_request: Callable[[R, int], Entry],
        on_arrival: Callable[[Entry], None] | None = None,
        *,
        by_priority: bool = False,
        tenants: TenantAccounts | None = None,
    ) -> None:
        if tenants is not None and by_priority:
            raise ValueError("tenants: not together with by_priority")
        self.tenants = tenants
        self._make_order = make_order
        self._make_overdue = make_overdue
        self._describe_request = describe_request
        self._on_arrival = on_arrival
        self._by_priority = by_priority
        self._classes: dict[int, _Class] = {}
        self._priorities: list[int] = []  # ascending keys of _classes
        self._entries: dict[R, Entry] = {}  # everything that waits here
        self._unstamped: dict[R, Entry] = {}
        self.gate: MemoryGate | None = None
        self._may_close = False
        self._pinned_free = 0  # blocks of the KV cache that were free when the choice was pinned
        self._shorter_than = 0
        self._tokens = WaitingTokens()
        # Sequence, first enqueue time and tenant of requests that left; weak: finished ones vanish.
        self._left: WeakKeyDictionary[R, tuple[int, float, str]] = WeakKeyDictionary()
        self._pinned: tuple[Entry, bool] | None = None  # entry, picked from the overdue lane
        self._next_seq = 0
        self._now_s = 0.0
        self._last_stamp_s = float("-inf")
        self._budget_tokens = 0

    # -- steps ---------------------------------------------------------------------------------

    def begin_step(self, now_s: float, budget_tokens: int) -> None:
        """Start a scheduling step: one clock stamp for everything that happens in it."""
        self._now_s = max(self._now_s, now_s)
        self._budget_tokens = budget_tokens
        self._pinned = None
        self._shorter_than = 0
        self._stamp_new()
        for lanes in self._classes.values():
            lanes.order.begin_step(self._now_s)
            lanes.overdue.begin_step(self._now_s, budget_tokens)

    def admit_only(self, shorter_than: int) -> None:
        """In this step, end where the next prompt has as many tokens or more; 0: do not."""
        self._shorter_than = shorter_than

    def replace_orders(
        self, make_order: Callable[[], Order], make_overdue: Callable[[], OverdueLane]
    ) -> None:
        """Swap the policy: waiting requests are re-routed in enqueue order; recovery stays."""
        self._make_order, self._make_overdue = make_order, make_overdue
        self._pinned = None
        for priority in self._priorities:
            old = self._classes[priority]
            lanes = self._classes[priority] = self._new_class()
            lanes.recovery = old.recovery
            lanes.overdue.inherit(old.overdue)
            for entry in sorted(old.order, key=lambda e: e.seq):
                entry.order_slot, entry.overdue = None, False
                entry.routed_tokens = entry.work_tokens = entry.prompt_tokens
                lanes.order.add(entry)
                lanes.overdue.add(entry)
            lanes.order.begin_step(self._now_s)
            lanes.overdue.admit(self._now_s)

    # -- the operations of vLLM's RequestQueue ---------------------------------------------------

    def add(self, request: R) -> None:
        """Add a request that arrived last; O(log n)."""
        if request in self._entries:
            raise ValueError(f"request {request!r} is already waiting")
        entry = self._describe_request(request, self._next_seq)
        if self.tenants is not None:
            entry.tenant = self.tenants.admit(entry.tenant, entry.request_id)
        self._next_seq += 1
        self._put(request, entry)
        self._left.pop(request, None)
        if entry.enqueue_s is None:
            self._unstamped[request] = entry
        else:
            self._enter(entry)

    def peek(self) -> R:
        """The next request; IndexError when there is none."""
        chosen = self._choose()
        if chosen is None:
            raise IndexError("peek from an empty waiting queue")
        request: R = chosen[0].request
        return request

    def pop(self) -> R:
        """Remove and return the request that `peek` shows."""
        # The choice that `peek` showed, although its blocks have been taken since.
        chosen = self._pinned if self._pinned is not None else self._choose()
        if chosen is None:
            raise IndexError("pop from an empty waiting queue")
        entry, from_overdue = chosen
        if from_overdue:
            self._classes[self._class_key(entry)].overdue.charge(entry)
        request: R = entry.request
        self._take_out(request, picked=True)
        self._left[request] = (entry.seq, entry.arrived_s, entry.tenant)
        return request

    def prepend(self, request: R) -> None:
        """Return a request to the front: preempted, or skipped in this step."""
        if request in self._entries:
            raise ValueError(f"request {request!r} is already waiting")
        known = self._left.pop(request, None)
        if known is None:
            entry = self._describe_request(request, self._next_seq)
            entry.enqueue_s = self._stamp(self._now_s)
            self._next_seq += 1
            if self.tenants is not None:
                entry.tenant = self.tenants.admit(entry.tenant, entry.request_id)
        else:
            entry = self._describe_request(request, known[0])
            entry.enqueue_s, entry.tenant = known[1:]
        self._pinned = None
        self._put(request, entry)
        lanes = self._lanes(entry)
        if self._by_priority:
            lanes.order.add(entry)
        else:
            lanes.recovery.appendleft(entry)

    def remove(self, request: R) -> None:
        """Remove a request; KeyError when it is not here.  O(1), O(lane) in recovery."""
        if request not in self._entries:
            raise KeyError(request)
        self._take_out(request, picked=False)

    def discard_all(self, requests: Iterable[R]) -> None:
        """Remove those of `requests` that are here."""
        for request in requests:
            if request in self._entries:
                self._take_out(request, picked=False)

    def __bool__(self) -> bool:
        # vLLM asks before it looks at its limits: choose (and score) only where it is needed to
        # know, which is for orders and steps that may close while requests wait.
        if not self._entries:
            return False
        if not self._may_close and not self._shorter_than and self.gate is None:
            return True
        chosen = self._choose()
        if chosen is None:
            return False
        return not self._shorter_than or chosen[0].prompt_tokens < self._shorter_than

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, request: object) -> bool:
        return request in self._entries

    def __iter__(self) -> Iterator[R]:
        for priority in self._priorities:
            lanes = self._classes[priority]
            yield from [entry.request for entry in lanes.recovery]
            yield from [entry.request for entry in lanes.order]
        yield from list(self._unstamped)

    def __getitem__(self, index: int) -> R:
        return list(self)[index]

    def tokens_below(self, limit: int) -> int:
        """Tokens of the waiting prompts that are shorter than `limit`, a power of two."""
        return self._tokens.below(limit)

    def head_tokens(self) -> int:
        """Tokens of the next request's prompt; 0 when there is none."""
        chosen = self._choose()
        return 0 if chosen is None else chosen[0].prompt_tokens

    # -- inspection ----------------------------------------------------------------------------

    def entry(self, request: R) -> Entry:
        """The entry of a waiting request; KeyError when it does not wait."""
        return self._entries[request]

    def orders(self) -> list[Order]:
        """The orders in use, by ascending priority number."""
        return [self._classes[p].order for p in self._priorities]

    def describe(self) -> dict[str, Any]:
        """Depths by lane and what the orders tell, for logs and metrics."""
        lanes = [self._classes[p] for p in self._priorities]
        return {
            "depth": len(self._entries),
            "recovery_depth": sum(len(c.recovery) for c in lanes),
            "overdue_depth": sum(c.overdue.depth for c in lanes),
            "overdue_served": sum(c.overdue.served for c in lanes),
            **({} if self.tenants is None else {"tenants": self.tenants.describe()}),
            "classes": [
                {"priority": p, **self._classes[p].order.describe()} for p in self._priorities
            ],
        }

    # -- inside --------------------------------------------------------------------------------

    def _choose(self) -> tuple[Entry, bool] | None:
        if self.gate is not None:
            free = self.gate.cache.free_blocks()
            if free != self._pinned_free:
                self._pinned, self._pinned_free = None, free
        if self._pinned is None:
            if self._unstamped:
                self._stamp_new()
            for priority in self._priorities:
                lanes = self._classes[priority]
                if lanes.recovery or len(lanes.order):
                    self._pinned = self._choose_in(lanes)
                    break  # a less urgent priority never goes before a more urgent one
        return self._pinned

    def _choose_in(self, lanes: _Class) -> tuple[Entry, bool] | None:
        if lanes.recovery:
            return lanes.recovery[0], False
        overdue = lanes.overdue.best()
        if overdue is not None and lanes.order.may_overtake(overdue):
            return overdue, True
        gate = self.gate
        best = lanes.order.best() if gate is None else lanes.order.best_fitting(gate.lets_in)
        return None if best is None else (best, False)

    def _put(self, request: R, entry: Entry) -> None:
        self._entries[request] = entry
        self._tokens.add(entry.prompt_tokens)

    def _take_out(self, request: R, picked: bool) -> None:
        entry = self._entries.pop(request)
        self._tokens.remove(entry.prompt_tokens)
        if self._pinned is not None and (picked or self._pinned[0] is entry):
            self._pinned = None
        if self._unstamped.pop(request, None) is not None:
            return
        lanes = self._lanes(entry)
        if lanes.recovery and entry in lanes.recovery:
            lanes.recovery.remove(entry)
        else:
            lanes.overdue.remove(entry)
            lanes.order.remove(entry, picked)
            if self.tenants is not None:
                self.tenants.unqueued(entry.tenant)
                if picked:  # not one that comes back: it was charged when it was first picked
                    self.tenants.picked(entry)
        if len(self._classes) > MAX_IDLE_PRIORITIES and not len(lanes):
            del self._classes[self._class_key(entry)]
            self._priorities.remove(self._class_key(entry))

    def _stamp_new(self) -> None:
        for entry in self._unstamped.values():
            entry.enqueue_s = self._now_s
            self._enter(entry)
        self._unstamped.clear()

    def _stamp(self, moment_s: float) -> float:
        """Stamps ascend with the sequence, so that the oldest entry is the first of its queue."""
        self._last_stamp_s = max(self._last_stamp_s, moment_s)
        return self._last_stamp_s

    def _enter(self, entry: Entry) -> None:
        entry.enqueue_s = self._stamp(entry.arrived_s)
        lanes = self._lanes(entry)
        if self.tenants is not None:
            self.tenants.queued(entry.tenant)
        lanes.order.add(entry)
        lanes.overdue.add(entry)
        lanes.order.observe_arrival(entry)
        if self._on_arrival is not None:
            self._on_arrival(entry)

    def _class_key(self, entry: Entry) -> int:
        return entry.priority if self._by_priority else 0

    def _lanes(self, entry: Entry) -> _Class:
        key = self._class_key(entry)
        lanes = self._classes.get(key)
        if lanes is None:
            lanes = self._classes[key] = self._new_class()
            lanes.order.begin_step(self._now_s)
            lanes.overdue.begin_step(self._now_s, self._budget_tokens)
            insort(self._priorities, key)
        return lanes

    def _new_class(self) -> _Class:
        order = self._make_order()
        self._may_close = order.may_close
        return _Class(order, self._make_overdue())
