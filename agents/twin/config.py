"""Settings of the digital twin, and of the agent upon it."""

from __future__ import annotations

from dataclasses import dataclass, field

from agents.bayes.config import StudyConfig
from ewsjf_env.config import ConfigError, check_range


@dataclass(frozen=True)
class TwinConfig:
    """The twin: recent windows, served again by the simulated engine under other policies.

    Attributes:
        jobs: processes that replay, beside the tuner's own, >= 0; 0: none, replays run in it.
        cpu_s_per_window: CPU seconds of replays between two windows, > 0, on an engine where a
            second takes a second.
        simulated_s_per_window: the same in simulated seconds, > 0, where time is virtual: a
            faster machine must not make another run of it.  One core does about 80 a second.
        recorded_windows: the newest windows that are replayed, >= 1.
        block_windows: windows of an episode that are served together from an empty engine, >= 1.
        drawn_blocks: blocks of traffic drawn from the recorded windows, >= 0.
        candidates: points that the twin looks at first, round the known ones, >= 0.
        radius: so near, in every coordinate of the unit cube, (0, 1].
        theory: so does the point of queueing theory, of the task's own traffic and machine.
        rounds: proposals of the twin's own model between two windows, >= 0.
        finalists: best points that are served all blocks, >= 1.
        trust: how sure one is beforehand that a gain in the twin is one on the machine: standard
            deviation of the factor between them round 1, > 0.
        least_trust: below this factor the agent goes on as without a twin, [0, 1].
        fit_speed: how fast the machine is, compared with the latency model, is fitted to the
            latencies measured.
        fit_error: the speed is fitted anew when latencies are further off than this, > 0
            (0.1: 10 %).
        step_log: of the server's `StepLogScheduler`, a file on this machine: the latency model is
            fitted to its steps, anew when there are half as many more; empty: none.
        latency_error: the latency model is wrong on purpose: its coefficients are multiplied by
            factors between 1 - this and 1 + this, drawn by the run's seed, [0, 0.9]; for studies.
    """

    jobs: int = 1
    cpu_s_per_window: float = 30.0
    simulated_s_per_window: float = 2400.0
    recorded_windows: int = 6
    block_windows: int = 3
    drawn_blocks: int = 4
    candidates: int = 8
    radius: float = 0.2
    theory: bool = True
    rounds: int = 6
    finalists: int = 4
    trust: float = 0.35
    least_trust: float = 0.3
    fit_speed: bool = True
    fit_error: float = 0.1
    step_log: str = ""
    latency_error: float = 0.0

    def __post_init__(self) -> None:
        check_range("jobs", self.jobs, 0, 256)
        check_range("cpu_s_per_window", self.cpu_s_per_window, 0.0, low_open=True)
        check_range("simulated_s_per_window", self.simulated_s_per_window, 0.0, low_open=True)
        check_range("recorded_windows", self.recorded_windows, 1)
        check_range("block_windows", self.block_windows, 1)
        check_range("drawn_blocks", self.drawn_blocks, 0)
        check_range("candidates", self.candidates, 0)
        check_range("radius", self.radius, 0.0, 1.0, low_open=True)
        check_range("rounds", self.rounds, 0)
        check_range("finalists", self.finalists, 1)
        check_range("trust", self.trust, 0.0, low_open=True)
        check_range("least_trust", self.least_trust, 0.0, 1.0)
        check_range("fit_error", self.fit_error, 0.0, low_open=True)
        check_range("latency_error", self.latency_error, 0.0, 0.9)


@dataclass(frozen=True)
class TwinStudyConfig(StudyConfig):
    """An agent on an Optuna study whose model knows what a twin says.

    Attributes:
        twin: the twin.
    """

    startup_points: int = 0  # the twin's candidates take their place
    confirm: int = 1  # and its replays that of a second window
    twin: TwinConfig = field(default_factory=TwinConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.storage:  # a window of another run has no traffic that could be replayed
            raise ConfigError(
                f"storage: {self.storage!r}: a study with a twin is shared with nobody"
            )
