"""What of a window is logged, and what is it called in TensorBoard and in progress.csv?

The same names for every agent; only `bo/*`, `twin/*` and `train/*` are an agent's own.  Latencies
are in ms, as vLLM's benchmarks print them; the metric words are vLLM's, too.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from agents.runs.event_file import Layout, Setting
from ewsjf_env.env.task import TuningConfig
from ewsjf_env.measure.objective import OBJECTIVES
from ewsjf_env.parameters import ParameterSpace, Value

_LATENCIES = {
    f"latency/ttft_{name}_ms": f"ttft_{name}_s"
    for name in (
        *("mean", "p50", "p95", "p99"),
        *("short_mean", "short_p95", "short_p99"),
        *("long_mean", "long_p95", "long_p99"),
    )
} | {"latency/tpot_p95_ms": "tpot_p95_s", "latency/e2el_p95_ms": "e2e_p95_s"}
_METRICS = {
    "latency/slowdown_mean": "slowdown_mean",
    "latency/slowdown_p99": "slowdown_p99",
    "latency/slowdown_long_p95": "slowdown_long_p95",
    "throughput/output_tokens_per_s": "output_tokens_per_s",
    "throughput/total_tokens_per_s": "total_tokens_per_s",
    "throughput/requests_per_s": "requests_per_s",
    "goodput/requests_per_s": "goodput_requests_per_s",
    "queue/outstanding": "outstanding",
    "queue/wait_max_s": "wait_max_s",
    "queue/overdue_share": "overdue_share",
    "queue/jain_slowdown": "jain_slowdown",
    "engine/kv_cache_usage": "kv_usage_mean",
    "engine/preemptions": "preemptions",
    "engine/prefix_hit_rate": "prefix_hit_rate",
    "engine/scheduler_us_per_step": "scheduler_us_per_step",
    "partition/queues": "queues",
}
_REFERENCE_MS = {
    "reference/ttft_short_p95_ms": "ttft_short_p95_s",
    "reference/ttft_long_p95_ms": "ttft_long_p95_s",
}
_REFERENCE = {"reference/output_tokens_per_s": "output_tokens_per_s"}
_TRAFFIC = {
    "queue/depth": "queue_depth",
    "queue/oldest_age_s": "oldest_age_s",
    "queue/running": "running",
    "traffic/arrival_rate_per_s": "arrival_rate_per_s",
    "traffic/burst_index": "burst_index",
    "traffic/prompt_tokens_mean": "prompt_tokens_mean",
}
_MODES = ("rollback", "control", "held", "killed")
_SAFETY = ("violation", "violations_total", "void", "failure", "aborted", "breach")
_TIMES = ("time/ask_ms", "time/observe_ms", "time/window_s")

HEADLINES = (
    "reward/online_mean",
    "reward/total",
    "safety/violations_total",
    "latency/ttft_short_p95_ms",
    "latency/ttft_long_p95_ms",
    "throughput/output_tokens_per_s",
    "time/ask_ms",
)
"""The columns of measurements on the page "HParams"."""


@dataclass(frozen=True)
class Timing:
    """Wall time of a window: the agent's `act` and `observe`, and the window itself."""

    ask_s: float
    observe_s: float
    window_wall_s: float


@dataclass(frozen=True)
class RunFacts:
    """What is known of a run before its first window.

    Attributes:
        agent: name in the registry.
        seed: of the run.
        workload: its name or file.
        objective: its kind.
        space: what is tuned.
        windows: how many are planned, >= 1.
        hyperparameters: settings of the agent, flat.
        reward_terms: names of the terms of the reward.
        constraints: names of the constraints.
    """

    agent: str
    seed: int
    workload: str
    objective: str
    space: ParameterSpace
    windows: int
    hyperparameters: Mapping[str, Setting] = field(default_factory=dict)
    reward_terms: tuple[str, ...] = ()
    constraints: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        config: TuningConfig,
        agent: str,
        seed: int,
        windows: int,
        settings: Mapping[str, Any] | None = None,
    ) -> RunFacts:
        """The facts of a run of `agent`, with these (nested) settings, on a tuning task."""
        objective = config.objective
        weights = {**(OBJECTIVES[objective.kind].weights or {}), **objective.weights}
        return cls(
            agent=agent,
            seed=seed,
            workload=config.workload,
            objective=objective.kind,
            space=config.space(),
            windows=windows,
            hyperparameters=flat(settings or {}),
            reward_terms=tuple(weights),
            constraints=tuple(c.name for c in config.constraints),
        )

    @property
    def common(self) -> dict[str, Setting]:
        """What runs of every agent have on the page "HParams", beside their own settings."""
        return {
            "agent": self.agent,
            "workload": self.workload,
            "objective": self.objective,
            "seed": self.seed,
            "windows": self.windows,
        }


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Setting]:
    """Nested settings as one level, `surrogate.max_windows`; other than numbers become text."""
    result: dict[str, Setting] = {}
    for key, value in settings.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            result |= flat(value, f"{name}.")
        elif isinstance(value, (bool, int, float, str)):
            result[name] = value
        else:
            result[name] = "none" if value is None else json.dumps(value, default=str)
    return result


