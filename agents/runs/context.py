"""The view that an agent gets of the windows so far.

An agent with a context sees features of the traffic, each the median of the last few windows:
what a single window shows is mostly chance, and tells little of the next one.  RL agents see the
whole last observation; what to make of it is theirs to learn.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from statistics import median

from agents.core.registry import find_agent
from agents.runs.config import RunConfig


class Smoother:
    """The view of one run's agent, window by window.

    Args:
        config: of the run: what the agent sees, and over how many windows.
        names: of the observation's entries.
    """

    def __init__(self, config: RunConfig, names: Sequence[str]) -> None:
        whole = find_agent(config.agent).sees == "observation"
        self._columns = [list(names).index(name) for name in config.sees]
        self._windows: deque[list[float]] = deque(maxlen=1 if whole else config.context_windows)

    def reset(self) -> None:
        """Forget all windows: the traffic has shifted, or another trace begins."""
        self._windows.clear()

    def add(self, observation: Sequence[float]) -> None:
        """Note what a window looked like."""
        self._windows.append([float(observation[column]) for column in self._columns])

    @property
    def view(self) -> tuple[float, ...]:
        """What the agent is given now; needs a window."""
        return tuple(median(column) for column in zip(*self._windows, strict=True))
