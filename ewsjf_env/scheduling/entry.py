"""A waiting request as the algorithm sees it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Entry:
    """One waiting request as the orders see it.

    Attributes:
        request: the caller's object (a vLLM `Request`); never looked into by the algorithm.
        request_id: unique text; the last tie-break.
        seq: position in the order of enqueueing, unique and increasing.
        enqueue_s: first enqueue time on the scheduler's clock; kept over preemptions.
            None until the first step after enqueueing has stamped it.
        prompt_tokens: b >= 1.
        output_tokens: upper limit of generated tokens; only oracles may read it as the truth.
        priority: smaller is more urgent.
        arrival_key: tuple that "earliest arrival" compares; under `policy="priority"` the
            front end's time stamp and the id, as in stock vLLM; else `seq`.
        overdue: True while the overdue lane holds it.
        probe: returns the uncached prompt tokens now, without side effects on the cache.
        output_hint: output tokens that the caller expects, >= 1; None: it does not say.
        tenant: whom the service counts for; "" where there are no tenants.
        routed_tokens: the length that chose the queue: the prompt's, or its effective work then.
        work_tokens: its effective work when it joined the order.
        passed: requests that were admitted before it because it did not fit into the KV cache.
    """

    __slots__ = (
        "arrival_key",
        "enqueue_s",
        "order_slot",
        "output_hint",
        "output_tokens",
        "overdue",
        "passed",
        "priority",
        "probe",
        "prompt_tokens",
        "request",
        "request_id",
        "routed_tokens",
        "seq",
        "tenant",
        "work_tokens",
    )

    def __init__(
        self,
        request: Any,
        request_id: str,
        seq: int,
        prompt_tokens: int,
        *,
        enqueue_s: float | None = None,
        output_tokens: int = 0,
        priority: int = 0,
        arrival_key: Any = None,
        probe: Callable[[], int] | None = None,
        output_hint: int | None = None,
        tenant: str = "",
    ) -> None:
        self.request = request
        self.request_id = request_id
        self.seq = seq
        self.enqueue_s = enqueue_s
        self.prompt_tokens = self.routed_tokens = self.work_tokens = max(1, prompt_tokens)
        self.output_tokens = output_tokens
        self.priority = priority
        self.arrival_key = (seq,) if arrival_key is None else arrival_key
        self.overdue = False
        self.passed = 0
        self.probe = probe
        self.output_hint = output_hint
        self.tenant = tenant
        self.order_slot: Any = None  # the order's own place for this entry (queue or heap item)

    @property
    def arrived_s(self) -> float:
        """`enqueue_s`, which every order may rely on: entries are stamped before they enter."""
        assert self.enqueue_s is not None
        return self.enqueue_s

    @property
    def uncached_tokens(self) -> int:
        """Lu = max(1, prompt - cached prefix) now; the prompt length where nothing probes."""
        return max(1, self.probe()) if self.probe is not None else self.prompt_tokens

    def __repr__(self) -> str:
        return f"Entry({self.request_id!r}, b={self.prompt_tokens}, enqueue_s={self.enqueue_s})"
