"""vLLM's engine core on a virtual clock: the same loop, with a step time for a GPU.

The loop of `EngineCore`.  `depth` steps may be in flight:

    repeat:  take in what has arrived
             if the scheduler has requests: schedule a step and queue it
                 if fewer than `depth` steps are queued and there is more to do: repeat
             wait until the oldest queued step has run; let the scheduler see its tokens

depth 1 is synchronous scheduling.  depth 2 is asynchronous scheduling with its look-ahead of
one: step n+1 is scheduled when step n starts to run, so a request that arrives while step n
runs starts at the earliest in step n+2.  Steps run one after another; a step without tokens
takes no time.  When nothing is left to do the clock jumps to the next arrival.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import Any

from ewsjf_env.engine.base import EngineError
from ewsjf_env.engine.simulated.trace_requests import SAMPLED_TOKEN, TraceRequests
from ewsjf_env.measure.records import RequestRecord
from ewsjf_env.scheduling.step_work import StepFollower, StepWork

_MAX_EMPTY_STEPS = 64
_NO_TOKEN: list[int] = []
_ONE_TOKEN: list[int] = [SAMPLED_TOKEN]

StepTime = Callable[[int, int, int, float], float]


@dataclass
class Totals:
    """Sums since the start; the difference of two of them describes a window."""

    output_tokens: int = 0
    prefill_tokens: int = 0
    preemptions: int = 0
    kv_usage_s: float = 0.0
    admitted_prompt_tokens: int = 0
    admitted_cached_tokens: int = 0
    steps: int = 0
    scheduler_s: float = 0.0

    def __sub__(self, before: Totals) -> Totals:
        return Totals(
            **{f.name: getattr(self, f.name) - getattr(before, f.name) for f in fields(self)}
        )


@dataclass(slots=True)
class _Step:
    """A scheduled step: vLLM's output, when it ends, and what it computes."""

    output: Any
    work: StepWork
    end_s: float
    sampled: list[list[int]] = field(default_factory=list)


