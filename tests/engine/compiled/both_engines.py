"""The same traffic in the compiled and in the simulated engine, and small traffic to compare on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ewsjf_env.engine.compiled.engine import CompiledEngine
from ewsjf_env.engine.simulated.config import SimulatedConfig
from ewsjf_env.engine.simulated.engine import SimulatedEngine
from ewsjf_env.measure.records import RequestRecord
from ewsjf_env.policy.policy import Policy, parse_policy
from ewsjf_env.workload.trace import Trace


def small_traffic(
    seed: int = 0,
    count: int = 120,
    duration_s: float = 15.0,
    *,
    priorities: bool = True,
    shared: bool = False,
    bursts: bool = False,
) -> Trace:
    """Requests of 1 to 6,000 prompt tokens, most of them short; more than can be served."""
    random = np.random.default_rng(seed)
    arrival_s = random.uniform(0.0, duration_s, count)
    if bursts:
        arrival_s = np.repeat(arrival_s[: -(-count // 8)], 8)[:count]
    prompt = np.clip(np.exp(random.normal(5.5, 1.3, count)), 1, 6000).astype(np.int64)
    output = np.clip(np.exp(random.normal(3.5, 1.0, count)), 1, 900).astype(np.int64)
    return Trace(
        name="small",
        arrival_s=np.sort(arrival_s),
        prompt_tokens=prompt,
        output_tokens=output,
        priority=random.integers(0, 3, count) if priorities else None,
        block_ids=_shared_blocks(random, prompt.tolist()) if shared else None,
    )


def _shared_blocks(random: np.random.Generator, prompt: list[int]) -> tuple[tuple[int, ...], ...]:
    """Prefix block ids in which most prompts begin as an earlier one does."""
    found: list[list[int]] = []
    fresh = 0
    for tokens in prompt:
        blocks = -(-tokens // 512)
        ids: list[int] = []
        if found and random.random() < 0.7:
            before = found[int(random.integers(len(found)))]
            ids = before[: min(blocks, int(random.integers(1, len(before) + 1)))]
        ids = ids + list(range(fresh, fresh + blocks - len(ids)))
        fresh += blocks
        found.append(ids)
    return tuple(tuple(ids) for ids in found)


def assert_equal(
    config: SimulatedConfig,
    policies: Sequence[str | Policy | None],
    trace: Trace,
    window_s: float = 8.0,
) -> list[RequestRecord]:
    """Serve one window a policy in both engines: records and metrics must be equal to the bit.

    Args:
        config: of both engines.
        policies: installed one after another before each window; None: the one before stays.
        trace: the traffic.
        window_s: of each window.

    Returns:
        The records.
    """
    engines = CompiledEngine(config), SimulatedEngine(config)
    for engine in engines:
        engine.reset(trace)
    for policy in policies:
        for engine in engines:
            if policy is not None:
                engine.install(parse_policy(policy) if isinstance(policy, str) else policy)
        found, expected = (engine.run_window(window_s) for engine in engines)
        assert engines[0].records() == engines[1].records()
        assert found.to_dict() == expected.to_dict()
        assert engines[0].cuts() == engines[1].cuts()
    records = engines[0].records()
    for engine in engines:
        engine.close()
    return records
