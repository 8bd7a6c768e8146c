"""The times at which an adaptive policy acts: every period, on the end of the past one.

A policy that comes into force at `origin` acts at origin + P, origin + 2 P, ..., each time on
the last W seconds before (P is `period_s`, W `window_s` of the policy):

    origin            origin + P        origin + 2 P
    |........[== W ==]|........[== W ==]|........

The counters of a window are noted at the moments where it begins and ends, before whatever
happens there, so that windows are half-open as everywhere.  The values come into force at the
first step after the end; an idle engine makes no steps, and needs no values.

Nothing here reads a clock, waits or fails: a policy that raises is replaced by its fallback.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ewsjf_env.measure.records import RequestRecord, WindowCounters
from ewsjf_env.parameters import Value
from ewsjf_env.policy.adaptive import Adaptive
from ewsjf_env.policy.policy import Policy
from ewsjf_env.scheduling.history import HistoryTotals

# What needs C(b): the scheduler has its own estimate of it, the environment asks the engine.
COST_FEATURES = ("work_share_", "slowdown_", "overdue_share")


class History(Protocol):
    """What is known of the requests; see `history.RequestHistory`."""

    @property
    def complete_since_s(self) -> float:
        """Requests that ended before this moment may be missing."""
        ...

    def records(self, since_s: float = ...) -> Sequence[RequestRecord]:
        """Records of all requests that have not left before `since_s`."""
        ...

    def totals(self, now_s: float) -> HistoryTotals:
        """Sums until `now_s`."""
        ...


@dataclass(frozen=True)
class _Window:
    """A window that has ended: when, what was counted inside, and with how many queues."""

    start_s: float
    end_s: float
    before: HistoryTotals
    after: HistoryTotals
    queues: int


class Adaptation:
    """Lets the policy in force follow the traffic.

    Attributes:
        next_s: the moment that `roll` waits for; inf for a static policy.
        acts: how often a policy was asked.
        fallbacks: how often of these it had nothing to judge by, or failed.
        failures: how often it raised.
        inputs: what it was last given, by name.
    """

    def __init__(
        self, history: History, prefill_cost_s: Callable[[int], float], queues: Callable[[], int]
    ) -> None:
        """Follow nothing yet.

        Args:
            history: of the requests.
            prefill_cost_s: C(b): prompt tokens -> seconds, > 0.
            queues: how many queues there are now.
        """
        self.next_s = math.inf
        self.acts = self.fallbacks = self.failures = 0
        self.inputs: dict[str, float] = {}
        self._history = history
        self._prefill_cost_s = prefill_cost_s
        self._queues = queues
        self._adaptive: Adaptive | None = None
        self._origin_s = 0.0
        self._period = 0  # number of the period that `next_s` lies in or ends
        self._before: tuple[float, HistoryTotals] | None = None  # of a window that has begun
        self._ended: _Window | None = None

    def follow(self, policy: Policy, now_s: float) -> None:
        """Act for `policy` from now on.

        One that differs in its parameters alone does not begin a new period: that is how the
        values that this object proposes come into force.
        """
        if policy.adaptive != self._adaptive:
            self._adaptive = policy.adaptive
            self.restart(now_s)

    def restart(self, now_s: float) -> None:
        """Begin a new period now, for example on another clock."""
        self._origin_s, self._period = now_s, 0
        self._before = self._ended = None
        self.next_s = math.inf if self._adaptive is None else self._begin_s(self._adaptive)

    @property
    def due(self) -> bool:
        """Whether a window has ended and waits for `act`."""
        return self._ended is not None

    def roll(self, now_s: float) -> None:
        """Note what the counters show where a window begins or ends; before each event.

        O(1), except at those moments: O(requests in the scheduler).
        """
        while now_s >= self.next_s:
            self._pass(now_s)

    def act(self, policy: Policy) -> dict[str, Value] | None:
        """Parameter values to put in force now; None: leave them.

        Args:
            policy: in force, with its present values.
        """
        window, self._ended = self._ended, None
        if window is None or policy.adaptive is None:
            return None
        self.acts += 1
        try:
            values = policy.act(self._inputs(policy, policy.adaptive, window))
        except Exception:  # a scheduler must go on serving, whatever a file from elsewhere holds
            self.failures += 1
            self.fallbacks += 1
            values = policy.act(None)
        return None if values == dict(policy.parameters) else values

    def state(self) -> dict[str, Any]:
        """Plain values for logs and metrics; empty for a static policy."""
        if self._adaptive is None:
            return {}
        return {
            "period_s": self._adaptive.period_s,
            "acts": self.acts,
            "fallbacks": self.fallbacks,
            "failures": self.failures,
            "inputs": dict(self.inputs),
        }

    def _pass(self, now_s: float) -> None:
        """Pass the moment `next_s` <= now_s."""
        adaptive = self._adaptive
        assert adaptive is not None  # next_s is inf otherwise
        missed = int((now_s - self.next_s) // adaptive.period_s)
        if missed > 1:  # nothing has happened since: all windows but the last are alike
            self._period += missed - 1
            self._before = None
            self.next_s = self._begin_s(adaptive)
        totals = self._history.totals(self.next_s)
        if self._before is None:
            self._before = self.next_s, totals
            self.next_s = self._origin_s + (self._period + 1) * adaptive.period_s
            return
        start_s, before = self._before
        self._ended = _Window(start_s, self.next_s, before, totals, self._queues())
        self._before = None
        self._period += 1
        self.next_s = self._begin_s(adaptive)

    def _begin_s(self, adaptive: Adaptive) -> float:
        """Where the window of the present period begins."""
        gap_s = adaptive.period_s - adaptive.window_s
        return self._origin_s + self._period * adaptive.period_s + gap_s

    def _inputs(self, policy: Policy, adaptive: Adaptive, window: _Window) -> Any:
        # A ring that is too small for the traffic makes the window shorter, not wrong.
        start_s = max(window.start_s, self._history.complete_since_s)
        length_s, kept_s = window.end_s - window.start_s, window.end_s - start_s
        if kept_s <= 0.0:
            self.fallbacks += 1
            self.inputs = {}
            return None
        before, after = window.before, window.after
        counters = WindowCounters(
            output_tokens=round((after.output_tokens - before.output_tokens) * kept_s / length_s),
            prefill_tokens=0,  # no feature reads it
            preemptions=after.preemptions - before.preemptions,
            kv_usage_mean=(after.kv_usage_s - before.kv_usage_s) / length_s,
            queues=window.queues,
        )
        # In order of arrival, so that sums do not depend on the order of departure.
        records = sorted(self._history.records(start_s), key=lambda r: (r.arrival_s, r.request_id))
        inputs = adaptive.inputs_of(
            records,
            counters,
            start_s,
            window.end_s,
            self._prefill_cost_s,
            policy.parameters,
        )
        self.inputs = dict(zip(adaptive.inputs, inputs.tolist(), strict=True))
        return inputs
