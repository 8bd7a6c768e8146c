"""The budget of the twin: what replays between two windows may cost.

CPU seconds on a real engine, beside which the twin runs; simulated seconds where time is virtual,
so that a faster machine does not make another run.
"""

from __future__ import annotations

import math
import time

from agents.twin.config import TwinConfig
from agents.twin.replay import Replay, Result

_SIMULATED_S_PER_CPU_S = 60.0  # before any was measured
_BEST_SHARE = 0.6  # of a budget, for serving the best candidates everything


class Budget:
    """One budget after the other; `begin` starts the next.

    Args:
        config: of the twin.
        real: the task is on an engine on which a second takes a second.

    Attributes:
        spent_s: of this budget, in the seconds in which it counts.
        replays: paid for by it.
    """

    def __init__(self, config: TwinConfig, real: bool) -> None:
        self._real = real
        self._limit_s = config.cpu_s_per_window if real else config.simulated_s_per_window
        self._deadline_s = math.inf  # of the monotonic clock
        self._paid: set[str] = set()
        self._cpu_s, self._simulated_s = 1.0, _SIMULATED_S_PER_CPU_S  # of all replays so far
        self.spent_s, self.replays = 0.0, 0

    @property
    def left(self) -> bool:
        """Whether more may be replayed."""
        # Beside a busy server a CPU second takes longer: nobody waits more than if it did not.
        late = self._real and time.monotonic() > self._deadline_s
        return self.spent_s < self._limit_s and not late

    def begin(self) -> None:
        """Start anew, between two other windows."""
        self.spent_s, self.replays = 0.0, 0
        self._deadline_s = time.monotonic() + self._limit_s

    def share_s(self, candidates: int) -> float:
        """Simulated seconds of traffic that each of so many candidates can be served."""
        seconds = _BEST_SHARE * self._limit_s / candidates
        return seconds * self._simulated_s / self._cpu_s if self._real else seconds

    def pay(self, replay: Replay, result: Result | None) -> None:
        """Pay for a replay once, also where an earlier process had done it."""
        if result is None:
            if not self._real:  # else it would be asked for again, and again
                self.spent_s += replay.block.seconds
        elif replay.key not in self._paid:
            self._paid.add(replay.key)
            self.replays += 1
            self.spent_s += result.cpu_s if self._real else replay.block.seconds
            self._cpu_s += result.cpu_s
            self._simulated_s += replay.block.seconds
