"""The engines in virtual time by their settings: the compiled one, or vLLM's own scheduler.

Each is imported when it is first built: the compiled engine needs no vLLM, the simulated one no
compiler.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ewsjf_env.engine.base import VirtualEngine
    from ewsjf_env.engine.simulated.config import SimulatedConfig
    from ewsjf_env.engine.simulated.latency import LatencyModel


def build_virtual(config: SimulatedConfig, latency: LatencyModel | None = None) -> VirtualEngine:
    """The engine that `config.engine` names, without traffic.

    Args:
        config: of the engine.
        latency: of the machine; None: as `config` says.

    Raises:
        ConfigError: a setting that the engine cannot follow, or an unknown latency model.
    """
    if config.engine == "compiled":
        from ewsjf_env.engine.compiled.engine import CompiledEngine

        return CompiledEngine(config, latency)
    from ewsjf_env.engine.simulated.engine import SimulatedEngine

    return SimulatedEngine(config, latency)
