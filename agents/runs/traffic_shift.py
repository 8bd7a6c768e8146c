"""Shifts of the traffic itself, after which a window must not be learnt from.

Each window gives two numbers, ln(arrival rate) and ln(mean prompt length).  Each is measured
against the windows since the last shift, in units of their spread, and the errors are watched by a
CUSUM.  A window that reveals a shift is void: half of that window may be old traffic.  After a
shift everything is forgotten, and the agents are told that older windows tell less.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import fmean, variance
from typing import Annotated, Any

from agents.bayes.cusum import Cusum
from ewsjf_env.config import NotNegative, Positive, Range, settings

_LARGEST_ERROR = 8.0  # standard deviations: more in one window would decide for many windows
_WATCHED = ("arrival_rate_per_s", "prompt_tokens_mean")


@settings
class ShiftSettings:
    """When traffic counts as shifted."""

    enabled: bool = True
    """Whether windows may be void."""
    least_change: NotNegative = 0.25
    """Changes of rate or mean length below this ratio - 1 are no shift."""
    threshold: Positive = 5.0
    """Sum of standardised errors beyond `slack` at which a shift is declared."""
    slack: NotNegative = 1.0
    """Standard deviations that are chance."""
    warmup_windows: Annotated[int, Range(2)] = 3
    """Windows after a start or shift that only teach the usual spread."""


class _Watch:
    """One number a window: its usual mean and spread, and a test for leaving them."""

    def __init__(self, settings: ShiftSettings) -> None:
        self._settings = settings
        self._usual: list[float] = []
        self._test = Cusum(settings.slack, settings.threshold, _LARGEST_ERROR)

    def leaves(self, x: float, sampling_sd: float) -> bool:
        """True when the number of this window reveals a shift."""
        seen, shifted = len(self._usual), False
        if seen >= self._settings.warmup_windows:
            mean = fmean(self._usual)
            spread = max(math.sqrt(variance(self._usual) * (1 + 1 / seen)), sampling_sd, 1e-9)
            large = abs(x - mean) > math.log1p(self._settings.least_change)
            shifted = self._test.add((x - mean) / spread) is not None and large
        self._usual.append(x)
        return shifted


class ShiftDetector:
    """Judges the traffic of one window after the other; a function of what it was shown."""

    def __init__(self, settings: ShiftSettings) -> None:
        self._settings = settings
        self.reset()

    def reset(self) -> None:
        """Forget the usual traffic, at a shift or at the start of another trace."""
        self._watches = {name: _Watch(self._settings) for name in _WATCHED}

    def shifted(self, traffic: Mapping[str, Any] | None, window_s: float) -> bool:
        """True when this window reveals a shift.

        Args:
            traffic: `TrafficStatistics.to_dict()` of the window; None teaches nothing.
            window_s: its length, > 0.
        """
        if not self._settings.enabled or traffic is None:
            return False
        arrivals = (traffic["arrival_rate_per_s"] or 0.0) * window_s
        if arrivals < 1 or not traffic["prompt_tokens_mean"]:
            return False
        # Of n arrivals ln(rate) has a sampling error of about 1/sqrt(n); lengths spread about
        # as widely as their mean, so that ln(mean length) has one of the same size.
        sampling_sd = 1.0 / math.sqrt(arrivals)
        left = [w.leaves(math.log(traffic[n]), sampling_sd) for n, w in self._watches.items()]
        if any(left):
            self.reset()
        return any(left)
