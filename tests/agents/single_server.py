"""A stand-in for the simulated engine: one server, one request at a time, a millisecond a token.

It keeps to what an evaluation needs of an engine and is fast, so that resuming, failures and
reports are tested without vLLM.
"""

from __future__ import annotations

import math
import os
import signal
from pathlib import Path
from typing import Any
from unittest import mock

from agents.experiments.policy_runs import PolicyRun, simulate
from ewsjf_env.engine.simulated.config import SimulatedConfig
from ewsjf_env.measure.records import RequestRecord, WindowCounters, WindowMetrics, aggregate
from ewsjf_env.measure.requests import Requests
from ewsjf_env.policy.policy import Policy
from ewsjf_env.workload import Trace

SECONDS_A_TOKEN = 0.001
OUTPUT_TOKENS = 1


class SingleServer:
    """First come first served under `fcfs`, shortest prompt first under any other order."""

    def __init__(self, config: SimulatedConfig | None = None) -> None:
        self.config = config
        self.shortest_first = False
        self.trace: Trace | None = None
        self.clock_s = 0.0
        self.end_s = math.inf

    def install(self, policy: Policy) -> None:
        self.shortest_first = policy.order != "fcfs"

    def reset(self, trace: Trace) -> None:
        self.trace, self.clock_s = trace, 0.0

    def run_window(self, duration_s: float) -> WindowMetrics:
        self.clock_s = duration_s
        return self._metrics(duration_s)

    def drain(self) -> WindowMetrics:
        ends = [r.finish_s for r in self.records() if r.finish_s is not None]
        return self._metrics(math.nextafter(max(ends), math.inf))

    def now(self) -> float:
        return self.clock_s

    def prefill_cost_s(self, prompt_tokens: int) -> float:
        return prompt_tokens * SECONDS_A_TOKEN

    @property
    def capped(self) -> dict[str, int]:
        return {"capped_prompts": 0, "capped_outputs": 0}

    def requests(self, start_s: float, end_s: float) -> Requests:
        return Requests.of(self.records(), self.prefill_cost_s, start_s, end_s)

    def records(self) -> list[RequestRecord]:
        assert self.trace is not None
        arrivals = self.trace.arrival_s.tolist()
        prompts = self.trace.prompt_tokens.tolist()
        ends: dict[int, float] = {}
        time_s, waiting, coming = 0.0, [], list(range(len(arrivals)))
        while waiting or coming:
            if not waiting:
                time_s = max(time_s, arrivals[coming[0]])
            while coming and arrivals[coming[0]] <= time_s:
                waiting.append(coming.pop(0))
            waiting.sort(key=lambda i: (prompts[i] if self.shortest_first else 0, arrivals[i]))
            chosen = waiting.pop(0)
            time_s += self.prefill_cost_s(prompts[chosen])
            ends[chosen] = time_s
        return [
            RequestRecord(
                request_id=str(i),
                arrival_s=arrivals[i],
                prompt_tokens=prompts[i],
                output_tokens=OUTPUT_TOKENS,
                generated_tokens=OUTPUT_TOKENS,
                first_token_s=ends[i],
                finish_s=ends[i],
            )
            for i in range(len(arrivals))
        ]

    def _metrics(self, end_s: float) -> WindowMetrics:
        records = self.records()
        done = [r for r in records if r.finish_s is not None and r.finish_s < end_s]
        counters = WindowCounters(
            output_tokens=OUTPUT_TOKENS * len(done),
            prefill_tokens=sum(r.prompt_tokens for r in done),
        )
        return aggregate(records, counters, 0.0, end_s, self.prefill_cost_s)


def fails_for_hrrn(job: PolicyRun) -> dict[str, Any]:
    if job.policy.name == "hrrn":
        raise RuntimeError("the scheduler is stuck\nat step 7")
    return played(job)


def killed_for_hrrn(job: PolicyRun) -> dict[str, Any]:
    if job.policy.name == "hrrn":
        os.kill(os.getpid(), signal.SIGKILL)
    return played(job)


def killed_once(job: PolicyRun, marker: Path) -> dict[str, Any]:
    """Kill the worker the first time that any run starts."""
    if not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return played(job)


def interrupted_for_hrrn(job: PolicyRun) -> dict[str, Any]:
    if job.policy.name == "hrrn":
        raise KeyboardInterrupt
    return played(job)


def played(job: PolicyRun) -> dict[str, Any]:
    """The record of a job on the stand-in; patched here, for worker processes have no fixture."""
    with mock.patch("agents.experiments.policy_runs.cached_engine", SingleServer):
        return simulate(job)
