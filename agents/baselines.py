"""Agents without a model: the baselines that a tuner has to beat.

* `default`: the default values, always.
* `random`, `sobol`: points drawn without looking at results; they recommend the best mean.
* `best_static`: every point of a fixed list, then the best one for ever.  It is *offline*: a
  search that a live system would not survive, shown for comparison only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean
from typing import Literal

import numpy as np

from agents.core.agent import Transition
from agents.core.encoding import sobol_points
from ewsjf_env.config import Count, settings
from ewsjf_env.parameters import ParameterSpace, Value


@settings
class DefaultConfig:
    """The default values, always: what tuning has to beat.  Nothing to set."""


@settings
class DrawnConfig:
    """Points drawn without looking at the results."""

    draw: Literal["uniform", "sobol"] = "uniform"
    """How points are drawn: `uniform` (random search) or `sobol`."""


@settings
class BestStaticConfig:
    """Exhaustive offline search: the default and Sobol points in turn, then the best of them."""

    points: Count = 32
    """Sobol points beside the default."""
    repeats: Count = 1
    """Windows for each point."""


class Memory:
    """What the baselines share: they remember windows and recommend the best mean reward."""

    def __init__(self, name: str, space: ParameterSpace, seed: int = 0) -> None:
        self.name = name
        self._space = space
        self._seed = seed
        self._transitions: dict[int, Transition] = {}

    @property
    def windows(self) -> int:
        """Number of windows observed, void and failed ones included."""
        return len(self._transitions)

    @property
    def _learnt(self) -> list[Transition]:
        return [t for t in self._transitions.values() if not t.void]

    def observe(self, transition: Transition) -> None:
        """Remember one window; one that is known already is skipped."""
        self._space.validate(transition.values, f"window {transition.window}")
        self._transitions.setdefault(transition.window, transition)

    def recommend(self, context: Sequence[float] | None = None) -> dict[str, Value]:
        """The point of the best mean reward among those feasible on average; else the default."""
        rewards: dict[tuple[Value, ...], list[float]] = {}
        margins: dict[tuple[Value, ...], list[float]] = {}
        for t in self._learnt:
            point = tuple(self._space.validate(t.values).values())
            # A failed window is as bad as can be, however good the others at its point were.
            rewards.setdefault(point, []).append(t.reward if t.measured else -math.inf)
            if t.measured:
                margins.setdefault(point, []).append(max(t.margins.values(), default=0.0))
        feasible = {
            point: fmean(found)
            for point, found in rewards.items()
            if point in margins and fmean(margins[point]) <= 0.0 and -math.inf not in found
        }
        if not feasible:
            return self._space.defaults
        best = max(feasible, key=lambda point: feasible[point])
        return dict(zip(self._space.names, best, strict=True))

    def diagnostics(self) -> dict[str, float]:
        """Nothing to say."""
        return {}


class DefaultAgent(Memory):
    """The default values, always."""

    def act(self, context: Sequence[float] = ()) -> dict[str, Value]:
        """The defaults."""
        return self._space.defaults

    def recommend(self, context: Sequence[float] | None = None) -> dict[str, Value]:
        """The defaults."""
        return self._space.defaults


class DrawnAgent(Memory):
    """Uniform or Sobol points, a function of the seed and the number of windows that count."""

    def __init__(
        self, name: str, space: ParameterSpace, config: DrawnConfig, seed: int = 0
    ) -> None:
        super().__init__(name, space, seed)
        self._config = config

    def act(self, context: Sequence[float] = ()) -> dict[str, Value]:
        """The next point; the first window runs the defaults, as those of all tuners do."""
        drawn = len(self._learnt)
        if drawn == 0:
            return self._space.defaults
        if self._config.draw == "sobol":
            return self._space.from_unit(sobol_points(len(self._space), drawn, self._seed)[-1])
        random = np.random.default_rng([self._seed, drawn])
        return self._space.from_unit(random.random(len(self._space)))


class BestStaticAgent(Memory):
    """Each of a fixed list of points some times, then the best of them for ever."""

    def __init__(
        self, name: str, space: ParameterSpace, config: BestStaticConfig, seed: int = 0
    ) -> None:
        super().__init__(name, space, seed)
        self._repeats = config.repeats
        points = sobol_points(len(space), config.points, seed)
        self._points = [space.defaults, *(space.from_unit(point) for point in points)]

    def act(self, context: Sequence[float] = ()) -> dict[str, Value]:
        """The next point of the list, or the best one once all were measured."""
        measured = len(self._learnt)
        if measured >= len(self._points) * self._repeats:
            return self.recommend()
        # Point by point would tie each to one stretch of traffic; round by round does not.
        return dict(self._points[measured % len(self._points)])
