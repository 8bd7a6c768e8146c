"""What happened to each request, kept by the scheduler for a tuner that asks later.

The recorder is told of arrivals, steps and ends by the scheduler, in the engine's own thread: no
lock, no I/O, O(1) an event beside one pass over a step's outputs.  Finished requests stay in a
ring; a reader names the place up to which it has read, so any number of readers share it.  The
counters only ever grow: the difference of two answers describes the time between them.

All times are seconds on the scheduler's clock, which never goes back; only differences mean
something.  A request's arrival at the front end is known on the wall clock alone and is carried
over as "so long ago", within what can be true: after the step before, not after now.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any

# The first nine are the fields of `records.RequestRecord`, in its order.
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
MAX_ROWS = 8192  # of finished requests in one answer; the reader asks again for more
MAX_IDLE_DELAY_S = 1.0  # longest way from the front end to an engine that has nothing to do
_SWEEP_SLACK = 64

Row = tuple[str, float, int, int, int, int, float | None, float | None, int, str | None]


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


class Recorder:
    """Records of one scheduler.

    Args:
        capacity: finished requests to keep, >= 1.
        wall_s: the clock of `Request.arrival_time`.
    """

    def __init__(self, capacity: int, wall_s: Callable[[], float]) -> None:
        self._wall_s = wall_s
        self._ring: deque[Row] = deque(maxlen=capacity)
        self._open: dict[str, _Open] = {}
        self._without_token: dict[str, _Open] = {}  # have run, no token yet
        self._last_step_s: float | None = None
        self._kv_usage = 0.0
        self._kv_since_s: float | None = None
        self.arrivals = 0
        self.ended = 0
        self.aborted = 0
        self.output_tokens = 0
        self.prefill_tokens = 0
        self.preemptions = 0
        self.kv_usage_s = 0.0
        self.admitted_prompt_tokens = 0
        self.admitted_cached_tokens = 0
        self.steps = 0
        self.scheduler_s = 0.0

    # -- told by the scheduler -----------------------------------------------------------------

    def arrived(self, request: Any, now_s: float) -> None:
        """Note a request that was just handed to the scheduler."""
        earliest_s = now_s - MAX_IDLE_DELAY_S
        if self._open and self._last_step_s is not None:
            earliest_s = self._last_step_s
        delay_s = self._wall_s() - request.arrival_time
        if not delay_s >= 0:  # also NaN: one of the clocks was set meanwhile
            delay_s = 0.0
        self._open[request.request_id] = _Open(request, max(earliest_s, now_s - delay_s))
        self.arrivals += 1

    def scheduled(self, output: Any, now_s: float, usage: float) -> None:
        """Note a step that was scheduled from `now_s` on, and the share of KV blocks now in use."""
        self._use(usage, now_s)
        self._last_step_s = now_s
        self.preemptions += len(output.preempted_req_ids or ())
        for new in output.scheduled_new_reqs:
            entry = self._open.get(new.req_id)
            if entry is not None and entry.cached_tokens is None:
                entry.cached_tokens = int(new.num_computed_tokens)
                self._without_token[new.req_id] = entry
                self.admitted_cached_tokens += entry.cached_tokens
                self.admitted_prompt_tokens += entry.request.num_prompt_tokens

    def updated(
        self,
        output: Any,
        clients: Iterable[Any],
        ended_ids: Iterable[str],
        now_s: float,
        usage: float,
    ) -> None:
        """Note the tokens of a step, which ends now.

        Args:
            output: vLLM's `SchedulerOutput` of the step.
            clients: `EngineCoreOutputs` that go to the front ends.
            ended_ids: requests that have ended, among others.
            now_s: the scheduler's clock.
            usage: share of KV blocks in use from now on.
        """
        self._use(usage, now_s)
        if output.total_num_scheduled_tokens:
            self.steps += 1
            drafts = output.scheduled_spec_decode_tokens
            decoded = list(output.num_scheduled_tokens.values()).count(1)
            decoded += sum(1 + len(tokens) for tokens in drafts.values())
            self.prefill_tokens += max(0, output.total_num_scheduled_tokens - decoded)
        for client in clients:
            self.output_tokens += sum([len(one.new_token_ids) for one in client.outputs])
        if self._without_token:
            started = [
                (name, entry)
                for name, entry in self._without_token.items()
                if entry.request.num_output_tokens
            ]
            for name, entry in started:
                entry.first_token_s = now_s
                del self._without_token[name]
        self.end(ended_ids, now_s)

    def end(self, request_ids: Iterable[str], now_s: float) -> None:
        """Move those of the named requests that have ended from the open ones to the ring."""
        for request_id in request_ids:
            entry = self._open.get(request_id)
            if entry is None or not entry.request.is_finished():
                continue
            del self._open[request_id]
            self._without_token.pop(request_id, None)
            reason = str(entry.request.get_finished_reason())
            self.aborted += reason == "abort"
            self.ended += 1
            self._ring.append(entry.row(now_s, reason))

    def sweep(self, known: dict[str, Any], now_s: float) -> None:
        """Drop what has left the scheduler by a way that was not reported; O(1) amortised."""
        if len(self._open) > 2 * len(known) + _SWEEP_SLACK:
            self.end([name for name in self._open if name not in known], now_s)
            for name in [name for name in self._open if name not in known]:
                del self._open[name]
                self._without_token.pop(name, None)

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
        oldest = self.ended - len(self._ring)
        start = since if 0 <= since <= self.ended else 0  # else: a place of an earlier server
        first = max(start, oldest)
        last = min(self.ended, first + MAX_ROWS)
        rows = islice(self._ring, first - oldest, last - oldest)
        return {
            "now_s": now_s,
            "columns": list(COLUMNS),
            "finished": [list(row) for row in rows],
            "next": last,
            "more": last < self.ended,
            "lost": first - start if since else 0,
            "open": [list(entry.row()) for entry in self._open.values()] if open_requests else [],
            "counters": self.counters(),
        }

    def counters(self) -> dict[str, float]:
        """Sums since the start, by name; units as in `WindowCounters`, `kv_usage_s` in seconds."""
        return {
            "arrivals": self.arrivals,
            "finished": self.ended - self.aborted,
            "aborted": self.aborted,
            "output_tokens": self.output_tokens,
            "prefill_tokens": self.prefill_tokens,
            "preemptions": self.preemptions,
            "kv_usage_s": self.kv_usage_s,
            "admitted_prompt_tokens": self.admitted_prompt_tokens,
            "admitted_cached_tokens": self.admitted_cached_tokens,
            "steps": self.steps,
            "scheduler_s": self.scheduler_s,
        }

    def _use(self, usage: float, now_s: float) -> None:
        """Add the usage so far to its time integral and go on with `usage`."""
        if self._kv_since_s is not None:
            self.kv_usage_s += self._kv_usage * (now_s - self._kv_since_s)
        self._kv_since_s = now_s
        self._kv_usage = usage
