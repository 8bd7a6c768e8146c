"""Which device does vLLM believe in where there is none?

The entry point of our platform plug-in.  vLLM picks its platform once per process by asking
every plug-in of the group `vllm.platform_plugins`.  One that is not built in beats all built-in
ones, so this one answers only when asked for: the environment variable
EWSJF_SIMULATED_PLATFORM must be `1`.  It is called while `vllm.platforms` is still loading and
may therefore import neither vllm nor torch.
"""

from __future__ import annotations

import os

SWITCH = "EWSJF_SIMULATED_PLATFORM"


def register() -> str | None:
    """Return the platform class as text when it is switched on, else None."""
    if os.environ.get(SWITCH) == "1":
        return "ewsjf_env.engine.simulated_platform.SimulatedPlatform"
    return None
