"""What is the next window of a tuning run for?

`startup`, `confirm`, `control` or `search`, by how many windows there have been of each, see
`bayesian`.  A window that another process served is `replayed` until its role is worked out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from optuna.trial import FrozenTrial

from agents.bayes.config import StudyConfig
from agents.bayes.study import KILLED
from agents.bayes.trials import BREACHED, IGNORED, ROLE, SHARED, counted


class Roles:
    """Roles of a run's own windows.

    Args:
        config: how many start-up points there are, and how often the incumbent is measured again.
        trials: of a study, oldest first; windows of other runs are left out.

    Attributes:
        counted: how many windows count, void ones not.
        breached: the last window left a queue behind, and the incumbent has to clear up.
    """

    def __init__(self, config: StudyConfig, trials: Sequence[FrozenTrial]) -> None:
        self._config = config
        own = [t for t in trials if SHARED not in t.user_attrs]
        windows = counted(own)
        self._of = Counter(t.user_attrs.get(ROLE) for t in windows)
        self._last = windows[-1].user_attrs.get(ROLE) if windows else None
        self.counted = len(windows)
        # A window that is void may have left a queue, too; one that was killed comes again.
        left = [t for t in own if BREACHED in t.user_attrs and t.user_attrs.get(IGNORED) != KILLED]
        self.breached = bool(left and left[-1].user_attrs[BREACHED])

    @property
    def startup(self) -> int:
        """How many windows a run begins with, that of the incumbent included."""
        return 1 + self._config.startup_points

    @property
    def started(self) -> int:
        """How many of them there have been."""
        return self._of["startup"]

    def add(self, role: str, *, void: bool, breached: bool) -> None:
        """Count a window."""
        self.breached = breached
        if not void:
            self._of[role] += 1
            self._last = role
            self.counted += 1

    def next(self, shared: int, untried: Callable[[], bool], challenged: Callable[[], bool]) -> str:
        """Role of the next window.

        Args:
            shared: how many windows of other runs are known: what others have measured need not
                be scanned once more; our own incumbent does.
            untried: whether a point that is known to do well elsewhere was tried by nobody yet;
                all of them are, before the best one is tried again.
            challenged: whether something looks better than what is recommended.
        """
        if self.counted == 0:
            return "startup"
        opening = self.started + shared < self.startup
        if self.started < self.startup and untried():
            return "startup"
        clear_up = self.breached and self._config.recover and not opening
        # Not twice in a row: a guard that lets another point run would make it go on for ever.
        if not clear_up and self._last != "confirm" and challenged():
            return "confirm"
        if opening:
            return "startup"
        if clear_up:
            return "control"
        every, past = self._config.control_every, self._of["search"] + self._of["control"]
        return "control" if every and past % every == every - 1 else "search"
