"""The EWSJF scheduler inside vLLM: the waiting queue is replaced, nothing else.

    vllm serve MODEL --scheduler-cls ewsjf_env.serving.scheduler.EWSJFScheduler \
        --additional-config '{"ewsjf": {"policy_file": "policy.json"}}'

Admission limits, KV allocation, preemption, side queues, LoRA, structured output, streaming and
KV connectors stay vLLM's business.  The overriding `schedule` stamps the step with one clock
read and notes what was scheduled, so that the prefill-cost model learns from the time between
two steps.  The other entries tell `watch.SchedulerWatch` what happens to requests, for a policy
of kind `table` or `mlp` that follows the traffic, and a `Recorder`, for tuners and metrics.  With
the order `fcfs` the result is stock vLLM's, step by step.
"""

from __future__ import annotations

import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import vllm
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.core.sched.request_queue import RequestQueue, SchedulingPolicy
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.request import Request, RequestStatus

from ewsjf_env.config import ConfigError
from ewsjf_env.policy.policy import Policy
from ewsjf_env.policy.policy_queue import PolicyQueue
from ewsjf_env.scheduling.cost import CostPrior, PrefillCostModel
from ewsjf_env.scheduling.entry import Entry
from ewsjf_env.scheduling.partition.repartition import InlineExecutor
from ewsjf_env.scheduling.step_work import StepFollower, StepWork
from ewsjf_env.scheduling.tenants import TenantSettings
from ewsjf_env.serving.hints import read_hints
from ewsjf_env.serving.lease import Lease
from ewsjf_env.serving.prefix import PrefixCache
from ewsjf_env.serving.recorder import Recorder
from ewsjf_env.serving.settings import SchedulerSettings, check_vllm_version
from ewsjf_env.serving.shaping import StepShaper
from ewsjf_env.serving.watch import SchedulerWatch

# Without any knowledge of the machine: an 8B model on a recent accelerator.
DEFAULT_COST_PRIOR = CostPrior(c0_s=0.005, c1_s_per_token=5e-5, c2_s_per_token2=1e-10)
DENSE_SAMPLES = 500  # every prefill step is learnt from up to here, then every fourth
DECODE_SAMPLE_STEPS = 16  # of steps without prefill, one in this many is learnt from


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


class _StepTimer:
    """Pairs what a step scheduled with how long it ran, seen from the scheduler alone.

    Without async scheduling, the time from one `schedule` to the next is the step's own.  With
    it, step n+1 is scheduled when step n-1 ends, so the interval belongs to the step before
    the one just scheduled.  An interval counts only when requests were running throughout: an
    idle engine waits between steps.
    """

    def __init__(self, model: PrefillCostModel, lookahead: int) -> None:
        self._model = model
        self._samples: deque[StepWork | None] = deque([None] * (lookahead + 1))
        self._last_s: float | None = None
        self._steps = 0
        self._learnt = 0

    def begin(self, now_s: float, busy: bool) -> None:
        sample = self._samples.popleft()
        if sample is not None and busy and self._last_s is not None and now_s > self._last_s:
            self._model.observe(sample, now_s - self._last_s)
            self._learnt += 1
        self._last_s = now_s

    def end(self, output: SchedulerOutput, work: StepWork) -> None:
        self._steps += 1
        self._samples.append(work if self._wanted(output) else None)

    def _wanted(self, output: SchedulerOutput) -> bool:
        if output.total_num_scheduled_tokens == 0:
            return False
        if output.total_num_scheduled_tokens == len(output.num_scheduled_tokens):
            return self._steps % DECODE_SAMPLE_STEPS == 0
        return self._learnt < DENSE_SAMPLES or self._steps % 4 == 0


