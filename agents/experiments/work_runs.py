"""How is one run of the studies of hints and tenants played, and what is measured?"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np

from agents.experiments.jobs import Job
from ewsjf_env.engine.simulated.engine import SimulatedEngine
from ewsjf_env.measure.records import RequestRecord
from ewsjf_env.scheduling.tenants import TenantSettings
from ewsjf_env.workload import Trace, load_workload

SAMPLE_S = 1.0  # between two looks at the service of tenants
QUIET, FLOOD = 0, 1  # priorities of the workload's classes
Record = dict[str, Any]


@dataclass(frozen=True)
class ArmJob(Job):
    """A run of an arm."""

    alone: bool = False


def simulate_arm(job: Job) -> Record:
    """Play a job; plain values."""
    assert isinstance(job, ArmJob)
    trace = load_workload(job.source.path).draw(job.seed, job.duration_s, job.rate_per_s)
    owners = None if trace.priority is None else trace.priority
    if job.alone:
        trace = _only_quiet(trace)
        owners = trace.priority
    engine = SimulatedEngine(job.engine)
    engine.install(job.policy)
    engine.reset(trace)
    if owners is None:
        metrics = engine.run_window(job.duration_s).to_dict()
        engine.drain()
        times = [(r.finish_s or engine.now()) - r.arrival_s for r in engine.records()]
        metrics["e2e_mean_s"] = float(np.mean(times))
    else:
        metrics = _tenant_metrics(engine, owners.tolist(), job.duration_s)
    return {"policy": job.policy.name, "seed": job.seed, "metrics": metrics}


def _tenant_metrics(engine: SimulatedEngine, owners: list[int], duration_s: float) -> Record:
    """TTFT and service by tenant, looked at once a second."""
    weights = TenantSettings()
    low = high = None
    widest, tokens = 0.0, 0.0
    for _ in range(round(duration_s / SAMPLE_S)):
        window = engine.run_window(SAMPLE_S)
        tokens += window.output_tokens_per_s * SAMPLE_S
        records = engine.records()
        served, waiting = [0.0, 0.0], [False, False]
        for record, owner in zip(records, owners, strict=False):
            if record.first_token_s is None:
                waiting[owner] = True
                continue
            served[owner] += weights.output_weight * record.generated_tokens
            computed = record.prompt_tokens - record.cached_tokens
            served[owner] += weights.prompt_weight * computed
        gap = served[FLOOD] - served[QUIET]
        if all(waiting):
            low = gap if low is None else min(low, gap)
            high = gap if high is None else max(high, gap)
            widest = max(widest, high - low)
        else:
            low = high = None
    ages = [_ttft_s(record, engine.now()) for record in engine.records()]
    found: Record = {
        "output_tokens_per_s": tokens / duration_s,
        "service_difference": widest,
        "ttft_mean_s": float(np.mean(ages)),
    }
    for name, owner in (("quiet", QUIET), ("flood", FLOOD)):
        ages = [
            _ttft_s(record, engine.now())
            for record, of in zip(engine.records(), owners, strict=False)
            if of == owner
        ]
        found[f"{name}_service_per_s"] = served[owner] / duration_s
        for q in (50, 95):
            found[f"{name}_ttft_p{q}_s"] = float(np.percentile(ages, q)) if ages else None
    longest = max(r.prompt_tokens for r in engine.records())
    kv_tokens = engine.kv_blocks * engine.config.block_tokens
    found["bound"] = 2.0 * max(weights.prompt_weight * longest, weights.output_weight * kv_tokens)
    return found


def _ttft_s(record: RequestRecord, now_s: float) -> float:
    """A request that has no token yet counts with its age."""
    end_s = now_s if record.first_token_s is None else record.first_token_s
    return end_s - record.arrival_s


def _only_quiet(trace: Trace) -> Trace:
    assert trace.priority is not None
    kept = trace.priority == QUIET
    return dataclasses.replace(
        trace,
        arrival_s=trace.arrival_s[kept],
        prompt_tokens=trace.prompt_tokens[kept],
        output_tokens=trace.output_tokens[kept],
        priority=trace.priority[kept],
    )
