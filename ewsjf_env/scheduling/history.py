"""The history of a scheduler's requests: who arrived, what became of them, and sums of all.

One history serves both who ask.  An adaptive policy reads `records` and `totals` on the
scheduling path; a tuner or a metric reads `window`, now and then and from wherever it stopped
reading.  Requests that have ended are kept in a ring, so memory is bounded by what is in the
scheduler and by the ring's capacity, about 400 bytes each.

An event costs O(1), beside one pass over a step's outputs where somebody counts them.  No lock,
no clock, no I/O: the scheduler tells of each event, in the engine's own thread.  Tokens of a
request are not counted step by step: the request knows how many it has, and is asked when
somebody wants to know.

All times are seconds on the scheduler's clock, which never goes back; only differences mean
something.
"""

from __future__ import annotations

import dataclasses
import math
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

from ewsjf_env.measure.records import RequestRecord

CAPACITY = 4096  # ended requests that an adaptive policy can look back on
MAX_ROWS = 8192  # of ended requests in one answer; the reader asks again for more
MAX_IDLE_DELAY_S = 1.0  # longest way from the front end to an engine that has nothing to do
_SWEEP_SLACK = 64

NOT_SERVED = ("abort", "error")  # finish reasons of requests that were given up
# The first nine are the fields of `RequestRecord` but the last, in its order.
COLUMNS = (
    "request_id",
    "arrival_s",
    "prompt_tokens",
    "output_tokens",
    "cached_tokens",
    "generated_tokens",
    "first_token_s",
    "finish_s",
    "preemptions",
    "finish_reason",
)
# Sums since the start, in the order of an answer; they only ever grow.
COUNTERS = (
    "arrivals",
    "finished",
    "aborted",
    "output_tokens",
    "prefill_tokens",
    "preemptions",
    "kv_usage_s",
    "admitted_prompt_tokens",
    "admitted_cached_tokens",
    "steps",
    "scheduler_s",
)
Row = tuple[str, float, int, int, int, int, float | None, float | None, int, str | None]
_FINISH_S: Final = 7  # its place in a row


@dataclass(frozen=True)
class HistoryTotals:
    """Sums since the start; the difference of two of them describes the time between.

    `kv_usage_s` is the integral over time of the share of the KV cache in use.
    """

    output_tokens: int
    preemptions: int
    kv_usage_s: float


class _Open:
    """A request that has arrived and not ended."""

    __slots__ = ("arrival_s", "cached_tokens", "first_token_s", "request")

    def __init__(self, request: Any, arrival_s: float) -> None:
        self.request = request
        self.arrival_s = arrival_s
        self.cached_tokens: int | None = None  # None until its first step
        self.first_token_s: float | None = None

    def row(self, finish_s: float | None = None, reason: str | None = None) -> Row:
        request = self.request
        return (
            request.request_id,
            self.arrival_s,
            request.num_prompt_tokens,
            request.max_tokens,
            self.cached_tokens or 0,
            request.num_output_tokens,
            self.first_token_s,
            finish_s,
            request.num_preemptions,
            reason,
        )


def record_of(row: Sequence[Any]) -> RequestRecord:
    """The record that a row of `COLUMNS` is."""
    record = RequestRecord(*row[:9])
    return dataclasses.replace(record, outcome="aborted") if row[9] in NOT_SERVED else record