class _EWSJFMixin:
    """What `EWSJFScheduler` and its synchronous twin add to vLLM's class."""

    waiting: EWSJFRequestQueue
    # What vLLM's Scheduler brings.
    vllm_config: Any
    policy: SchedulingPolicy
    requests: dict[str, Request]
    running: list[Request]
    block_size: int
    max_num_scheduled_tokens: int
    kv_cache_manager: Any
    finished_req_ids: set[str]  # since the last step
    _ewsjf_ready = False  # an object made without __init__, as vLLM's own tests do, is stock

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        check_vllm_version(vllm.__version__)
        super().__init__(*args, **kwargs)
        config = self.vllm_config
        settings = SchedulerSettings.from_additional_config(config.additional_config)
        by_priority = self.policy == SchedulingPolicy.PRIORITY
        if by_priority and settings.tenants is not None:
            raise ConfigError(
                "additional_config['ewsjf']: tenants: expected vLLM's scheduling policy 'fcfs', "
                "got 'priority', which decides between requests itself"
            )
        self.ewsjf_instance = uuid.uuid4().hex  # tells a restarted server from its predecessor
        self.ewsjf_recorder: Recorder | None = Recorder(settings.window_records, time.time)
        self.ewsjf_lease = Lease()
        self._ewsjf_now_s = float("-inf")
        self._ewsjf_clock: Callable[[], float] = time.monotonic
        self._ewsjf_arrival: Callable[[Request], float] | None = None
        self._ewsjf_prefix = PrefixCache(self.kv_cache_manager)
        self._ewsjf_tenant = _tenant_reader(settings.tenants)
        self._ewsjf_longest_tokens = int(config.model_config.max_model_len)
        self.ewsjf_hints = {"given": 0, "ignored": 0}
        prior = settings.cost_prior or DEFAULT_COST_PRIOR
        lookahead = int(isinstance(self, AsyncScheduler) and _is_async(config))
        self._ewsjf_lookahead = lookahead
        cost_model = PrefillCostModel(prior)
        self._ewsjf_timer = _StepTimer(cost_model, lookahead)
        self._ewsjf_follower = StepFollower()
        # Starts its one thread with the first partition, minutes into serving.
        self._ewsjf_executor = ThreadPoolExecutor(1, thread_name_prefix="ewsjf-partition")
        self.waiting = EWSJFRequestQueue(
            settings.policy,
            self._describe_request,
            cost_model,
            self._ewsjf_executor,
            tenants=settings.tenants,
            by_priority=by_priority,
            block_tokens=self.block_size,
            longest_tokens=config.model_config.max_model_len,
            seed=settings.seed,
        )
        self._ewsjf_watch = SchedulerWatch(self.waiting, self._ewsjf_clock())
        self._ewsjf_shaper = StepShaper(self)
        self._ewsjf_ready = True

    def schedule(self, *args: Any, **kwargs: Any) -> SchedulerOutput:
        """Stock `schedule`, between one clock stamp and a note of what was scheduled."""
        started_s = time.perf_counter()
        now_s = self.ewsjf_now()
        self._ewsjf_timer.begin(now_s, busy=bool(self.running))
        self.ewsjf_end_lease(now_s)
        self._ewsjf_watch.before_step(self.finished_req_ids, now_s)
        tenants = self.waiting.tenants
        if tenants is not None:
            tenants.left(self.finished_req_ids)
            tenants.sweep(self.requests)
        self._ewsjf_shaper.begin_step(self.waiting, now_s)
        output: SchedulerOutput = super().schedule(*args, **kwargs)  # type: ignore[misc]
        self._ewsjf_timer.end(output, self._ewsjf_follower.of(output))
        self._ewsjf_watch.after_step(output, self.kv_cache_manager.usage, now_s)
        recorder = self.ewsjf_recorder
        if recorder is not None:
            recorder.scheduled(output, now_s, self.kv_cache_manager.usage)
            recorder.sweep(self.requests, now_s)
            recorder.scheduler_s += time.perf_counter() - started_s
        return output

    def update_from_output(self, scheduler_output: SchedulerOutput, *args: Any) -> dict[int, Any]:
        """Stock `update_from_output`, and a note of the tokens and of what has ended."""
        outputs: dict[int, Any]
        if not self._ewsjf_ready:
            outputs = super().update_from_output(scheduler_output, *args)  # type: ignore[misc]
            return outputs
        started_s = time.perf_counter()
        now_s = self.ewsjf_now()
        self._ewsjf_watch.before_update(now_s)
        outputs = super().update_from_output(scheduler_output, *args)  # type: ignore[misc]
        self._ewsjf_watch.after_update(self.finished_req_ids, now_s)
        tenants = self.waiting.tenants
        if tenants is not None:
            for client in outputs.values():
                for one in client.outputs:
                    tenants.generated(one.request_id, len(one.new_token_ids))
        recorder = self.ewsjf_recorder
        if recorder is not None:
            recorder.updated(
                scheduler_output,
                outputs.values(),
                self.finished_req_ids,
                now_s,
                self.kv_cache_manager.usage,
            )
            recorder.scheduler_s += time.perf_counter() - started_s
        return outputs

    def add_request(self, request: Request) -> None:
        """Stock `add_request`, and a note of the arrival."""
        arrival = self._ewsjf_arrival
        arrival_s = self.ewsjf_now() if arrival is None else arrival(request)
        self._ewsjf_watch.arrived(request, arrival_s)
        params = request.sampling_params
        if params is not None and params.extra_args:
            hints = read_hints(request)
            self.ewsjf_hints["given"] += hints.output_tokens is not None
            self.ewsjf_hints["ignored"] += hints.ignored
        super().add_request(request)  # type: ignore[misc]
        # A further piece of a streaming session is no request of its own.
        if self.ewsjf_recorder is not None and self.requests.get(request.request_id) is request:
            self.ewsjf_recorder.arrived(request, self.ewsjf_now())

    def finish_requests(
        self, request_ids: str | Iterable[str] | None, finished_status: RequestStatus
    ) -> Any:
        """Stock `finish_requests` (aborts come this way), and a note of what has ended."""
        if request_ids is None:
            request_ids = list(self.requests)
        elif not isinstance(request_ids, str):
            request_ids = list(request_ids)
        finished = super().finish_requests(request_ids, finished_status)  # type: ignore[misc]
        if self.ewsjf_recorder is not None:
            named = [request_ids] if isinstance(request_ids, str) else request_ids
            self.ewsjf_recorder.end(named, self.ewsjf_now())
        return finished

    def ewsjf_now(self) -> float:
        """Seconds on the scheduler's clock; never goes back, whatever the clock does."""
        self._ewsjf_now_s = max(self._ewsjf_now_s, self._ewsjf_clock())
        return self._ewsjf_now_s

    def shutdown(self) -> None:
        """Stock `shutdown`, and no partition is computed any more."""
        self._ewsjf_executor.shutdown(wait=False, cancel_futures=True)
        super().shutdown()  # type: ignore[misc]

    def bind_clock(
        self, now_s: Callable[[], float], arrival_s: Callable[[Request], float] | None = None
    ) -> None:
        """Use another clock, for example a virtual one, before the first request.

        Args:
            now_s: monotonic seconds.
            arrival_s: request -> its arrival on the same clock; None stamps a request in the
                first step that sees it.

        Partitions are then computed inline, so that a run on a virtual clock repeats exactly, and
        nothing is recorded: whoever drives the clock sees every event itself.
        """
        self.ewsjf_recorder = None
        self._ewsjf_now_s = float("-inf")
        self._ewsjf_clock = now_s
        self._ewsjf_arrival = arrival_s
        self._ewsjf_watch = SchedulerWatch(self.waiting, now_s())
        self.waiting.use_executor(InlineExecutor())

    def set_cost_prior(self, prior: CostPrior) -> None:
        """Replace the prior of the prefill-cost model and forget what it has learnt."""
        cost_model = PrefillCostModel(prior)
        self._ewsjf_timer = _StepTimer(cost_model, self._ewsjf_lookahead)
        self.waiting.use_cost_model(cost_model)

    def install_policy(
        self, policy: Policy, version: int | None = None, lease_s: float | None = None
    ) -> None:
        """Serve by another policy from the next step on; call between two steps.

        Args:
            policy: what to serve by.
            version: its number; None counts on.
            lease_s: for so many seconds, see `lease.py`; None for good.
        """
        before, now_s = self.waiting.policy, self.ewsjf_now()
        self._ewsjf_watch.install(policy, now_s)
        if lease_s is None:
            self.ewsjf_lease.confirm()
        else:
            self.ewsjf_lease.grant(before, now_s + lease_s)
        if version is not None:
            self.waiting.policy_version = version

    def ewsjf_end_lease(self, now_s: float) -> None:
        """Go back to the policy before a trial that nobody has renewed."""
        policy = self.ewsjf_lease.expired(self.waiting.policy, now_s)
        if policy is not None:
            self.install_policy(policy)

    def ewsjf_state(self) -> dict[str, Any]:
        """What is in force and how deep the queues are, as plain values."""
        return {
            **self.waiting.state(),
            **self._ewsjf_watch.state(),
            "hints": dict(self.ewsjf_hints),
        }

    def _describe_request(self, request: Request, seq: int) -> Entry:
        hint = read_hints(request).output_tokens
        return Entry(
            request,
            request.request_id,
            seq,
            request.num_prompt_tokens,
            enqueue_s=None if self._ewsjf_arrival is None else self._ewsjf_arrival(request),
            output_tokens=request.max_tokens,
            priority=request.priority,
            arrival_key=(request.arrival_time, request.request_id)
            if self.policy == SchedulingPolicy.PRIORITY
            else None,
            probe=self._ewsjf_prefix.probe(request),
            output_hint=None if hint is None else min(hint, self._ewsjf_longest_tokens),
            tenant="" if self._ewsjf_tenant is None else self._ewsjf_tenant(request),
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


def _is_async(config: Any) -> bool:
    return bool(getattr(config.scheduler_config, "async_scheduling", False))


class EWSJFScheduler(_EWSJFMixin, AsyncScheduler):
    """EWSJF on vLLM's asynchronous scheduler: the one for serving.

    A synchronous base class would silently switch async scheduling off.
    """


class SyncEWSJFScheduler(_EWSJFMixin, Scheduler):
    """EWSJF on vLLM's synchronous scheduler, for engines that run without look-ahead."""
