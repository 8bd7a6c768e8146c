"""The Gymnasium environment: one step is one window of traffic under chosen parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ewsjf_env.env.env import SchedulerTuningEnv

__all__ = ["SchedulerTuningEnv"]


def __getattr__(name: str) -> Any:
    # The environment needs Gymnasium and an engine; `ewsjf_env.env.registration` needs neither.
    if name == "SchedulerTuningEnv":
        from ewsjf_env.env.env import SchedulerTuningEnv

        return SchedulerTuningEnv
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
