"""The way of a policy's step shape into vLLM's `schedule`.

By the two limits that `schedule` itself reads in every step, `max_num_scheduled_tokens` and
`long_prefill_token_threshold`, and by a waiting queue that closes at a length.  With shaping off
they are what the operator gave.  With `--long-prefill-token-threshold-adaptive` vLLM raises that
threshold to a fair share of the step; in a shaped step the operator's share is worked out here, and
the policy's chunk, which may be smaller, is what vLLM is given.

A step in which vLLM admits nobody, for all places are taken or admission is paused, is not shaped
for those who wait.
"""

from __future__ import annotations

import copy
from typing import Any

from vllm.v1.request import RequestStatus

from ewsjf_env.policy.policy_queue import PolicyQueue
from ewsjf_env.scheduling.cost import StepLaw
from ewsjf_env.scheduling.step_shape import WHOLE, StepLoad, StepSettings, shape_step


class StepShaper:
    """Shapes the steps of one scheduler.

    Args:
        scheduler: vLLM's scheduler, complete.
    """

    def __init__(self, scheduler: Any) -> None:
        config = scheduler.scheduler_config
        self._scheduler = scheduler
        self._budget_tokens = int(scheduler.max_num_scheduled_tokens)
        self._threshold_tokens = int(config.long_prefill_token_threshold)
        self._step_tokens = int(config.max_num_batched_tokens)
        # Of releases that have it; None: the threshold is what the operator gave.
        self._adaptive: bool | None = getattr(scheduler, "adaptive_long_prefill_threshold", None)
        # With an interval, vLLM asks whether capacity is what keeps requests waiting.
        self._balances = int(getattr(config, "prefill_schedule_interval", 1) or 1) > 1
        # Where a prompt, or a picture in it, must be taken whole, a smaller step never fits it.
        self.possible = bool(
            config.enable_chunked_prefill
            and not getattr(config, "disable_chunked_mm_input", False)
            and not getattr(scheduler, "need_mamba_block_aligned_split", False)
        )
        self._shaping = False

    def begin_step(self, queue: PolicyQueue[Any], now_s: float) -> None:
        """Begin a step of the waiting queue, and cut it as the policy says.

        Args:
            queue: of the scheduler; its policy says how.
            now_s: on the scheduler's clock, seconds.
        """
        settings = StepSettings.of(queue.policy.parameters, queue.level)
        if settings.off or not self.possible:
            if self._shaping:
                self._limit(self._budget_tokens, 0)
                self._shaping = False
            queue.begin_step(now_s, self._budget_tokens)
            return
        if not self._shaping:
            # The worker of a one-process engine holds the same object: change a copy.
            self._scheduler.scheduler_config = copy.copy(self._scheduler.scheduler_config)
            self._shaping = True
        load = self._load(settings, queue.cost_model.step_law if settings.timed else None)
        queue.begin_step(now_s, load.budget_tokens)
        shape = WHOLE
        if len(queue) and self._admits():
            shape = shape_step(settings, load, queue.tokens_below, lambda: _head_tokens(queue))
        queue.admit_only(shape.shorter_than)
        self._limit(load.budget_tokens, shape.chunk_tokens)

    def end_step(self, queue: PolicyQueue[Any], output: Any) -> None:
        """Tell vLLM that requests wait by the policy's choice, where nothing else keeps them.

        To vLLM whoever waits at the end of a step waits for capacity, and then it no longer holds
        prompts back to the steps that `--prefill-schedule-interval` names.  A queue that has closed
        a step with room left is not that.  A memory gate closes for want of room.

        Args:
            queue: of the scheduler.
            output: vLLM's `SchedulerOutput` of the step.
        """
        scheduler = self._scheduler
        if not self._balances or not getattr(scheduler, "prefill_capacity_bound", False):
            return
        if queue.gate is not None or not len(queue) or queue or not self._admits():
            return
        full = output.total_num_scheduled_tokens >= scheduler.max_num_scheduled_tokens
        held = getattr(scheduler, "kv_holding_waiting", ())  # before the queue, and not by choice
        deferred = getattr(scheduler, "deferred_waiting", ())
        if full or output.preempted_req_ids or any(one not in deferred for one in held):
            return
        scheduler.prefill_capacity_bound = False

    def _admits(self) -> bool:
        """Whether `schedule` would admit one more request now."""
        scheduler = self._scheduler
        if int(getattr(scheduler, "pause_state", 0)):
            return False
        running, most = len(scheduler.running), getattr(scheduler, "max_num_active_reqs", None)
        if most is None:
            return running < int(scheduler.max_num_running_reqs)
        # A streaming session that waits for its next input keeps its place in the model runner.
        return running + int(scheduler.num_waiting_for_streaming_input) < int(most)

    def _load(self, settings: StepSettings, law: StepLaw | None) -> StepLoad:
        scheduler = self._scheduler
        per_decode = 1 + int(getattr(scheduler, "num_spec_tokens", 0))
        decoding = longest = total = context = 0
        begun = -1
        for request in scheduler.running:
            left = request.num_tokens + request.num_output_placeholders
            left -= request.num_computed_tokens
            if left > per_decode:
                total += left
                longest = max(longest, left)
                if begun < 0:
                    begun = request.num_computed_tokens
            else:
                decoding += 1
                context += request.num_computed_tokens
        pool, block = scheduler.kv_cache_manager.block_pool, scheduler.block_size
        decode_tokens = decoding * per_decode
        return StepLoad(
            budget_tokens=settings.budget_tokens(
                self._budget_tokens, decode_tokens, law, context, max(0, begun)
            ),
            decode_tokens=decode_tokens,
            longest_left_tokens=longest,
            left_tokens=total,
            free_tokens=(pool.get_num_free_blocks() - decoding) * block,
            cache_tokens=pool.num_gpu_blocks * block,
        )

    def _limit(self, budget_tokens: int, chunk_tokens: int) -> None:
        scheduler, own = self._scheduler, self._threshold_tokens
        if self._adaptive:
            scheduler.adaptive_long_prefill_threshold = not chunk_tokens
            if own and chunk_tokens:
                own = max(own, self._step_tokens // sum(scheduler.get_request_counts()))
        chunk = min(own, chunk_tokens) if own and chunk_tokens else own or chunk_tokens
        scheduler.max_num_scheduled_tokens = budget_tokens
        scheduler.scheduler_config.long_prefill_token_threshold = chunk


def _head_tokens(queue: PolicyQueue[Any]) -> int:
    """Tokens of the next prompt; endless where it waits for something else than its turn.

    A grammar or a remote cache may take seconds, and nobody should yield to who cannot come.
    """
    if not queue:  # the step is closed
        return 1 << 62
    ready = queue.peek().status in (RequestStatus.WAITING, RequestStatus.PREEMPTED)
    return queue.head_tokens() if ready else 1 << 62
