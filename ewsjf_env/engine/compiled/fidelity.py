"""A comparison of both engines on the same traffic, request for request."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ewsjf_env.engine.compiled.engine import CompiledEngine
from ewsjf_env.engine.simulated.config import SimulatedConfig
from ewsjf_env.engine.simulated.engine import SimulatedEngine
from ewsjf_env.engine.simulated.latency import LatencyModel
from ewsjf_env.measure.records import RequestRecord
from ewsjf_env.policy.policy import Policy
from ewsjf_env.workload.trace import Trace

TOLERANCE_S = 1e-9


@dataclass(frozen=True)
class FidelityCase:
    """One trace under one policy in both engines.

    Attributes:
        policy, workload, seed: what was played.
        rate_per_s: that was asked of the traffic, else the traffic's own; None: the trace was not
            drawn at a rate.
        arrived_per_s: what the trace has, `requests` over the seconds played.
        requests: that arrived.
        first_tokens, finishes: that happened in the simulated engine.
        first_tokens_equal, finishes_equal: those that the compiled engine has at the same time.
        preemptions, preemptions_simulated: in all, in each engine.
        differing: requests of which anything differs.
        largest_difference_s: of first tokens and finishes; infinite where one engine has none.
        compiled_x_real_time, simulated_x_real_time: seconds served in a second of CPU time.
        ratio: the one over the other.
    """

    policy: str
    workload: str
    rate_per_s: float | None
    arrived_per_s: float
    seed: int
    requests: int
    first_tokens: int
    first_tokens_equal: int
    finishes: int
    finishes_equal: int
    preemptions: int
    preemptions_simulated: int
    differing: int
    largest_difference_s: float
    compiled_x_real_time: float
    simulated_x_real_time: float
    ratio: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, with None for what is not finite."""
        return {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in asdict(self).items()
        }


def compare_engines(
    config: SimulatedConfig,
    latency: LatencyModel,
    policy: Policy,
    trace: Trace,
    duration_s: float,
    seed: int = 0,
) -> FidelityCase:
    """Play `duration_s` seconds of a trace in both engines.

    Args:
        config: of both; the scheduler `stock` is served without the policy.
        latency: of both.
        policy: to serve by.
        trace: the traffic.
        duration_s: > 0.
        seed: what the trace was drawn with, to be told.

    Raises:
        ConfigError: what the compiled engine cannot do, or a request that does not fit.
    """
    compiled, simulated = CompiledEngine(config, latency), SimulatedEngine(config, latency)
    if config.scheduler != "stock":
        compiled.install(policy)
        simulated.install(policy)
    compiled.reset(trace)
    compiled.core.advance(0.0)  # compiles where nothing is cached
    started_s = time.process_time()
    compiled.core.advance(duration_s)
    compiled_s = time.process_time() - started_s
    simulated.reset(trace)
    started_s = time.process_time()
    simulated.run_window(duration_s)
    simulated_s = time.process_time() - started_s
    found, expected = compiled.records(), simulated.records()
    simulated.close()
    asked = trace.notes.get("requested_rate_per_s")
    firsts = [r.first_token_s for r in found], [r.first_token_s for r in expected]
    finishes = [r.finish_s for r in found], [r.finish_s for r in expected]
    return FidelityCase(
        policy=policy.name if config.scheduler != "stock" else "stock",
        workload=trace.name,
        rate_per_s=None if asked is None else float(asked),
        arrived_per_s=len(expected) / duration_s,
        seed=seed,
        requests=len(expected),
        first_tokens=sum(moment is not None for moment in firsts[1]),
        first_tokens_equal=_equal(*firsts),
        finishes=sum(moment is not None for moment in finishes[1]),
        finishes_equal=_equal(*finishes),
        preemptions=sum(r.preemptions for r in found),
        preemptions_simulated=sum(r.preemptions for r in expected),
        differing=_differing(found, expected),
        largest_difference_s=max(_largest(*firsts), _largest(*finishes)),
        compiled_x_real_time=duration_s / max(compiled_s, 1e-9),
        simulated_x_real_time=duration_s / max(simulated_s, 1e-9),
        ratio=simulated_s / max(compiled_s, 1e-9),
    )


def _difference_s(found_s: float | None, expected_s: float | None) -> float:
    if found_s is None or expected_s is None:
        return 0.0 if found_s is expected_s else math.inf
    return abs(found_s - expected_s)


def _equal(found: Sequence[float | None], expected: Sequence[float | None]) -> int:
    pairs = zip(found, expected, strict=False)
    return sum(e is not None and _difference_s(f, e) <= TOLERANCE_S for f, e in pairs)


def _largest(found: Sequence[float | None], expected: Sequence[float | None]) -> float:
    if len(found) != len(expected):
        return math.inf
    return max((_difference_s(f, e) for f, e in zip(found, expected, strict=True)), default=0.0)


def _differing(found: Sequence[RequestRecord], expected: Sequence[RequestRecord]) -> int:
    """Requests that differ in a moment, in tokens or in preemptions."""
    count = abs(len(found) - len(expected))
    for f, e in zip(found, expected, strict=False):
        first_s = _difference_s(f.first_token_s, e.first_token_s)
        finish_s = _difference_s(f.finish_s, e.finish_s)
        same = max(first_s, finish_s) <= TOLERANCE_S
        same = same and f.generated_tokens == e.generated_tokens
        count += not (
            same and f.preemptions == e.preemptions and f.cached_tokens == e.cached_tokens
        )
    return count
