"""Arrival laws: Poisson or bursty, at a rate that may jump.

Arrivals are a stationary renewal process in *operational time* (unit rate), mapped to seconds
through the cumulative rate.  One seed therefore gives the same pattern at every rate, only
stretched: loads are compared on common random numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np

from ewsjf_env.config import ConfigError, Range, settings
from ewsjf_env.workload.trace import Floats

_CHUNK = 1024
_BURN_IN_GAPS = 20.0


@settings
class ArrivalLaw:
    """Distribution of the gaps between arrivals."""

    kind: Literal["poisson", "gamma"] = "poisson"
    """Exponential gaps, of coefficient of variation 1, or Gamma gaps."""
    cv: Annotated[float, Range(0.05, 20.0)] | None = None
    """Of `gamma`: standard deviation of the gaps over their mean; above 1 is bursty (2 to 4 is
    what production traffic shows), below 1 is regular.
    """

    def __post_init__(self) -> None:
        if self.kind == "gamma" and self.cv is None:
            raise ConfigError("cv: missing, gamma arrivals need it")
        if self.kind == "poisson" and self.cv is not None:
            raise ConfigError(f"cv: {self.cv!r} has no meaning for poisson arrivals; use gamma")

    def unit_times(self, random: np.random.Generator, length: float) -> Floats:
        """Arrivals of a stationary process with unit rate in [0, length), ascending.

        A process that starts with a fresh gap at 0 is not stationary: with CV 3 it brings four
        requests too many, with CV 0.1 always the same first one.  A burn-in before 0 is drawn
        and dropped instead.
        """
        cv = self.cv or 1.0
        shape = cv**-2
        moment = -_BURN_IN_GAPS * max(cv, 1.0 / cv) ** 2
        parts: list[Floats] = []
        while moment < length:
            gaps = random.gamma(shape, 1.0 / shape, _CHUNK)
            times = moment + np.cumsum(gaps)
            moment = float(times[-1])
            parts.append(times)
        times = np.concatenate(parts) if parts else np.empty(0)
        return times[(times >= 0) & (times < length)]


@dataclass(frozen=True)
class RateProfile:
    """A rate that is constant in pieces of positive width.

    Attributes:
        starts_s: ascending starts of the pieces in seconds, the first one 0.
        rates_per_s: arrivals per second in each piece, > 0.
        duration_s: end of the last piece.
    """

    starts_s: Sequence[float]
    rates_per_s: Sequence[float]
    duration_s: float

    def arrivals(self, law: ArrivalLaw, random: np.random.Generator) -> Floats:
        """Arrival times in [0, duration_s), ascending, in seconds."""
        edges = np.array([*self.starts_s, self.duration_s], dtype=np.float64)
        cumulative = np.concatenate(([0.0], np.cumsum(np.diff(edges) * self.rates_per_s)))
        unit = law.unit_times(random, float(cumulative[-1]))
        piece = np.searchsorted(cumulative, unit, side="right") - 1
        rates = np.asarray(self.rates_per_s, dtype=np.float64)[piece]
        times: Floats = edges[piece] + (unit - cumulative[piece]) / rates
        # rounding may put the last arrival of the window on its end
        last: Floats = np.minimum(times, np.nextafter(self.duration_s, 0.0))
        return last
