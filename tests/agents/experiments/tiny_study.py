"""A study of policies on traffic of a few seconds."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import yaml

from tests.agents.experiments.evaluations import write_trace

MIX = """
rate_per_s: 4.0
arrivals: {kind: poisson}
classes:
  - name: short
    share: 0.7
    prompt: {kind: uniform, low_tokens: 16, high_tokens: 128}
    output: {kind: uniform, low_tokens: 1, high_tokens: 4}
  - name: long
    share: 0.3
    prompt: {kind: uniform, low_tokens: 1500, high_tokens: 2500}
    output: {kind: uniform, low_tokens: 1, high_tokens: 4}
"""
TINY: dict[str, Any] = {
    "loads": [0.7, 1.5],
    "seeds": 2,
    "min_requests": 5,
    "extra_seeds": 1,
    "extra_rounds": 1,
    "tuning": {
        "loads": [0.9, 1.4],
        "seeds": 1,
        "finalists": 1,
        "finalist_seeds": 2,
        "duration_factor": 0.75,
    },
    "workloads": {
        "mix": {"workload": "mix.yaml", "duration_s": 8.0},
        "recorded": {"trace": "trace.csv", "duration_s": 10.0},
    },
    "families": {
        "fcfs": {},
        "sjf_total": {},
        "hrrn": {"grid": {"exponent": [0.5, 2]}},
        "ewsjf": {"parameters": ["lambda", "k"], "points": 2, "partition": True},
        "ewsjf_k": {"order": "ewsjf", "parameters": ["k"], "points": 1, "per_load": False},
        "square": {
            "order": "hrrn",
            "grid": {"exponent": [2, 3]},
            "per_load": False,
            "role": "control",
        },
    },
    "controls": {
        "engines": {"long prefill 512": {"long_prefill_token_threshold": 512}},
        "workloads": ["mix"],
        "loads": [1.5],
    },
}


def write_study(folder: Path) -> None:
    """The study, and its traffic, in an empty folder."""
    (folder / "mix.yaml").write_text(MIX)
    write_trace(folder / "trace.csv", 1000)
    (folder / "study.yaml").write_text(yaml.safe_dump(TINY, sort_keys=False))


def family(label: str, **values: Any) -> dict[str, Any]:
    """Families with one more, as a change of `TINY`."""
    ewsjf = {"parameters": ["k"], "points": 1}
    return {"families": {"fcfs": {}, "ewsjf": ewsjf, label: values}}


def changed(**changes: Any) -> dict[str, Any]:
    return {**copy.deepcopy(TINY), **changes}
