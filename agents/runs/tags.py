"""What a run's curves and tables are called: columns of progress.csv, charts, headlines.

The numbers of a window name themselves (`WindowRecord.scalars`), the same for every agent; only
`bo/*`, `twin/*` and `train/*` are an agent's own.  Two totals of the run so far are added here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from agents.core.window import WindowRecord, tag_names
from agents.runs.timing import Timing
from ewsjf_env.env.task import Task
from ewsjf_env.measure.objective import OBJECTIVES
from ewsjf_env.measure.tags import names
from ewsjf_env.parameters import ParameterSpace

Setting = bool | float | str
Layout = Mapping[str, Mapping[str, Sequence[str]]]

MEAN, VIOLATIONS = "reward/online_mean", "safety/violations_total"
"""Of the run so far: mean reward of the windows that were measured, number of violations."""

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
        config: Task,
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


def columns(run: RunFacts) -> tuple[str, ...]:
    """The columns of progress.csv: the same for every agent on a task.

    Cuts and an agent's own diagnostics, whose number is not known before, are not among them.
    """
    parameters = run.space.names
    keys = {"values": parameters, "incumbent": parameters}
    keys |= {"terms": run.reward_terms, "margins": run.constraints}
    return (*_TEXTS, MEAN, VIOLATIONS, *tag_names(keys), *names(Timing))


_TEXTS = ("window", "episode", "trace", "trace_seed", "rate_per_s", "failure")


def texts(record: WindowRecord) -> dict[str, Any]:
    """What of a window is no point of a curve, by column."""
    trace = record.plan.trace
    # On one line, whatever an engine says: a half line must be recognisable.
    failure = " ".join((record.served.failure or "").split())
    values = (record.window, record.plan.episode, trace.name, trace.seed, trace.rate_per_s, failure)
    return dict(zip(_TEXTS, values, strict=True))


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
