"""Settings of the digital twin, and of the agent upon it."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated

from agents.bayes.config import StudyConfig
from ewsjf_env.config import (
    ConfigError,
    Count,
    Natural,
    Positive,
    PositiveShare,
    Range,
    Share,
    settings,
)


@settings
class TwinConfig:
    """The twin: recent windows, served again in virtual time under other policies."""

    jobs: Annotated[int, Range(0, 256)] = 1
    """Processes that replay, beside the tuner's own; 0: none, replays run in it."""
    cpu_s_per_window: Positive = 30.0
    """CPU seconds of replays between two windows on an engine where a second takes a second."""
    simulated_s_per_window: Positive = 2400.0
    """Simulated seconds of replays between two windows where time is virtual: a faster machine
    must not make another run of it. One core does about 80 a second.
    """
    recorded_windows: Count = 6
    """The newest windows that are replayed."""
    block_windows: Count = 3
    """Windows of an episode that are served together from an empty engine."""
    drawn_blocks: Natural = 4
    """Blocks of traffic drawn from the recorded windows."""
    candidates: Natural = 8
    """Points that the twin looks at first, round the known ones."""
    radius: PositiveShare = 0.2
    """The candidates lie so near a known point, in every coordinate of the unit cube."""
    theory: bool = True
    """Whether the twin looks at the point of queueing theory, too, of the task's own traffic and
    machine.
    """
    rounds: Natural = 6
    """Proposals of the twin's own model between two windows."""
    finalists: Count = 4
    """Best points that are served all blocks."""
    trust: Positive = 0.35
    """How sure one is beforehand that a gain in the twin is one on the machine: standard
    deviation of the factor between them round 1.
    """
    least_trust: Share = 0.3
    """Below this factor the agent goes on as without a twin."""
    fit_speed: bool = True
    """Whether the machine's speed, compared with the latency model, is fitted to the latencies
    measured.
    """
    fit_error: Positive = 0.1
    """The speed is fitted anew when latencies are further off than this (0.1: 10 %)."""
    step_log: str = ""
    """Log of the server's `StepLogScheduler`, a file on this machine: the latency model is fitted
    to its steps, anew when there are half as many more; empty: none.
    """
    latency_error: Annotated[float, Range(0.0, 0.9)] = 0.0
    """The latency model is wrong on purpose: its coefficients are multiplied by factors between
    1 - this and 1 + this, drawn by the run's seed; for studies.
    """


@settings
class TwinStudyConfig(StudyConfig):
    """An agent on an Optuna study whose model knows what a twin says."""

    startup_points: Natural = 0
    """Startup points beside the twin's candidates, which take their place."""
    confirm: Count = 1
    """Windows that a point needs before it is recommended; replays stand for a second one."""
    twin: TwinConfig = field(default_factory=TwinConfig)
    """The twin."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.storage:  # a window of another run has no traffic that could be replayed
            raise ConfigError(
                f"storage: {self.storage!r}: a study with a twin is shared with nobody"
            )
