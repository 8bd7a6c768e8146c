"""The plug-ins that make vLLM believe in a device where there is none.

The entry points of our two plug-ins for simulation, both named `ewsjf_simulated`.  They act only
when asked for: the environment variable EWSJF_SIMULATED_PLATFORM must be `1`.

vLLM picks its platform once per process by asking every plug-in of the group
`vllm.platform_plugins`, and one that is not built in beats all built-in ones.  `register` is
called while `vllm.platforms` is still loading and may therefore import neither vllm nor torch.
"""

from __future__ import annotations

import os

SWITCH = "EWSJF_SIMULATED_PLATFORM"


def register() -> str | None:
    """Return the platform class as text when it is switched on, else None."""
    if os.environ.get(SWITCH) == "1":
        return "ewsjf_env.engine.stand_in.platform.SimulatedPlatform"
    return None


def register_model() -> None:
    """Make the architecture that `model_folder` names known, when switched on.

    The entry point in `vllm.general_plugins`, which vLLM calls in each of its processes.
    """
    if os.environ.get(SWITCH) != "1":
        return
    from vllm.model_executor.models import ModelRegistry

    from ewsjf_env.engine.stand_in.model import EwsjfSimulatedModel

    ModelRegistry.register_model(EwsjfSimulatedModel.__name__, EwsjfSimulatedModel)