class RequestHistory:
    """Records of the requests in a scheduler and of those that left it last.

    A request is vLLM's `Request`, or anything with its names.

    Attributes:
        complete_since_s: requests that ended before this moment may be missing; all that ended
            later are there.  -inf until the ring is full.
        counts: sums by the names of `COUNTERS`; units as in `WindowCounters`, `kv_usage_s` and
            `scheduler_s` in seconds.  Whoever measures the scheduler adds to `scheduler_s`.
    """

    def __init__(self, capacity: int = CAPACITY) -> None:
        """`capacity`: number of ended requests that are kept, >= 1."""
        self.complete_since_s = -math.inf
        self.counts: dict[str, float] = dict.fromkeys(COUNTERS, 0)
        self._ring: deque[Row] = deque(maxlen=capacity)
        self._ended = 0  # the place of a reader who has read all
        self._ended_tokens = self._ended_preemptions = 0  # of requests that have ended
        self._open: dict[str, _Open] = {}
        self._without_token: dict[str, _Open] = {}  # have run, no token yet
        self._flying: deque[tuple[Any, int]] = deque()  # steps and their tokens of prefill
        self._last_step_s: float | None = None
        self._kv_usage = 0.0
        self._kv_since_s: float | None = None

    def __len__(self) -> int:
        """Requests that are kept, open and ended ones."""
        return len(self._open) + len(self._ring)

    # -- told by the scheduler -----------------------------------------------------------------

    def front_end_arrival_s(self, request: Any, now_s: float, wall_s: float) -> float:
        """When a request that is handed over now arrived at the front end.

        That is known on the wall clock alone and is carried over as "so long ago", within what
        can be true: after the step before, not after now.

        Args:
            request: not told of yet.
            now_s: the scheduler's clock.
            wall_s: the clock of `Request.arrival_time`.
        """
        earliest_s = now_s - MAX_IDLE_DELAY_S
        if self._open and self._last_step_s is not None:
            earliest_s = self._last_step_s
        delay_s: float = wall_s - request.arrival_time
        if not delay_s >= 0:  # also NaN: one of the clocks was set meanwhile
            delay_s = 0.0
        return max(earliest_s, now_s - delay_s)

    def arrived(self, request: Any, arrival_s: float) -> None:
        """A request entered the scheduler; one that is here already is left alone."""
        if request.request_id not in self._open:
            self._open[request.request_id] = _Open(request, arrival_s)
            self.counts["arrivals"] += 1

    def scheduled(self, output: Any, now_s: float, usage: float) -> None:
        """A step was scheduled.

        Args:
            output: vLLM's `SchedulerOutput` of the step.
            now_s: when the step began.
            usage: share of the KV cache in use from now on, [0, 1].
        """
        self._use(usage, now_s)
        self._last_step_s = now_s
        if output.preempted_req_ids:
            self.counts["preemptions"] += len(output.preempted_req_ids)
        for new in output.scheduled_new_reqs:
            entry = self._open.get(new.req_id)
            if entry is not None and entry.cached_tokens is None:
                entry.cached_tokens = int(new.num_computed_tokens)
                self._without_token[new.req_id] = entry
                self.counts["admitted_cached_tokens"] += entry.cached_tokens
                self.counts["admitted_prompt_tokens"] += entry.request.num_prompt_tokens

    def updated(self, ended_ids: Iterable[str], now_s: float, usage: float) -> list[Any]:
        """The tokens of a step were taken in.

        Args:
            ended_ids: requests that have ended, among others.
            now_s: when the step ended.
            usage: share of the KV cache in use from now on, [0, 1].

        Returns:
            See `end`.
        """
        self._use(usage, now_s)
        if self._without_token:
            started = [n for n, e in self._without_token.items() if e.request.num_output_tokens]
            for name in started:
                self._without_token.pop(name).first_token_s = now_s
        return self.end(ended_ids, now_s)

    def end(self, request_ids: Iterable[str], now_s: float) -> list[Any]:
        """Move those of the named requests that have ended to the ring, and return them."""
        gone = []
        for request_id in request_ids:
            entry = self._open.get(request_id)
            if entry is None or not entry.request.is_finished():
                continue
            del self._open[request_id]
            self._without_token.pop(request_id, None)
            request = entry.request
            reason = str(request.get_finished_reason())
            self.counts["aborted" if reason in NOT_SERVED else "finished"] += 1
            self._ended += 1
            self._ended_tokens += request.num_output_tokens
            self._ended_preemptions += request.num_preemptions
            if len(self._ring) == self._ring.maxlen:
                self.complete_since_s = self._ring[0][_FINISH_S] or 0.0
            self._ring.append(entry.row(now_s, reason))
            gone.append(request)
        return gone

    def sweep(self, known: dict[str, Any], now_s: float) -> None:
        """Drop what has left the scheduler by a way that was not reported; O(1) amortised."""
        if len(self._open) > 2 * len(known) + _SWEEP_SLACK:
            self.end([name for name in self._open if name not in known], now_s)
            for name in [name for name in self._open if name not in known]:
                del self._open[name]
                self._without_token.pop(name, None)

    # A clock of its own sees every event itself, and whoever drives it leaves these out.

    def count_step(self, output: Any, prefill_tokens: int) -> None:
        """Note the prefill of a step that was scheduled; it counts once the step has run."""
        if output.total_num_scheduled_tokens:
            self._flying.append((output, prefill_tokens))

    def count_tokens(self, output: Any, clients: Iterable[Any]) -> None:
        """Count a step that has run, and its tokens.

        Args:
            output: vLLM's `SchedulerOutput` of the step.
            clients: `EngineCoreOutputs` that go to the front ends.
        """
        while self._flying and output.total_num_scheduled_tokens:
            step, prefill_tokens = self._flying.popleft()
            if step is output:  # else it never came back
                self.counts["steps"] += 1
                self.counts["prefill_tokens"] += prefill_tokens
                break
        for client in clients:
            tokens = sum([len(one.new_token_ids) for one in client.outputs])
            self.counts["output_tokens"] += tokens

    # -- asked by an adaptive policy -----------------------------------------------------------

    def records(self, since_s: float = -math.inf) -> list[RequestRecord]:
        """Those of requests that are here, or ended at `since_s` or later; in no order.

        They show all that has happened until now.  A request that was aborted while it waited has
        no first token: what it has waited until then is known, what it would have waited is not.
        """
        found = [RequestRecord(*entry.row()[:9]) for entry in self._open.values()]
        for row in reversed(self._ring):  # in order of departure
            finish_s = row[_FINISH_S]
            if finish_s is not None and finish_s < since_s:
                break
            found.append(record_of(row))
        return found

    def totals(self, now_s: float) -> HistoryTotals:
        """Sums until `now_s`, not before the last event."""
        requests = [entry.request for entry in self._open.values()]
        since_s = now_s if self._kv_since_s is None else self._kv_since_s
        return HistoryTotals(
            output_tokens=self._ended_tokens + sum(r.num_output_tokens for r in requests),
            preemptions=self._ended_preemptions + sum(r.num_preemptions for r in requests),
            kv_usage_s=self.counts["kv_usage_s"] + self._kv_usage * (now_s - since_s),
        )

    # -- asked by a reader ---------------------------------------------------------------------

    def window(self, since: int, now_s: float, open_requests: bool = True) -> dict[str, Any]:
        """Requests that ended after place `since`, those still open, and all counters.

        Args:
            since: `next` of an earlier answer; 0 for all that is kept.
            now_s: the scheduler's clock.
            open_requests: also list what has arrived and not ended.

        Returns:
            Plain values: `now_s`; `columns` of a row; rows `finished`, oldest first, at most
            `MAX_ROWS` of them; `next` to go on from and whether there is `more`; how many rows
            were `lost` because the ring has moved on; rows `open`; `counters`.
        """
        self._use(self._kv_usage, now_s)
        oldest = self._ended - len(self._ring)
        start = since if 0 <= since <= self._ended else 0  # else: a place of an earlier server
        first = max(start, oldest)
        last = min(self._ended, first + MAX_ROWS)
        rows: Iterable[Sequence[Any]] = islice(self._ring, first - oldest, last - oldest)
        return {
            "now_s": now_s,
            "columns": list(COLUMNS),
            "finished": [list(row) for row in rows],
            "next": last,
            "more": last < self._ended,
            "lost": first - start if since else 0,
            "open": [list(entry.row()) for entry in self._open.values()] if open_requests else [],
            "counters": dict(self.counts),
        }

    def _use(self, usage: float, now_s: float) -> None:
        """Add the usage so far to its time integral and go on with `usage`."""
        if self._kv_since_s is not None:
            self.counts["kv_usage_s"] += self._kv_usage * (now_s - self._kv_since_s)
        self._kv_since_s = now_s
        self._kv_usage = usage