def scalars(
    record: Mapping[str, Any], timing: Timing | None, space: ParameterSpace
) -> dict[str, float]:
    """The scalars of one window by tag; what was not measured is left out.

    Args:
        record: one line of windows.jsonl.
        timing: None when it was not measured.
        space: what is tuned.
    """
    metrics, traffic = record["metrics"] or {}, record["traffic"] or {}
    reference, guard = record["reference"] or {}, record["guard"] or {}
    found: dict[str, Any] = {"reward/total": record["reward"]}
    found["reward/standard_error"] = record["reward_se"]
    found |= {f"reward/{term}": value for term, value in record["reward_terms"].items()}
    found |= {tag: _ms(metrics.get(name)) for tag, name in _LATENCIES.items()}
    found |= {tag: metrics.get(name) for tag, name in _METRICS.items()}
    found |= {tag: _ms(reference.get(name)) for tag, name in _REFERENCE_MS.items()}
    found |= {tag: reference.get(name) for tag, name in _REFERENCE.items()}
    found |= {tag: traffic.get(name) for tag, name in _TRAFFIC.items()}
    for group, values in (("parameters", record["values"]), ("incumbent", record["incumbent"])):
        found |= {f"{group}/{n}": _number(n, v, space) for n, v in (values or {}).items()}
    found |= {f"safety/margin_{name}": margin for name, margin in record["margins"].items()}
    found |= {f"safety/{name}": record[name] for name in ("violation", "void", "aborted")}
    found["safety/failure"] = record["failure"] is not None
    found["safety/breach"] = guard.get("breach", False)
    found |= {f"safety/{mode}": guard.get("mode") == mode for mode in _MODES}
    found |= {f"safety/{name}": guard.get(name) for name in ("radius", "budget_left")}
    found |= {f"partition/cut_{i}": cut for i, cut in enumerate(record["cuts"] or ())}
    found |= record["diagnostics"]
    if timing is not None:
        found["time/ask_ms"] = _ms(timing.ask_s)
        found["time/observe_ms"] = _ms(timing.observe_s)
        found["time/window_s"] = timing.window_wall_s
    numbers = {tag: float(value) for tag, value in found.items() if value is not None}
    return {tag: value for tag, value in numbers.items() if math.isfinite(value)}


def columns(run: RunFacts) -> tuple[str, ...]:
    """The columns of progress.csv: the same for every agent on a task.

    Cuts and an agent's own diagnostics, whose number is not known before, are not among them.
    """
    return (
        *("window", "episode", "trace", "trace_seed", "rate_per_s", "failure"),
        *("reward/total", "reward/online_mean", "reward/standard_error"),
        *(f"reward/{term}" for term in run.reward_terms),
        *_LATENCIES,
        *_METRICS,
        *_REFERENCE_MS,
        *_REFERENCE,
        *_TRAFFIC,
        *(f"parameters/{name}" for name in run.space.names),
        *(f"incumbent/{name}" for name in run.space.names),
        *(f"safety/{name}" for name in (*_SAFETY, *_MODES, "radius", "budget_left")),
        *(f"safety/margin_{name}" for name in run.constraints),
        *_TIMES,
    )


def custom_layout(run: RunFacts) -> Layout:
    """The charts of the page "Custom Scalars"."""
    return {
        "Latency": {
            "TTFT p95 by class, ms": _exactly(
                "latency/ttft_short_p95_ms", "latency/ttft_long_p95_ms", "latency/ttft_p95_ms"
            ),
            "TTFT p95 of short prompts and of the reference, ms": _exactly(
                "latency/ttft_short_p95_ms", "reference/ttft_short_p95_ms"
            ),
            "Mean TTFT by class, ms": _exactly(
                "latency/ttft_short_mean_ms", "latency/ttft_long_mean_ms", "latency/ttft_mean_ms"
            ),
        },
        "Throughput": {
            "Output tokens per second": _exactly(
                "throughput/output_tokens_per_s", "reference/output_tokens_per_s"
            ),
            "Requests per second": _exactly(
                "throughput/requests_per_s", "goodput/requests_per_s", "traffic/arrival_rate_per_s"
            ),
        },
        "Reward": {
            "Reward": _exactly("reward/total", "reward/online_mean"),
            "Terms": _exactly(*(f"reward/{term}" for term in run.reward_terms)),
        },
        "Safety": {
            "Margins, feasible when <= 0": ["safety/margin_.*"],
            "Violations so far": _exactly("safety/violations_total"),
            "Interventions, and radius of the trust region": _exactly(
                "safety/breach", "safety/rollback", "safety/aborted", "safety/radius"
            ),
        },
        "Partition": {
            "Queues": _exactly("partition/queues"),
            "Cuts, tokens": ["partition/cut_.*"],
        },
        "Parameters": {
            name: _exactly(f"parameters/{name}", f"incumbent/{name}") for name in run.space.names
        },
    }


def _exactly(*tags: str) -> Sequence[str]:
    return [f"{re.escape(tag)}$" for tag in tags]


def _ms(seconds: Any) -> float | None:
    return None if seconds is None else 1000.0 * float(seconds)


def _number(name: str, value: Value, space: ParameterSpace) -> float:
    """A parameter as a point of a curve; a choice among words is its place in the list."""
    if isinstance(value, str):
        return float(space[name].choices.index(value))
    return float(value)
