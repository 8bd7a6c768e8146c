"""The phases of a tuning run: what each window is for, and the points that a run opens with.

A window is the `start` (the incumbent, measured first), an `opening` (a point that is known to do
well elsewhere, or a Sobol point near the incumbent), a `confirm` (what looks better than what is
recommended, tried again), a `control` (the incumbent, measured again) or a `candidate` (what the
sampler proposes).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from agents.bayes.config import StudyConfig
from agents.core.agent import CANDIDATE
from agents.core.encoding import Encoding
from ewsjf_env.config import ConfigError
from ewsjf_env.env.task import Task
from ewsjf_env.parameters import ParameterSpace, Value
from ewsjf_env.policy.policy import Policy, parse_policy

START, OPENING, CONFIRM, CONTROL = "start", "opening", "confirm", "control"
Points = list[dict[str, Value]]


def _policy(text: str) -> Callable[[Task], Points]:
    def points(task: Task) -> Points:
        known: Policy = parse_policy(text)
        if known.order != task.start_policy().order:
            return []
        return [{name: known.parameters[name] for name in task.space().names}]

    return points


KNOWN: Mapping[str, Callable[[Task], Points]] = {
    "shipped": _policy("ewsjf"),
    # Half of the budget did least harm on an H200, a quarter is what training chose for most of the
    # shared traffic (README).  To a task that does not tune the share both are one.
    "half": _policy("ewsjf(prefill_share=0.5;yield_share=0.9)"),
    "quarter": _policy("ewsjf(prefill_share=0.25;yield_share=0.9)"),
}


def known_points(task: Task) -> Points:
    """Points that did well on other traffic, each once, the task's own start first.

    A source that knows no legal point of the task's space gives none.
    """
    space: ParameterSpace = task.space()
    points: Points = [space.defaults]
    for source in KNOWN.values():
        for point in source(task):
            try:
                values: dict[str, Any] = space.validate(point)
            except ConfigError:
                continue
            if values not in points:
                points.append(values)
    return points


class Opening:
    """Points that a run opens with: known ones, then Sobol points near the incumbent.

    The Sobol points differ from the incumbent in the parameters that are not minor.

    Args:
        space: what is tuned; its defaults are the incumbent.
        encoding: of the same space.
        config: how many points, and of what kind.
        seed: of the Sobol points.
        known: points that did well on other traffic, the best first; used with `start: known`.
    """

    def __init__(
        self,
        space: ParameterSpace,
        encoding: Encoding,
        config: StudyConfig,
        seed: int,
        known: Sequence[Mapping[str, Value]],
    ) -> None:
        self._space, self._encoding, self._config, self._seed = space, encoding, config, seed
        points = [space.validate(values) for values in known] if config.start == "known" else []
        # The incumbent needs no second look.
        self._known = [values for values in points if values != space.defaults]

    def untried(self, tried: Sequence[Mapping[str, Value]]) -> list[dict[str, Value]]:
        """The known points that are not among those tried."""
        same = self._encoding.is_same
        return [v for v in self._known if not any(same(v, other) for other in tried)]

    def near(self, index: int) -> dict[str, Value]:
        """The Sobol point that is opening point `index`, from 0."""
        config = self._config
        points = self._encoding.start_points(
            config.startup_points,
            self._encoding.to_point(self._space.defaults),
            config.startup_radius,
            self._seed,
        )
        return self._space.validate(self._encoding.to_values(points[index]))


class Phases:
    """Roles of a run's own windows: a fold over them.

    Args:
        config: how many opening points there are, and how often the incumbent is measured again.

    Attributes:
        counted: how many windows count; void ones do not.
        breached: the last window left a queue behind, and the incumbent has to clear up.
        refused: known points, or points to be confirmed, in whose place a guard let others run.
    """

    def __init__(self, config: StudyConfig) -> None:
        self._config = config
        self._windows: Counter[str] = Counter()  # that count, by role
        self._last_role: str | None = None
        self.counted = 0
        self.breached = False
        self.refused: list[dict[str, Value]] = []

    @property
    def opening_windows(self) -> int:
        """How many windows a run begins with, that of the incumbent included."""
        return 1 + self._config.startup_points

    @property
    def opened(self) -> int:
        """How many of the opening windows there have been."""
        return self._windows[START] + self._windows[OPENING]

    def add(self, role: str, *, void: bool, breached: bool) -> None:
        """Take a window in.  One that is void may have left a queue, too."""
        self.breached = breached
        if not void:
            self._windows[role] += 1
            self._last_role = role
            self.counted += 1

    def next(
        self, shared: int, is_untried: Callable[[], bool], is_challenged: Callable[[], bool]
    ) -> str:
        """Role of the next window.

        Args:
            shared: how many windows of other runs are known: what others have measured need not
                be scanned once more; our own incumbent does.
            is_untried: whether a point that is known to do well elsewhere was tried by nobody
                yet; all of them are, before the best one is tried again.
            is_challenged: whether something looks better than what is recommended.
        """
        if self.counted == 0:
            return START
        opening = self.opened + shared < self.opening_windows
        if self.opened < self.opening_windows and is_untried():
            return OPENING
        clear_up = self.breached and self._config.recover and not opening
        # Not twice in a row: a guard that lets another point run would make it go on for ever.
        if not clear_up and self._last_role != CONFIRM and is_challenged():
            return CONFIRM
        if opening:
            return OPENING
        if clear_up:
            return CONTROL
        every, past = self._config.control_every, self._windows[CANDIDATE] + self._windows[CONTROL]
        return CONTROL if every and past % every == every - 1 else CANDIDATE
