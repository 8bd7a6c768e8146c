"""What has happened to requests lately, as the scheduler itself sees it?

Every event is O(1): an arrival, an admission, a step that produced first tokens, a departure.
Tokens are not counted step by step: a request knows how many it has, and is asked when somebody
wants to know.  Requests that have left are kept in a ring, so memory is bounded by what is in
the scheduler and the ring's capacity.

Times are seconds on the caller's clock and must not go back.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from ewsjf_env.measure.records import RequestRecord

CAPACITY = 4096


class Progress(Protocol):
    """A request that knows how far it is; vLLM's `Request` does."""

    @property
    def num_output_tokens(self) -> int:
        """Output tokens produced so far."""
        ...

    @property
    def num_preemptions(self) -> int:
        """How often it was preempted so far."""
        ...


@dataclass(frozen=True)
class HistoryTotals:
    """Sums since the start; the difference of two of them describes the time between.

    `kv_usage_s` is the integral over time of the share of the KV cache in use.
    """

    output_tokens: int
    preemptions: int
    kv_usage_s: float


class _Live:
    """A request in the scheduler."""

    __slots__ = (
        "arrival_s",
        "cached_tokens",
        "first_token_s",
        "output_tokens",
        "prompt_tokens",
        "request",
    )

    def __init__(
        self, request: Progress, arrival_s: float, prompt_tokens: int, output_tokens: int
    ) -> None:
        self.request = request
        self.arrival_s = arrival_s
        self.prompt_tokens = prompt_tokens
        self.output_tokens = output_tokens
        self.cached_tokens = 0
        self.first_token_s: float | None = None

    def record(self, request_id: str, finish_s: float | None = None) -> RequestRecord:
        return RequestRecord(
            request_id=request_id,
            arrival_s=self.arrival_s,
            prompt_tokens=self.prompt_tokens,
            output_tokens=self.output_tokens,
            cached_tokens=self.cached_tokens,
            generated_tokens=self.request.num_output_tokens,
            first_token_s=self.first_token_s,
            finish_s=finish_s,
            preemptions=self.request.num_preemptions,
        )


class RequestHistory:
    """Records of the requests in the scheduler and of those that left it last.

    Attributes:
        complete_since_s: requests that left before this moment may be missing; all that left
            later are there.  -inf until the ring is full.
    """

    def __init__(self, capacity: int = CAPACITY) -> None:
        """`capacity`: number of departed requests that are kept, >= 1."""
        self.complete_since_s = -math.inf
        self._capacity = capacity
        self._live: dict[str, _Live] = {}
        self._no_token: dict[str, _Live] = {}  # admitted, without a first token
        self._left: deque[RequestRecord] = deque()
        self._left_tokens = 0
        self._left_preemptions = 0
        self._kv_usage = 0.0
        self._kv_usage_s = 0.0
        self._kv_since_s: float | None = None

    def __len__(self) -> int:
        return len(self._live) + len(self._left)

    def arrived(
        self,
        request_id: str,
        request: Progress,
        arrival_s: float,
        prompt_tokens: int,
        output_tokens: int,
    ) -> None:
        """A request entered the scheduler; one that is here already is left alone."""
        if request_id not in self._live:
            self._live[request_id] = _Live(request, arrival_s, prompt_tokens, output_tokens)

    def admitted(self, request_id: str, cached_tokens: int) -> None:
        """A request was scheduled for the first time, or again after a preemption."""
        live = self._live.get(request_id)
        if live is not None and live.first_token_s is None and request_id not in self._no_token:
            live.cached_tokens = cached_tokens
            self._no_token[request_id] = live

    def produced(self, now_s: float) -> None:
        """A step has ended: admitted requests may have their first token now."""
        if self._no_token:
            started = [i for i, live in self._no_token.items() if live.request.num_output_tokens]
            for request_id in started:
                self._no_token.pop(request_id).first_token_s = now_s

    def left(self, request_ids: Iterable[str], now_s: float) -> list[Progress]:
        """Requests finished, or were aborted; names that are not here are skipped.

        Returns those that were here.

        A request that is aborted while it waits counts as served at that moment: what it has
        waited until then is known, what it would have waited is not.
        """
        gone = []
        for request_id in request_ids:
            live = self._live.pop(request_id, None)
            if live is None:
                continue
            gone.append(live.request)
            self._no_token.pop(request_id, None)
            if live.first_token_s is None:
                live.first_token_s = now_s
            record = live.record(request_id, now_s)
            self._left.append(record)
            self._left_tokens += record.generated_tokens
            self._left_preemptions += record.preemptions
            if len(self._left) > self._capacity:
                oldest = self._left.popleft()
                self.complete_since_s = oldest.finish_s or now_s
        return gone

    def used_kv(self, usage: float, now_s: float) -> None:
        """From now on this share of the KV cache is in use, [0, 1]."""
        self._kv_usage_s = self._kv_until(now_s)
        self._kv_since_s = now_s
        self._kv_usage = usage

    def records(self, since_s: float = -math.inf) -> list[RequestRecord]:
        """Those of requests that are here, or left at `since_s` or later; in no order.

        They show all that has happened until now.
        """
        found = [live.record(request_id) for request_id, live in self._live.items()]
        for record in reversed(self._left):  # in order of departure
            if record.finish_s is not None and record.finish_s < since_s:
                break
            found.append(record)
        return found

    def totals(self, now_s: float) -> HistoryTotals:
        """Sums until `now_s`, not before the last event."""
        requests = [live.request for live in self._live.values()]
        return HistoryTotals(
            output_tokens=self._left_tokens + sum(r.num_output_tokens for r in requests),
            preemptions=self._left_preemptions + sum(r.num_preemptions for r in requests),
            kv_usage_s=self._kv_until(now_s),
        )

    def _kv_until(self, now_s: float) -> float:
        since_s = now_s if self._kv_since_s is None else self._kv_since_s
        return self._kv_usage_s + self._kv_usage * (now_s - since_s)
