"""The scheduler classes that vLLM is given: its own, with another waiting queue.

    vllm serve MODEL --scheduler-cls ewsjf_env.serving.scheduler.EWSJFScheduler \
        --additional-config '{"ewsjf": {"policy_file": "policy.json"}}'

Admission limits, KV allocation, preemption, side queues, LoRA, structured output, streaming and
KV connectors stay vLLM's business.  All that is ours is in one object, `extension.py`, which is
told of each entry of vLLM's class.  With the order `fcfs` the result is stock vLLM's, step by
step.
"""

from __future__ import annotations

from collections.abc import Iterable
from time import perf_counter
from typing import Any

import vllm
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.request import Request, RequestStatus

from ewsjf_env.serving.extension import SchedulerExtension
from ewsjf_env.serving.settings import check_vllm_version, say_front_end


class _EWSJFMixin:
    """What `EWSJFScheduler` and its synchronous twin add to vLLM's class."""

    # An object made without __init__, as vLLM's own tests do, is stock.
    ewsjf: SchedulerExtension = None  # type: ignore[assignment]
    requests: dict[str, Request]  # vLLM's

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        check_vllm_version(vllm.__version__)
        super().__init__(*args, **kwargs)
        config: Any = self.vllm_config.scheduler_config  # type: ignore[attr-defined]
        ahead = isinstance(self, AsyncScheduler) and getattr(config, "async_scheduling", False)
        self.ewsjf = SchedulerExtension(self, lookahead=int(bool(ahead)))
        self.waiting = self.ewsjf.queue
        say_front_end(self.vllm_config)  # type: ignore[attr-defined]

    def schedule(self, *args: Any, **kwargs: Any) -> SchedulerOutput:
        """Stock `schedule`, between one clock stamp and a note of what was scheduled."""
        started_s, ewsjf = perf_counter(), self.ewsjf
        now_s = ewsjf.before_schedule()
        output: SchedulerOutput = super().schedule(*args, **kwargs)  # type: ignore[misc]
        ewsjf.after_schedule(output, now_s)
        ewsjf.took(perf_counter() - started_s)
        return output

    def update_from_output(self, scheduler_output: SchedulerOutput, *args: Any) -> dict[int, Any]:
        """Stock `update_from_output`, and a note of the tokens and of what has ended."""
        started_s, ewsjf = perf_counter(), self.ewsjf
        now_s = ewsjf.before_update() if ewsjf else 0.0
        outputs: dict[int, Any]
        outputs = super().update_from_output(scheduler_output, *args)  # type: ignore[misc]
        if ewsjf:
            ewsjf.after_update(scheduler_output, outputs, now_s)
            ewsjf.took(perf_counter() - started_s)
        return outputs

    def add_request(self, request: Request) -> None:
        """Stock `add_request`, and a note of the arrival."""
        super().add_request(request)  # type: ignore[misc]
        self.ewsjf.added(request)

    def finish_requests(
        self, request_ids: str | Iterable[str] | None, finished_status: RequestStatus
    ) -> Any:
        """Stock `finish_requests` (aborts come this way), and a note of what has ended."""
        if isinstance(request_ids, str):
            request_ids = [request_ids]
        request_ids = list(self.requests if request_ids is None else request_ids)
        finished = super().finish_requests(request_ids, finished_status)  # type: ignore[misc]
        self.ewsjf.ended(request_ids)
        return finished

    def shutdown(self) -> None:
        """Stock `shutdown`, and no partition is computed any more."""
        self.ewsjf.close()
        super().shutdown()  # type: ignore[misc]


class EWSJFScheduler(_EWSJFMixin, AsyncScheduler):
    """EWSJF on vLLM's asynchronous scheduler: the one for serving.

    A synchronous base class would silently switch async scheduling off.
    """


class SyncEWSJFScheduler(_EWSJFMixin, Scheduler):
    """EWSJF on vLLM's synchronous scheduler, for engines that run without look-ahead."""
