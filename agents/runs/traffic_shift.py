"""Has the traffic itself shifted, so that a window must not be learnt from?

Each window gives two numbers, ln(arrival rate) and ln(mean prompt length).  Each is measured
against the windows since the last shift, in units of their spread, and what comes out is watched
by river's Page-Hinkley test.  A window that reveals a shift is void: half of it may be old
traffic.  After it everything is forgotten, and the agents are told that older windows tell less.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any

from river.drift import PageHinkley
from river.stats import Mean, Var

from ewsjf_env.config import (
    NotNegative,
    Positive,
    Range,
    settings,
)

_MOST = 8.0  # one wild window must not decide all by itself for many windows
# The test measures errors against their own mean.  Ours is 0 by construction, and without such a
# prior the first error after a few usual windows would be taken for half of the mean.
_USUAL_ERRORS = 20
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
        self._mean, self._variance = Mean(), Var()
        self._test = PageHinkley(
            min_instances=1, delta=settings.slack, threshold=settings.threshold, alpha=1.0
        )
        for _ in range(_USUAL_ERRORS):
            self._test.update(0.0)

    def leaves(self, x: float, sampling_sd: float) -> bool:
        seen = self._mean.n
        shifted = False
        if seen >= self._settings.warmup_windows:
            spread = math.sqrt(max(self._variance.get() * (1 + 1 / seen), sampling_sd**2))
            error = (x - self._mean.get()) / max(spread, 1e-9)
            self._test.update(max(-_MOST, min(_MOST, error)))
            large = abs(x - self._mean.get()) > math.log1p(self._settings.least_change)
            shifted = self._test.drift_detected and large
        self._mean.update(x)
        self._variance.update(x)
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
