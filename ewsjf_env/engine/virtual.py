"""The engines in virtual time by their settings: the compiled one, or vLLM's own scheduler.

Each is imported when it is first built: the compiled engine needs no vLLM, the simulated one no
compiler.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ewsjf_env.engine.base import VirtualEngine
    from ewsjf_env.engine.simulated.config import SimulatedConfig
    from ewsjf_env.engine.simulated.latency import LatencyModel


@functools.cache
def can_compile() -> bool:
    """Whether Numba can compile here; where it cannot, that is said once."""
    if importlib.util.find_spec("numba") is None:
        reason = "numba is not installed"
    elif os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0"):
        reason = "NUMBA_DISABLE_JIT is set"
    else:
        return True
    told = (
        f"engine compiled: {reason}: the engine simulated plays, alike but a thousand times slower"
    )
    print(told, file=sys.stderr, flush=True)
    return False


def build_virtual(config: SimulatedConfig, latency: LatencyModel | None = None) -> VirtualEngine:
    """The engine that `config.engine` names, without traffic.

    Where nothing can be compiled the engine `simulated` takes the place of `compiled`: it serves
    every request alike.

    Args:
        config: of the engine.
        latency: of the machine; None: as `config` says.

    Raises:
        ConfigError: a setting that the engine cannot follow, or an unknown latency model.
    """
    if config.engine == "compiled" and can_compile():
        from ewsjf_env.engine.compiled.engine import CompiledEngine

        return CompiledEngine(config, latency)
    from ewsjf_env.engine.simulated.engine import SimulatedEngine

    return SimulatedEngine(config, latency)
