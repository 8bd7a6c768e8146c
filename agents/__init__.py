"""Tuners and evaluation: everything that runs beside the engine, never inside it.

    from agents import AGENTS, Agent, RunConfig, Transition, make_agent, tune

A name is loaded when it is first asked for; none of them loads vLLM, torch or Stable-Baselines3
before an agent that needs them is built.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agents.core.agent import Agent as Agent
    from agents.core.agent import Transition as Transition
    from agents.core.registry import AGENTS as AGENTS
    from agents.core.registry import make_agent as make_agent
    from agents.runs.config import RunConfig as RunConfig
    from agents.runs.tune import tune as tune

__all__ = ["AGENTS", "Agent", "RunConfig", "Transition", "make_agent", "tune"]

_TARGETS = {
    "AGENTS": "agents.core.registry",
    "Agent": "agents.core.agent",
    "RunConfig": "agents.runs.config",
    "Transition": "agents.core.agent",
    "make_agent": "agents.core.registry",
    "tune": "agents.runs.tune",
}


def __getattr__(name: str) -> Any:
    """A public name, loaded when it is first asked for (PEP 562)."""
    if name not in _TARGETS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_TARGETS[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
