"""Wall times of a run's windows: the only thing of a run that windows.jsonl does not hold.

timing.jsonl beside it has a line a window; a window that was killed before its line has none.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from agents.core.files import LineFile
from ewsjf_env.config import ConfigError, from_dict, to_dict
from ewsjf_env.measure.tags import tag

TIMING = "timing.jsonl"


@dataclass(frozen=True)
class Timing:
    """Wall time of a window.

    Attributes:
        ask_s: seconds in the agent's `act` and `recommend`.
        observe_s: seconds in its `observe`.
        window_wall_s: seconds that the window took.
        ended_at_s: when it ended, Unix time; None when nobody noted it.
    """

    ask_s: float = tag("time/ask_ms", scale=1000.0)
    observe_s: float = tag("time/observe_ms", scale=1000.0)
    window_wall_s: float = tag("time/window_s")
    ended_at_s: float | None = None

    @property
    def agent_s(self) -> float:
        """Seconds in the agent."""
        return self.ask_s + self.observe_s


class TimingLog:
    """timing.jsonl of a run; `known` are the times by window.

    Args:
        folder: of the run; exists.

    Raises:
        OSError: an old file cannot be read or mended.
    """

    def __init__(self, folder: Path) -> None:
        self._file = LineFile(folder / TIMING)
        self._file.mend()
        self.known = read_timings(folder)
        self._waiting: list[object] = []

    def add(self, window: int, timing: Timing) -> None:
        """Keep the times of a window.

        Raises:
            OSError: nothing was lost: the line waits for the next call.
        """
        self.known[window] = timing
        self._waiting.append({"window": window, **to_dict(timing)})
        self._file.append(*self._waiting)
        self._waiting.clear()


def read_timings(folder: Path) -> dict[int, Timing]:
    """Times by window; a damaged line tells none, of two of a window the later one counts."""
    found: dict[int, Timing] = {}
    for line in LineFile(folder / TIMING).lines():
        try:
            row = json.loads(line)
            window = row.pop("window")
            if isinstance(window, int) and isinstance(row, Mapping):
                found[window] = from_dict(Timing, row, TIMING)
        except (ValueError, KeyError, AttributeError, TypeError, RecursionError, ConfigError):
            continue
    return found
