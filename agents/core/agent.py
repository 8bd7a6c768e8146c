"""The protocol of all tuners, and what one window teaches them.

The loop asks an agent for parameter values, runs one window under them and shows the agent
what came of it.  An agent is credited with the values that were really in force: a guard or a
server may have changed what it proposed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from agents.core.requests import RecordedTraffic
from ewsjf_env.config import ConfigError, check_range
from ewsjf_env.parameters import Value

CANDIDATE = "candidate"  # the role of a proposal that is tried for what it may be worth


@dataclass(frozen=True)
class Transition:
    """What one window taught.

    Attributes:
        window: number of the window in the run, from 0; an agent learns each number once.
        values: the parameter values in force.
        reward: larger is better; ignored (NaN allowed) when `void` or after a `failure`.
        reward_se: standard error of the reward, same unit, >= 0; 0 when unknown.
        margins: constraint name -> margin, feasible when <= 0.
        context: features of the window's traffic in [-1, 1].
        before: what `act` was given for this window; () when nothing is known of it.
        void: nothing can be learnt: nobody had to wait, or the traffic shifted meanwhile.
        shifted: it did: what was learnt before may not hold any more.
        failure: why the window produced no measurement at all, or None.
        ended: the episode's traffic ends here: the next window starts another trace.
        requests: those of the window, without text, for agents that ask for them.
        proposed: what the agent had proposed for the window, before a guard or the rounding of an
            action changed it; None: nobody has kept it, and the agent that is shown the window
            right after its own `act` knows by itself.
        role: what the agent had proposed it for, see `WithRole`.
    """

    window: int
    values: Mapping[str, Value]
    reward: float
    reward_se: float = 0.0
    margins: Mapping[str, float] = field(default_factory=dict)
    context: tuple[float, ...] = ()
    before: tuple[float, ...] = ()
    void: bool = False
    shifted: bool = False
    failure: str | None = None
    ended: bool = False
    requests: RecordedTraffic | None = None
    proposed: Mapping[str, Value] | None = None
    role: str = CANDIDATE

    def __post_init__(self) -> None:
        check_range("window", self.window, 0)
        check_range("reward_se", self.reward_se, 0.0)
        if self.measured and not math.isfinite(self.reward):
            raise ConfigError(f"reward: {self.reward!r} is not finite in a measured window")
        for name, margin in self.margins.items():
            if self.measured and math.isnan(margin):
                raise ConfigError(f"margins: {name}: not a number in a measured window")

    @property
    def measured(self) -> bool:
        """True when reward and margins can be learnt from."""
        return not self.void and self.failure is None


@runtime_checkable
class Agent(Protocol):
    """A tuner.

    Its state is a fold over the windows that it was shown, in their order: whoever shows an agent
    made anew all windows of a run has the agent of that run.  Whatever it draws is a function of
    its seed and of what it has observed.
    """

    @property
    def name(self) -> str:
        """Label of the arm in comparisons: the name in the registry."""
        ...

    @property
    def windows(self) -> int:
        """Number of windows observed so far, void and failed ones included."""
        ...

    def act(self, context: Sequence[float] = ()) -> dict[str, Value]:
        """Values to try in the next window, given the traffic's features in [-1, 1]."""
        ...

    def observe(self, transition: Transition) -> None:
        """Learn one window.

        A number that is known already is skipped.  A resumed run shows its whole log: what was
        proposed in another process stands in `transition.proposed` and `transition.role`.
        """
        ...

    def recommend(self, context: Sequence[float] | None = None) -> dict[str, Value]:
        """The best values known for a context; None: the context seen last."""
        ...

    def diagnostics(self) -> dict[str, float]:
        """Scalars about the last proposal, by TensorBoard tag; may be empty."""
        ...


@runtime_checkable
class WithRole(Protocol):
    """An agent that proposes for more than one purpose."""

    @property
    def role(self) -> str:
        """Of the last proposal: start, opening, confirm, control or candidate."""
        ...


@runtime_checkable
class WithHelpers(Protocol):
    """An agent with processes beside it."""

    def close(self) -> None:
        """End them; may be called more than once."""
        ...
