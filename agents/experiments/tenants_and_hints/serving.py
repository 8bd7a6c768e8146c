"""One run of an arm: what is played, and what is measured of requests and of tenants."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from agents.experiments.engines import cached_engine
from agents.experiments.policy_runs import PolicyRun, Record
from agents.experiments.source import drawn
from ewsjf_env.engine.base import VirtualEngine
from ewsjf_env.engine.play import play
from ewsjf_env.measure.records import RequestRecord, WindowMetrics
from ewsjf_env.scheduling.tenants import TenantSettings
from ewsjf_env.workload import Trace

SAMPLE_S = 1.0  # between two looks at the service of tenants
QUIET, FLOOD = 0, 1  # priorities of the workload's classes


@dataclass(frozen=True)
class ArmRun(PolicyRun):
    """A run of an arm; `alone`: only the quiet tenant's requests are sent."""

    alone: bool = False


def serve_arm(run: ArmRun) -> Record:
    """Play a run; plain values."""
    trace = drawn(run.source, run.seed, run.duration_s, run.rate_per_s)
    if run.alone:
        trace = _only_quiet(trace)
    engine = cached_engine(run.engine)
    if trace.priority is None:
        (window,) = play(engine, run.policy, trace, [run.duration_s])
        metrics = window.to_dict()
        engine.drain()
        times = [(r.finish_s or engine.now()) - r.arrival_s for r in engine.records()]
        metrics["e2e_mean_s"] = float(np.mean(times))
    else:
        windows = play(engine, run.policy, trace, [SAMPLE_S] * round(run.duration_s / SAMPLE_S))
        owners, block_tokens = trace.priority.tolist(), run.engine.block_tokens
        metrics = _tenant_metrics(engine, windows, owners, run.duration_s, block_tokens)
    return {"policy": run.policy.name, "seed": run.seed, "metrics": metrics}


def _tenant_metrics(
    engine: VirtualEngine,
    windows: Iterable[WindowMetrics],
    owners: Sequence[int],
    duration_s: float,
    block_tokens: int,
) -> Record:
    """TTFT and service by tenant, looked at after every window."""
    weights = TenantSettings()
    low = high = None
    widest, tokens, served = 0.0, 0.0, [0.0, 0.0]
    for window in windows:
        tokens += window.output_tokens_per_s * SAMPLE_S
        served, waiting = _service(engine.records(), owners, weights)
        gap = served[FLOOD] - served[QUIET]
        if all(waiting):
            low = gap if low is None else min(low, gap)
            high = gap if high is None else max(high, gap)
            widest = max(widest, high - low)
        else:
            low = high = None
    records = engine.records()
    ages = [_ttft_s(record, engine.now()) for record in records]
    found: Record = {
        "output_tokens_per_s": tokens / duration_s,
        "service_difference": widest,
        "ttft_mean_s": float(np.mean(ages)),
    }
    for name, tenant in (("quiet", QUIET), ("flood", FLOOD)):
        own = [age for age, owner in zip(ages, owners, strict=False) if owner == tenant]
        found[f"{name}_service_per_s"] = served[tenant] / duration_s
        for q in (50, 95):
            found[f"{name}_ttft_p{q}_s"] = float(np.percentile(own, q)) if own else None
    longest = max(r.prompt_tokens for r in records)
    kv_tokens = engine.kv_blocks * block_tokens
    found["bound"] = 2.0 * max(weights.prompt_weight * longest, weights.output_weight * kv_tokens)
    return found


def _service(
    records: Sequence[RequestRecord], owners: Sequence[int], weights: TenantSettings
) -> tuple[list[float], list[bool]]:
    """Weighed tokens that each tenant has had, and whether one of its requests waits."""
    served, waiting = [0.0, 0.0], [False, False]
    for record, owner in zip(records, owners, strict=False):
        if record.first_token_s is None:
            waiting[owner] = True
            continue
        served[owner] += weights.output_weight * record.generated_tokens
        computed = record.prompt_tokens - record.cached_tokens
        served[owner] += weights.prompt_weight * computed
    return served, waiting


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
