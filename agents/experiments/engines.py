"""Engines of the experiments, by their configuration: here alone it is decided which one plays."""

from __future__ import annotations

import functools
from importlib.metadata import version

from ewsjf_env import __version__
from ewsjf_env.config import to_dict
from ewsjf_env.engine.base import VirtualEngine
from ewsjf_env.engine.simulated.config import SimulatedConfig
from ewsjf_env.engine.virtual import build_virtual


@functools.lru_cache(maxsize=2)
def cached_engine(config: SimulatedConfig) -> VirtualEngine:
    """The engine of this process for a configuration; it is never closed."""
    return build_virtual(config)


@functools.lru_cache(maxsize=8)
def engine_content(config: SimulatedConfig) -> tuple[object, ...]:
    """What a result depends on besides traffic and policy, for its key."""
    latency = cached_engine(config).latency.content_hash
    return to_dict(config), latency, version("vllm"), __version__
