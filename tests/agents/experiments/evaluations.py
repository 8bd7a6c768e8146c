"""Small plans, jobs and records for the tests of the evaluation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from agents.experiments.grid import Plan
from agents.experiments.source import Source
from ewsjf_env.engine.simulated.config import SimulatedConfig
from ewsjf_env.measure.records import RequestRecord, WindowCounters, aggregate
from ewsjf_env.policy.policy import parse_policies

DURATION_S = 20.0


def write_trace(path: Path, requests: int = 400) -> Path:
    """A recording at 10 requests/s: four short prompts, then a long one."""
    rows = [f"{i / 10},{2000 if i % 5 == 4 else 100},1" for i in range(requests)]
    path.write_text("\n".join(["arrival_s,prompt_tokens,output_tokens", *rows]) + "\n")
    return path


def make_plan(path: Path, **changes: Any) -> Plan:
    """Three policies on two seeds of a trace file at one rate; `changes` replace fields."""
    values: dict[str, Any] = {
        "policies": tuple(parse_policies("fcfs,sjf,hrrn")),
        "sources": (Source(str(path), is_trace=True),),
        "loads": (),
        "rates_per_s": (2.5,),
        "seeds": 2,
        "duration_s": DURATION_S,
        "engine": SimulatedConfig(),
    }
    return Plan(**{**values, **changes})


def quiet(keys: Iterable[str], total: int) -> Iterator[str]:
    """Progress that shows nothing."""
    yield from keys


def run_record(policy: str, seed: int, waits_s: tuple[float, float], **changes: Any) -> Any:
    """A record of one short and one long prompt with these TTFT; `changes` replace keys."""
    requests = [
        RequestRecord("a", 0.0, 100, 1, 0, 1, waits_s[0], waits_s[0]),
        RequestRecord("b", 0.0, 2000, 1, 0, 1, waits_s[1], waits_s[1]),
    ]
    counters = WindowCounters(output_tokens=int(1000 / sum(waits_s)), prefill_tokens=2100)
    metrics = aggregate(requests, counters, 0.0, 100.0, lambda tokens: tokens / 1000).to_dict()
    bucket = {"requests": 1, "unserved": 0, "ttft_p95_s": 1.0, "slowdown_mean": 1.0}
    record = {
        "policy": policy,
        "oracle": policy.startswith("sjf_total"),
        "workload": "chat",
        "load": 1.3,
        "rate_per_s": 2.6,
        "seed": seed,
        "metrics": metrics,
        "drained": metrics,
        "buckets": [
            {"low_tokens": 0, "high_tokens": 128, "ttft_mean_s": waits_s[0], **bucket},
            {"low_tokens": 128, "high_tokens": None, "ttft_mean_s": waits_s[1], **bucket},
        ],
        "notes": {"achieved_rate_per_s": 2.5, "capped_prompts": 0},
    }
    return {**record, **changes}
