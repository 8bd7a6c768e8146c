"""Metrics `ewsjf_*` for Prometheus, beside vLLM's own on /metrics.

vLLM hands stat loggers a fixed set of numbers that has no place for ours, and an installed stat
logger would switch statistics on for servers that asked for none.  So the front end asks the
engine cores once a second, off the scheduling path, and sets the metrics from the answer; with
several front ends one of them does, since vLLM adds up or merges the metrics of all.

Labels: `engine` is the data-parallel rank; `queue` counts the queues from short to long prompts.
A queue that no longer exists, or whose order has no such number, shows NaN.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import math
from collections.abc import Callable, Mapping
from typing import Any

from prometheus_client import Counter, Gauge

from ewsjf_env.serving.ranks import EngineUnavailable, Ranks

POLL_INTERVAL_S = 1.0
logger = logging.getLogger("vllm.ewsjf")

State = Mapping[str, Any]
Read = Callable[[State], float]


def _failures(state: State) -> float:
    return float(sum(one.get("score_failures", 0) for one in state["classes"]))


# name -> (help, how to read it off `ewsjf_state`)
_GAUGES: dict[str, tuple[str, Read]] = {
    "ewsjf_waiting_requests": ("Waiting requests.", lambda s: s["depth"]),
    "ewsjf_recovery_requests": (
        "Waiting requests that have run before.",
        lambda s: s["recovery_depth"],
    ),
    "ewsjf_overdue_requests": ("Requests in the overdue lane.", lambda s: s["overdue_depth"]),
    "ewsjf_queues": ("Queues of the partition in force.", lambda s: len(s["cuts"]) + 1),
    "ewsjf_policy_version": ("Policy changes since the start.", lambda s: s["policy_version"]),
    "ewsjf_tenants": ("Accounts of tenants; 0 without.", lambda s: len(s.get("tenants", ()))),
    "ewsjf_prefill_cost_r2": (
        "How well the learnt prefill cost explains step times.",
        lambda s: math.nan if s["cost_r2"] is None else s["cost_r2"],
    ),
}
_COUNTERS: dict[str, tuple[str, Read]] = {
    "ewsjf_overdue_served": (
        "Requests served from the overdue lane.",
        lambda s: s["overdue_served"],
    ),
    "ewsjf_repartitions": ("Partitions learnt and installed.", lambda s: s["repartitions"]),
    "ewsjf_score_failures": ("Exceptions while scoring; the step fell back to FCFS.", _failures),
    "ewsjf_scheduler_seconds": (
        "Time spent in schedule and update.",
        lambda s: s["counters"]["scheduler_s"],
    ),
    "ewsjf_steps": ("Engine steps.", lambda s: s["counters"]["steps"]),
    "ewsjf_ignored_hints": (
        "Hints of callers that could not be used.",
        lambda s: s["hints"]["ignored"],
    ),
    "ewsjf_aborted_requests": ("Requests that were aborted.", lambda s: s["counters"]["aborted"]),
}
_QUEUE_GAUGES = {
    "ewsjf_queue_depth": ("Waiting requests of a queue.", "depth"),
    "ewsjf_queue_head_wait_seconds": ("Wait of the oldest request of a queue.", "head_wait_s"),
    "ewsjf_queue_score": ("Score of the head of a queue when it was last scored.", "score"),
    "ewsjf_queue_mean_tokens": ("Mean prompt tokens of a queue.", "mean_tokens"),
    "ewsjf_queue_arrival_share": ("Share of recent arrivals that a queue got.", "share"),
}
_PICKS = ("ewsjf_queue_picks", "Requests picked from a queue.")


class Metrics:
    """The metrics, in prometheus_client's default registry; once a process."""

    def __init__(self) -> None:
        rank, queue = ["engine"], ["engine", "queue"]
        self._gauges = {name: _gauge(name, text, rank) for name, (text, _) in _GAUGES.items()}
        self._counters = {name: Counter(name, text, rank) for name, (text, _) in _COUNTERS.items()}
        self._queue_gauges = {
            name: _gauge(name, text, queue) for name, (text, _) in _QUEUE_GAUGES.items()
        }
        self._picks = Counter(*_PICKS, queue)
        self._totals: dict[tuple[str, ...], float] = {}
        self._queues: dict[str, int] = {}

    def show(self, state: State) -> None:
        """Set all metrics of one rank from its `ewsjf_state`."""
        rank = str(state["rank"])
        for name, (_, read) in _GAUGES.items():
            self._gauges[name].labels(rank).set(read(state))
        for name, (_, read) in _COUNTERS.items():
            self._counters[name].labels(rank).inc(self._grown((name, rank), read(state)))
        # With priorities there is a set of queues for each; the most urgent one is shown.
        queues = state["classes"][0]["queues"] if state["classes"] else []
        shown = self._queues[rank] = max(len(queues), self._queues.get(rank, 0))
        for index in range(shown):
            values = queues[index] if index < len(queues) else {}
            for name, (_, key) in _QUEUE_GAUGES.items():
                value = values.get(key)
                number = math.nan if value is None else float(value)
                self._queue_gauges[name].labels(rank, str(index)).set(number)
            if "picks" in values:
                grown = self._grown((_PICKS[0], rank, str(index)), values["picks"])
                self._picks.labels(rank, str(index)).inc(grown)

    def _grown(self, key: tuple[str, ...], total: float) -> float:
        """What to add to a counter: orders are rebuilt at a change and count from 0 again."""
        before = self._totals.get(key, 0.0)
        self._totals[key] = total
        return total - before if total >= before else total


@functools.cache
def metrics() -> Metrics:
    """The metrics of this process."""
    return Metrics()


def start_polling(ranks: Ranks) -> asyncio.Task[None]:
    """Keep the metrics up to date until the task is cancelled; keep a reference to it."""
    return asyncio.get_running_loop().create_task(_poll(ranks), name="ewsjf-metrics")


async def _poll(ranks: Ranks) -> None:
    failed = False
    while True:
        try:
            for state in await ranks.call("ewsjf_state", False):
                metrics().show(state)
            failed = False
        except EngineUnavailable as error:
            if not failed:
                logger.warning("metrics: %s", error)
            failed = True
        await asyncio.sleep(POLL_INTERVAL_S)


def _gauge(name: str, text: str, labels: list[str]) -> Gauge:
    return Gauge(name, text, labels, multiprocess_mode="mostrecent")
