"""What our scheduler adds to vLLM's, as one object: `scheduler.ewsjf`.

The scheduler calls a hook before and after each of vLLM's entries.  One clock stamp is read for
each, and all that happens within it has that stamp:

    added                          a request was handed over
    before_schedule                an ended lease, a change of an adaptive policy, the step's shape
    after_schedule                 what the step computes
    before_update, after_update    its tokens, and who has ended
    ended                          aborts

Whoever controls the scheduler calls `install`, `state` and `window`, between two steps and in the
engine's own thread: no lock, no file and no network is on the path of a step.  One thread computes
partitions; it starts with the first of them, minutes into serving.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.core.sched.request_queue import SchedulingPolicy
from vllm.v1.request import Request

from ewsjf_env.config import ConfigError
from ewsjf_env.policy.adaptation import Adaptation
from ewsjf_env.policy.policy import Policy
from ewsjf_env.scheduling.cost import CostPrior, PrefillCostModel
from ewsjf_env.scheduling.history import CAPACITY, NOT_SERVED, RequestHistory
from ewsjf_env.scheduling.partition.repartition import InlineExecutor
from ewsjf_env.scheduling.step_work import StepFollower
from ewsjf_env.serving.cache import SchedulerCache
from ewsjf_env.serving.hints import read_hints
from ewsjf_env.serving.lease import Lease
from ewsjf_env.serving.request_queue import EWSJFRequestQueue, RequestReader
from ewsjf_env.serving.settings import WHERE, SchedulerSettings
from ewsjf_env.serving.shaping import StepShaper
from ewsjf_env.serving.step_timer import StepTimer

# Without any knowledge of the machine: an 8B model on a recent accelerator.
DEFAULT_COST_PRIOR = CostPrior(c0_s=0.005, c1_s_per_token=5e-5, c2_s_per_token2=1e-10)


class SchedulerExtension:
    """Waiting queue, history, cost model and policy control of one scheduler.

    Attributes:
        queue: the waiting queue, where the policy is in force.
        history: of the requests.
        adaptation: how an adaptive policy follows the traffic.
        lease: of a policy on trial.
        reader: describes requests to the queue.
        shaper: cuts the steps.
        hints: how many hints of callers were given, and how many could not be used.
        instance: tells a restarted server from its predecessor.
        read_clock: seconds on a clock; `now` makes it one that never goes back.
    """

    def __init__(self, scheduler: Any, lookahead: int) -> None:
        """Extend a scheduler.

        Args:
            scheduler: vLLM's, complete.
            lookahead: steps that it schedules before their turn, 0 or 1.

        Raises:
            ConfigError: `additional_config["ewsjf"]` is not legal.
        """
        config = scheduler.vllm_config
        settings = SchedulerSettings.from_additional_config(config.additional_config)
        by_priority = scheduler.policy == SchedulingPolicy.PRIORITY
        if by_priority and settings.tenants is not None:
            raise ConfigError(
                f"{WHERE}: tenants: expected vLLM's scheduling policy 'fcfs', got 'priority', "
                "which decides between requests itself"
            )
        self.instance = uuid.uuid4().hex
        self.hints = {"given": 0, "ignored": 0}
        self.lease = Lease()
        self.read_clock: Callable[[], float] = time.monotonic
        self._now_s = float("-inf")
        self._scheduler = scheduler
        self._lookahead = lookahead
        self._counts = True  # somebody may ask for the window
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="ewsjf-partition")
        self._follower = StepFollower()
        cost_model = PrefillCostModel(settings.cost_prior or DEFAULT_COST_PRIOR)
        self._timer = StepTimer(cost_model, lookahead)
        self.reader = RequestReader(scheduler, settings.tenants)
        self.queue = EWSJFRequestQueue(
            settings.policy,
            self.reader.describe,
            cost_model,
            self._executor,
            tenants=settings.tenants,
            by_priority=by_priority,
            cache=SchedulerCache(scheduler),
            level=settings.service_levels,
            block_tokens=scheduler.block_size,
            longest_tokens=config.model_config.max_model_len,
            seed=settings.seed,
        )
        self.shaper = StepShaper(scheduler)
        self._remember(max(CAPACITY, settings.window_records))

    # -- hooks of vLLM's entries -----------------------------------------------------------------

    def added(self, request: Request) -> None:
        """A request was handed over, or a further piece of a streaming session."""
        params = request.sampling_params
        if params is not None and params.extra_args:
            hints = read_hints(request)
            self.hints["given"] += hints.output_tokens is not None
            self.hints["ignored"] += hints.ignored
        if self._scheduler.requests.get(request.request_id) is not request:
            return  # a piece is no request of its own
        now_s = self.now()
        if self.reader.arrival_s is not None:
            arrival_s = self.reader.arrival_s(request)
        elif self._counts:
            arrival_s = self.history.front_end_arrival_s(request, now_s, time.time())
        else:
            arrival_s = now_s
        self.history.arrived(request, arrival_s)

    def before_schedule(self) -> float:
        """A step is about to be scheduled; returns its clock stamp."""
        scheduler, queue, now_s = self._scheduler, self.queue, self.now()
        self._timer.begin(now_s, busy=bool(scheduler.running))
        self.end_lease(now_s)
        self.adaptation.roll(now_s)
        values = self.adaptation.act(queue.policy)
        if values is not None:
            self._serve_by(queue.policy.with_parameters(values), now_s)
        if queue.tenants is not None:
            queue.tenants.left(scheduler.finished_req_ids)
            queue.tenants.sweep(scheduler.requests)
        self.shaper.begin_step(queue, now_s)
        return now_s

    def after_schedule(self, output: SchedulerOutput, now_s: float) -> None:
        """A step was scheduled."""
        scheduler, history = self._scheduler, self.history
        self.shaper.end_step(self.queue, output)
        work = self._follower.of(output)
        self._timer.end(work)
        history.scheduled(output, now_s, scheduler.kv_cache_manager.usage)
        if self._counts:
            history.count_step(output, work.prefill_tokens)
            history.sweep(scheduler.requests, now_s)

    def before_update(self) -> float:
        """The tokens of a step are about to be taken in; returns the clock stamp."""
        now_s = self.now()
        self.adaptation.roll(now_s)
        return now_s

    def after_update(self, output: SchedulerOutput, clients: dict[int, Any], now_s: float) -> None:
        """They were; `clients` are vLLM's `EngineCoreOutputs` by front end."""
        scheduler, queue = self._scheduler, self.queue
        usage = scheduler.kv_cache_manager.usage
        gone = self.history.updated(scheduler.finished_req_ids, now_s, usage)
        if gone and queue.learns_outputs:
            for one in gone:
                if str(one.get_finished_reason()) not in NOT_SERVED:
                    queue.finished(one, one.num_prompt_tokens, one.num_output_tokens)
        if queue.tenants is not None:
            for client in clients.values():
                for token in client.outputs:
                    queue.tenants.generated(token.request_id, len(token.new_token_ids))
        if self._counts:
            self.history.count_tokens(output, clients.values())

    def ended(self, request_ids: Iterable[str]) -> None:
        """Requests were aborted, or ended in another way outside of a step."""
        self.history.end(request_ids, self.now())

    def took(self, seconds: float) -> None:
        """An entry took so long, its hooks and vLLM's own work together."""
        self.history.counts["scheduler_s"] += seconds

    def close(self) -> None:
        """No partition is computed any more."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    # -- control, between two steps --------------------------------------------------------------

    def now(self) -> float:
        """Seconds on the scheduler's clock; never goes back, whatever `read_clock` does."""
        now_s = self.read_clock()
        if now_s > self._now_s:
            self._now_s = now_s
        return self._now_s

    def bind_clock(
        self, now_s: Callable[[], float], arrival_s: Callable[[Request], float] | None = None
    ) -> None:
        """Use another clock, for example a virtual one, before the first request.

        Args:
            now_s: monotonic seconds.
            arrival_s: request -> its arrival on the same clock; None stamps a request in the
                first step that sees it.

        Partitions are then computed inline, so that a run on a virtual clock repeats exactly, and
        steps and tokens are not counted: whoever drives the clock sees every event itself.
        """
        self._counts = False
        self._now_s = float("-inf")
        self.read_clock, self.reader.arrival_s = now_s, arrival_s
        self.queue.use_executor(InlineExecutor())
        self._remember(CAPACITY)

    def set_cost_prior(self, prior: CostPrior) -> None:
        """Replace the prior of the prefill-cost model and forget what it has learnt."""
        cost_model = PrefillCostModel(prior)
        self._timer = StepTimer(cost_model, self._lookahead)
        self.queue.use_cost_model(cost_model)

    def install(
        self, policy: Policy, version: int | None = None, lease_s: float | None = None
    ) -> None:
        """Serve by another policy from the next step on.

        Args:
            policy: what to serve by.
            version: its number; None counts on.
            lease_s: for so many seconds, see `lease.py`; None for good.
        """
        before, now_s = self.queue.policy, self.now()
        self._serve_by(policy, now_s)
        if lease_s is None:
            self.lease.confirm()
        else:
            self.lease.grant(before, now_s + lease_s)
        if version is not None:
            self.queue.policy_version = version

    def end_lease(self, now_s: float) -> None:
        """Go back to the policy before a trial that nobody has renewed."""
        policy = self.lease.expired(self.queue.policy, now_s)
        if policy is not None:
            self.install(policy)

    def state(self) -> dict[str, Any]:
        """What is in force and how deep the queues are, as plain values."""
        following = self.adaptation.state()
        adaptation = {"adaptation": following} if following else {}
        return {**self.queue.state(), **adaptation, "hints": dict(self.hints)}

    def window(self, since: int, open_requests: bool = True) -> dict[str, Any]:
        """See `RequestHistory.window`."""
        return self.history.window(since, self.now(), open_requests)

    def _serve_by(self, policy: Policy, now_s: float) -> None:
        self.queue.install(policy)
        self.adaptation.follow(policy, now_s)

    def _remember(self, capacity: int) -> None:
        """Begin a history, and the adaptation that reads it."""
        queue = self.queue
        self.history = RequestHistory(capacity)
        self.adaptation = Adaptation(
            self.history,
            lambda tokens: queue.cost_model.cost_s(tokens),  # the model may be exchanged
            lambda: queue.policy.partition.queues,
        )
        self.adaptation.follow(queue.policy, self.now())
