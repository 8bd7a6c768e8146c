"""What does an agent on a study try before its model proposes?

First the points that the setting `start` names (see `known_points`), then Sobol points near the
incumbent, which differ from it in the parameters that are not minor.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from agents.bayes.config import Start, StudyConfig
from agents.core.encoding import Encoding
from ewsjf_env.config import ConfigError
from ewsjf_env.parameters import ParameterSpace, Value

Named = Callable[[Start], Sequence[Mapping[str, Value]]]
"""The setting `start` -> values to begin with, the same every time."""


class Opening:
    """The start-up points of a run.

    Args:
        space: what is tuned; its defaults are the incumbent.
        encoding: of the same space.
        config: how many, and of what kind.
        seed: of the Sobol points.
        named: None: there is no task to know any points of.
    """

    def __init__(
        self,
        space: ParameterSpace,
        encoding: Encoding,
        config: StudyConfig,
        seed: int,
        named: Named | None,
    ) -> None:
        self._space, self._encoding, self._config = space, encoding, config
        self._seed, self._named = seed, named
        self._first: list[dict[str, Value]] | None = None

    @property
    def named(self) -> list[dict[str, Value]]:
        """The named points, without the incumbent, which needs no second look.

        Raises:
            ConfigError: theory is asked, and there is no task to think about.
        """
        if self._first is None:  # theory takes seconds: it is asked when it is needed
            start = self._config.start
            if self._named is None and start == "analytic":
                raise ConfigError("start: analytic: no task to think about")
            found = [] if self._named is None else self._named(start)
            legal = [self._space.validate(values) for values in found]
            self._first = [values for values in legal if values != self._space.defaults]
        return self._first

    def near(self, index: int) -> dict[str, Value]:
        """The Sobol point that is start-up point `index`, from 0."""
        config = self._config
        points = self._encoding.start_points(
            config.startup_points,
            self._encoding.to_point(self._space.defaults),
            config.startup_radius,
            self._seed,
        )
        return self._space.validate(self._encoding.to_values(points[index]))