class VirtualCore:
    """One scheduler serving one trace.

    Attributes:
        scheduler: the vLLM scheduler.
        requests: the traffic.
        clock_s: the virtual clock.
    """

    def __init__(
        self,
        scheduler: Any,
        requests: TraceRequests,
        step_s: StepTime,
        depth: int,
        measure_overhead: bool = False,
    ) -> None:
        """Start at time 0 with nothing arrived.

        Args:
            scheduler: a fresh vLLM scheduler.
            requests: the traffic.
            step_s: (prefill tokens, decode requests, context tokens, prefill attention) -> s.
            depth: most steps in flight, 1 or 2.
            measure_overhead: also measure the wall time of scheduling and updating.
        """
        from vllm.v1.outputs import EMPTY_MODEL_RUNNER_OUTPUT, ModelRunnerOutput

        self.scheduler = scheduler
        self.clock_s = 0.0
        self.requests = requests
        self._step_s = step_s
        self._depth = depth
        self._wall = time.perf_counter if measure_overhead else None
        self._runner_output = ModelRunnerOutput
        self._empty_output = EMPTY_MODEL_RUNNER_OUTPUT
        self._totals = Totals()
        self._follower = StepFollower()
        self._queue: deque[_Step] = deque()
        self._waiting_for_step = False
        self._gpu_free_s = 0.0
        self._empty_steps = 0
        self._kv_usage = 0.0
        self._kv_since_s = 0.0
        self._next = 0
        self._last = len(requests)
        self._live: dict[str, Any] = {}
        self._finished: dict[int, RequestRecord] = {}
        self._first_token_s: dict[int, float] = {}
        self._cached_tokens: dict[int, int] = {}

    def now(self) -> float:
        """Seconds on the virtual clock."""
        return self.clock_s

    def totals(self) -> Totals:
        """A copy of the sums, exact at the clock's time."""
        self._set_kv_usage(self._kv_usage)
        return replace(self._totals)

    def stop_arrivals(self) -> None:
        """Drop the rows of the trace that have not arrived yet."""
        self._last = min(self._last, bisect_left(self.requests.arrival_s, self.clock_s))
        self._last = max(self._last, self._next)

    def advance(self, end_s: float, until_idle: bool = False) -> None:
        """Serve until the clock shows `end_s`; events at exactly `end_s` stay ahead.

        Args:
            end_s: not before the clock's time.
            until_idle: stop the clock earlier when nothing is left to do.

        Raises:
            EngineError: the scheduler schedules nothing although requests wait.
        """
        queue, scheduler = self._queue, self.scheduler
        while True:
            if not self._waiting_for_step:
                self._admit()
                if scheduler.has_requests():
                    step = self._schedule()
                    queue.append(step)
                    busy = step.output.total_num_scheduled_tokens > 0
                    if len(queue) < self._depth and (busy or scheduler.has_requests()):
                        continue
                elif not queue:
                    if self._next < self._last:
                        arrival_s = self.requests.arrival_s[self._next]
                        if arrival_s < end_s:
                            self.clock_s = arrival_s
                            continue
                    elif until_idle:
                        return
                    self.clock_s = end_s
                    return
            step = queue[0]
            if step.end_s >= end_s:
                self._waiting_for_step = True
                self.clock_s = end_s
                return
            self._waiting_for_step = False
            queue.popleft()
            if step.end_s > self.clock_s:
                self.clock_s = step.end_s
            self._update(step)

    def records(self, since_s: float = 0.0) -> list[RequestRecord]:
        """Requests that have arrived by now, in order of arrival.

        Args:
            since_s: leave out those that finished before.
        """
        arrived = min(self._last, bisect_left(self.requests.arrival_s, self.clock_s))
        found = []
        for index in range(max(arrived, self._next)):
            record = self._finished.get(index) or self._record(index)
            if record.finish_s is None or record.finish_s >= since_s:
                found.append(record)
        return found

    def _admit(self) -> None:
        arrivals, clock_s = self.requests.arrival_s, self.clock_s
        while self._next < self._last and arrivals[self._next] <= clock_s:
            request = self.requests.make(self._next)
            self._live[request.request_id] = request
            self.scheduler.add_request(request)
            self._next += 1

    def _schedule(self) -> _Step:
        totals = self._totals
        started = self._wall() if self._wall else 0.0
        output = self.scheduler.schedule()
        if self._wall:
            totals.scheduler_s += self._wall() - started
        totals.preemptions += len(output.preempted_req_ids or ())
        self._set_kv_usage(self.scheduler.kv_cache_manager.usage)
        work = self._follower.of(output)
        if output.total_num_scheduled_tokens == 0:
            self._empty_steps += 1
            if self._empty_steps > _MAX_EMPTY_STEPS and self._live:
                raise EngineError(
                    f"no progress at {self.clock_s:.3f} s: {len(self._live)} requests are waiting "
                    "or running, but the scheduler schedules none of them"
                )
            return _Step(output, work, self.clock_s)
        self._empty_steps = 0
        for new in output.scheduled_new_reqs:
            index = int(new.req_id)
            if index not in self._cached_tokens:
                self._cached_tokens[index] = new.num_computed_tokens
                totals.admitted_cached_tokens += new.num_computed_tokens
                totals.admitted_prompt_tokens += self.requests.prompt_tokens[index]
        return self._start(output, work)

    def _start(self, output: Any, work: StepWork) -> _Step:
        """Put the step on the GPU: what it samples and when it ends."""
        names = list(output.num_scheduled_tokens)
        sampled = [_ONE_TOKEN] * len(names)
        for request_id in work.unfinished:
            sampled[names.index(request_id)] = _NO_TOKEN
        seconds = self._step_s(
            work.prefill_tokens, work.decode_tokens, work.context_tokens, work.prefill_attention
        )
        start_s = self.clock_s if self.clock_s > self._gpu_free_s else self._gpu_free_s
        self._gpu_free_s = start_s + seconds
        return _Step(output, work, self._gpu_free_s, sampled)

    def _update(self, step: _Step) -> None:
        totals, scheduler = self._totals, self.scheduler
        scheduled = step.output.num_scheduled_tokens
        if scheduled:
            runner_output = self._runner_output(
                req_ids=list(scheduled),
                req_id_to_index=dict(zip(scheduled, range(len(scheduled)), strict=True)),
                sampled_token_ids=step.sampled,
            )
            totals.steps += 1
        else:
            runner_output = self._empty_output
        started = self._wall() if self._wall else 0.0
        outputs = scheduler.update_from_output(step.output, runner_output)
        if self._wall:
            totals.scheduler_s += self._wall() - started
        totals.prefill_tokens += step.work.prefill_tokens
        for client in outputs.values():
            # Every output of a text request carries the one token sampled for it.
            totals.output_tokens += len(client.outputs)
        for request_id in step.work.completed:
            index, request = int(request_id), self._live.get(request_id)
            # A token of a step in flight when its request was preempted may have been dropped.
            if index not in self._first_token_s and request and request.num_output_tokens:
                self._first_token_s[index] = self.clock_s
        for request_id in scheduler.finished_req_ids:
            if request_id in self._live:
                index = int(request_id)
                self._finished[index] = replace(self._record(index), finish_s=self.clock_s)
                del self._live[request_id]

    def _record(self, index: int) -> RequestRecord:
        request = self._live.get(f"{index:08d}")
        return RequestRecord(
            request_id=f"{index:08d}",
            arrival_s=self.requests.arrival_s[index],
            prompt_tokens=self.requests.prompt_tokens[index],
            output_tokens=self.requests.output_tokens[index],
            cached_tokens=self._cached_tokens.get(index, 0),
            generated_tokens=0 if request is None else request.num_output_tokens,
            first_token_s=self._first_token_s.get(index),
            preemptions=0 if request is None else request.num_preemptions,
        )

    def _set_kv_usage(self, usage: float) -> None:
        """Add the usage so far to its time integral and go on with `usage`."""
        self._totals.kv_usage_s += self._kv_usage * (self.clock_s - self._kv_since_s)
        self._kv_since_s = self.clock_s
        self._kv_usage = usage
