"""Traces of a few seconds, and the simulated engine that serves them."""

from __future__ import annotations

import dataclasses

import numpy as np

from ewsjf_env.engine.simulated.config import SimulatedConfig
from ewsjf_env.engine.simulated.engine import SimulatedEngine
from ewsjf_env.measure.records import RequestRecord
from ewsjf_env.workload.trace import Trace

STOCK = SimulatedConfig(scheduler="stock", kv_blocks=3500)
ALONE = dataclasses.replace(
    STOCK, max_num_seqs=1, async_scheduling=False, max_num_batched_tokens=8192, max_model_len=8192
)


def make_trace(
    arrival_s: list[float],
    prompt: list[int],
    output: list[int],
    block_ids: tuple[tuple[int, ...], ...] | None = None,
) -> Trace:
    return Trace(
        name="test",
        arrival_s=np.array(arrival_s),
        prompt_tokens=np.array(prompt),
        output_tokens=np.array(output),
        block_ids=block_ids,
    )


def random_trace(seed: int, rate_per_s: float, duration_s: float, longest: int = 4096) -> Trace:
    random = np.random.default_rng(seed)
    count = int(rate_per_s * duration_s)
    short = random.random(count) < 0.8
    prompt = np.where(
        short, random.integers(32, 257, count), random.integers(longest // 4, longest + 1, count)
    )
    return make_trace(
        np.sort(random.uniform(0, duration_s, count)).tolist(),
        prompt.tolist(),
        random.integers(1, 129, count).tolist(),
    )


def served(config: SimulatedConfig, trace: Trace) -> list[RequestRecord]:
    engine = SimulatedEngine(config)
    engine.reset(trace)
    engine.run_window(float(trace.arrival_s[-1]) + 1e-9)
    engine.drain()
    return engine.records()
