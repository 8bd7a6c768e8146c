"""The waiting queue under the names of vLLM's `RequestQueue`, and how a request enters it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from vllm.v1.core.sched.request_queue import RequestQueue, SchedulingPolicy
from vllm.v1.request import Request

from ewsjf_env.policy.policy_queue import PolicyQueue
from ewsjf_env.scheduling.entry import Entry
from ewsjf_env.scheduling.tenants import TenantSettings
from ewsjf_env.serving.hints import read_hints
from ewsjf_env.serving.prefix import PrefixCache


class EWSJFRequestQueue(PolicyQueue[Request], RequestQueue):
    """`PolicyQueue` under the names of vLLM's `RequestQueue`."""

    add_request = PolicyQueue.add
    pop_request = PolicyQueue.pop
    peek_request = PolicyQueue.peek
    prepend_request = PolicyQueue.prepend
    remove_request = PolicyQueue.remove
    remove_requests = PolicyQueue.discard_all  # vLLM also names requests of its other queues

    def prepend_requests(self, requests: Iterable[Request]) -> None:
        """Prepend one by one, so the last ends up first: vLLM's own queue does the same."""
        for request in requests:
            self.prepend(request)


class RequestReader:
    """Describes vLLM's requests to the queue.

    Attributes:
        prefix: the prefix cache of the scheduler.
        arrival_s: request -> its arrival on the scheduler's clock; None: it is stamped by the
            first step that sees it.
    """

    def __init__(self, scheduler: Any, tenants: TenantSettings | None) -> None:
        """`scheduler`: vLLM's, complete.  `tenants`: who is one; None: there are none."""
        self.prefix = PrefixCache(scheduler.kv_cache_manager)
        self.arrival_s: Callable[[Request], float] | None = None
        self._tenant = _tenant_reader(tenants)
        self._longest_tokens = int(scheduler.vllm_config.model_config.max_model_len)
        self._by_priority = scheduler.policy == SchedulingPolicy.PRIORITY

    def describe(self, request: Request, seq: int) -> Entry:
        """A new entry for a request, with its place in the order of enqueueing."""
        hint = read_hints(request).output_tokens
        return Entry(
            request,
            request.request_id,
            seq,
            request.num_prompt_tokens,
            enqueue_s=None if self.arrival_s is None else self.arrival_s(request),
            output_tokens=request.max_tokens,
            priority=request.priority,
            arrival_key=(request.arrival_time, request.request_id) if self._by_priority else None,
            probe=self.prefix.probe(request),
            output_hint=None if hint is None else min(hint, self._longest_tokens),
            tenant="" if self._tenant is None else self._tenant(request),
        )


def _tenant_reader(settings: TenantSettings | None) -> Callable[[Request], str] | None:
    """What names the tenant of a request; names from outside are checked, "" is nobody."""
    if settings is None:
        return None
    if settings.by == "lora":
        return lambda r: r.lora_request.lora_name if r.lora_request is not None else ""
    if settings.by == "priority":
        return lambda r: str(r.priority)
    return lambda r: read_hints(r).tenant
