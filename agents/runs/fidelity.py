"""The short check at a run's end that vLLM's own scheduler serves its traffic alike.

A run on the compiled engine is worth what that engine is worth, so its last traffic is played
once more, for about a minute, on the engine `simulated`, under what the run recommends.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from typing import Any

from agents.core.window import WindowRecord
from ewsjf_env.engine.compiled.fidelity import compare_engines
from ewsjf_env.engine.simulated.latency import LatencyModel
from ewsjf_env.env.task import Task
from ewsjf_env.parameters import Value
from ewsjf_env.workload import load_workload

TOLD = (
    *("policy", "workload", "seed", "requests", "differing", "first_tokens"),
    *("first_tokens_equal", "finishes", "finishes_equal", "preemptions"),
    *("preemptions_simulated", "largest_difference_s"),
)
"""What summary.json keeps of a case: nothing that depends on the clock of this machine."""


def needs_check(task: Task) -> bool:
    """Whether windows were made by the compiled engine."""
    return task.engine == "compiled"


def check_run(
    task: Task, last: WindowRecord, values: Mapping[str, Value], seconds: float
) -> dict[str, Any]:
    """Play the beginning of a run's last trace on both engines.

    Args:
        task: of the run, on the engine `compiled`.
        last: a window of the trace.
        values: of the tuned parameters, to serve by.
        seconds: of traffic, > 0.

    Returns:
        `seconds` and the fields `TOLD` of the case; `error` in their place where vLLM is missing.
    """
    if importlib.util.find_spec("vllm") is None:
        return {"seconds": seconds, "error": "vllm is not installed: nothing was compared"}
    policy = task.start_policy().with_parameters(values)
    drawn = last.plan.trace
    trace = load_workload(task.workload).draw(drawn.seed, task.traffic_s, drawn.rate_per_s)
    latency = LatencyModel.load(task.simulated.latency, "simulated.latency")
    case = compare_engines(
        task.simulated, latency, policy, trace, min(seconds, task.episode_s), drawn.seed
    )
    found = case.to_dict()
    return {"seconds": min(seconds, task.episode_s)} | {name: found[name] for name in TOLD}


def told(found: Mapping[str, Any]) -> str:
    """The check in one line."""
    if "error" in found:
        return f"fidelity: {found['error']}"
    seconds, requests, differing = found["seconds"], found["requests"], found["differing"]
    if differing:
        return (
            f"warning: fidelity: {differing} of {requests} requests differ from vLLM's own "
            f"scheduler in {seconds:g} s; repeat the run with --set engine=simulated"
        )
    return f"fidelity: all {requests} requests of {seconds:g} s as by vLLM's own scheduler"
