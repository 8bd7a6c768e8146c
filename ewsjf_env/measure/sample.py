"""What the metrics of a window are measured on: samples of waits, slowdowns and so on.

Words: TTFT is first token minus arrival; TPOT is (finish - first token) / (tokens - 1);
E2E is finish minus arrival; slowdown is TTFT / C(b), C(b) the prefill time alone on the
machine; short and long are classes by prompt tokens (`MetricSettings`).

A request without a first token enters every statistic of waits with its age so far, because a
scheduler that starves long requests must not look excellent.  One that was aborted does so with
the age that it had then: whose victims give up must not look better.  One that the server rejected
at its door has waited for nothing: it is counted, and in no statistic of waits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ewsjf_env.config import ConfigError, Count, Positive, settings
from ewsjf_env.measure.requests import Floats, Requests

Mask = NDArray[np.bool_]


@settings
class MetricSettings:
    """Class limits and service levels."""

    short_max_tokens: Count = 512
    """A request is short up to so many prompt tokens."""
    long_min_tokens: Count = 1024
    """A request is long above so many prompt tokens."""
    ttft_slo_s: Positive = 5.0
    """Time to first token up to which a finished request is good, seconds."""
    tpot_slo_s: Positive = 0.2
    """Time per further token up to which a finished request is good, seconds."""
    overdue_floor_s: Positive = 10.0
    """A wait below this is never overdue, seconds."""
    overdue_cost_factor: Positive = 60.0
    """A wait is overdue above so many times the request's own prefill cost C(b)."""

    def __post_init__(self) -> None:
        if self.long_min_tokens < self.short_max_tokens:
            raise ConfigError(
                f"long_min_tokens: {self.long_min_tokens} is below short_max_tokens "
                f"({self.short_max_tokens}): the classes would overlap"
            )


@dataclass(frozen=True)
class WindowCounters:
    """What the engine counts while a window runs and cannot be read off the requests.

    `scheduler_us_per_step` is wall time and therefore not reproducible; it is None where a
    run must be repeatable to the bit.
    """

    output_tokens: int
    prefill_tokens: int
    preemptions: int = 0
    kv_usage_mean: float = math.nan
    prefix_hit_rate: float = math.nan
    queues: int = 1
    scheduler_us_per_step: float | None = None


class Values:
    """Numbers of some requests, (n,), sorted once for all their percentiles."""

    def __init__(self, array: Floats) -> None:
        self.array = array

    @cached_property
    def _ascending(self) -> Floats:
        return np.sort(self.array)

    @cached_property
    def mean(self) -> float:
        """Their mean; NaN for no values."""
        return float(self.array.mean()) if len(self.array) else math.nan

    @property
    def largest(self) -> float:
        """The largest; NaN for no values."""
        return float(self._ascending[-1]) if len(self.array) else math.nan

    def percentile(self, q: float) -> float:
        """Their q-th percentile, q in [0, 100], as `numpy.percentile`; NaN for no values."""
        last = len(self.array) - 1
        if last < 0:
            return math.nan
        place = last * (q / 100)
        below = int(place)
        part = place - below
        low = float(self._ascending[below])
        high = float(self._ascending[min(below + 1, last)])
        step = high - low
        return low + step * part if part < 0.5 else high - step * (1 - part)


class Sample:
    """The requests that waited in a window, and those that finished in it.

    Each part is worked out when a metric asks for it.
    """

    def __init__(
        self,
        requests: Requests,
        counters: WindowCounters,
        start_s: float,
        end_s: float,
        settings: MetricSettings,
    ) -> None:
        """See `records.measure_window`."""
        self.counters = counters
        self.window_s = end_s - start_s
        self._all, self._start_s, self._end_s = requests, start_s, end_s
        self._settings = settings

    # NaN stands for what has not happened: it is not before any moment.

    @cached_property
    def _arrived(self) -> Mask:
        found: Mask = self._all.arrival_s >= self._start_s
        return found

    @cached_property
    def _ended(self) -> Mask:
        """In the window, in any way."""
        finish_s = self._all.finish_s
        found: Mask = (finish_s >= self._start_s) & (finish_s < self._end_s)
        return found

    @cached_property
    def _finished(self) -> Mask:
        return self._ended if self._all.outcome is None else self._ended & self._all.served

    @cached_property
    def _unfinished(self) -> Mask:
        found: Mask = ~(self._all.finish_s < self._end_s)
        return found

    @cached_property
    def _spread_s(self) -> Floats:
        """Seconds a token after the first, of ended requests; NaN where there is none."""
        r = self._all
        several = self._ended & (r.generated_tokens >= 2)
        return np.where(
            several, (r.finish_s - r.first_token_s) / np.maximum(r.generated_tokens - 1, 1), np.nan
        )

    @cached_property
    def _waiting(self) -> Mask:
        """Those that waited in the window: n."""
        found: Mask = self._arrived | ~(self._all.first_token_s < self._start_s)
        return found if self._all.outcome is None else found & ~self._all.rejected

    @cached_property
    def _prompt_tokens(self) -> NDArray[np.int64]:
        return self._all.prompt_tokens[self._waiting]

    @cached_property
    def _cost_s(self) -> Floats:
        return self._all.cost_s[self._waiting]

    @cached_property
    def _short(self) -> Mask:
        found: Mask = self._prompt_tokens <= self._settings.short_max_tokens
        return found

    @cached_property
    def _long(self) -> Mask:
        found: Mask = self._prompt_tokens > self._settings.long_min_tokens
        return found

    # -- what metrics are made of --------------------------------------------------------------

    @property
    def arrivals(self) -> int:
        """Requests that arrived in the window."""
        return int(np.count_nonzero(self._arrived))

    @cached_property
    def finished(self) -> int:
        """Requests that finished in the window."""
        return int(np.count_nonzero(self._finished))

    @property
    def aborted(self) -> int:
        """Requests that were given up in the window."""
        return int(np.count_nonzero(self._ended & self._all.aborted))

    @property
    def rejected(self) -> int:
        """Requests that the server did not take in, in the window."""
        return int(np.count_nonzero(self._ended & self._all.rejected))

    @property
    def unfinished(self) -> int:
        """Requests that had not ended at its end."""
        return int(np.count_nonzero(self._unfinished))

    @property
    def good(self) -> int:
        """Finished requests within their service levels."""
        r, limit = self._all, self._settings
        within = self._finished & (r.first_token_s - r.arrival_s <= limit.ttft_slo_s)
        return int(np.count_nonzero(within & ~(self._spread_s > limit.tpot_slo_s)))

    @cached_property
    def ttft(self) -> Values:
        """Seconds to the first token, or the age so far, of those that waited."""
        r, waiting = self._all, self._waiting
        first_s = r.first_token_s[waiting]
        # Who left without a first token has the age of that moment.
        first_s = np.where(np.isnan(first_s), r.finish_s[waiting], first_s)
        ends_s = np.where(first_s < self._end_s, first_s, self._end_s)
        return Values(ends_s - r.arrival_s[waiting])

    @cached_property
    def ttft_short(self) -> Values:
        """The same of short requests."""
        return Values(self.ttft.array[self._short])

    @cached_property
    def ttft_long(self) -> Values:
        """The same of long requests."""
        return Values(self.ttft.array[self._long])

    @cached_property
    def slowdown(self) -> Values:
        """The same over C(b)."""
        return Values(self.ttft.array / self._cost_s)

    @cached_property
    def slowdown_long(self) -> Values:
        """Slowdowns of long requests."""
        return Values(self.slowdown.array[self._long])

    @property
    def class_slowdowns(self) -> list[float]:
        """Means of short, middle and long requests, where there are any."""
        classes = (self._short, ~(self._short | self._long), self._long)
        return [float(self.slowdown.array[c].mean()) for c in classes if c.any()]

    @property
    def overdue_share(self) -> float:
        """Share of those that waited beyond what is overdue; NaN for nobody."""
        limit = self._settings
        due_s = np.maximum(limit.overdue_floor_s, limit.overdue_cost_factor * self._cost_s)
        return float((self.ttft.array > due_s).mean()) if len(due_s) else math.nan

    @cached_property
    def tpot(self) -> Values:
        """Seconds a token after the first, of ended requests that have several."""
        return Values(self._spread_s[~np.isnan(self._spread_s)])

    @cached_property
    def e2e(self) -> Values:
        """Seconds to the end, or the age so far, of ended and unfinished requests."""
        r = self._all
        ended = self._ended if r.outcome is None else self._ended & ~r.rejected
        ended_s = r.finish_s[ended] - r.arrival_s[ended]
        return Values(np.concatenate((ended_s, self._end_s - r.arrival_s[self._unfinished])))


def jain(values: Sequence[float]) -> float:
    """Jain's fairness index (sum x)^2 / (n sum x^2) in (0, 1]; NaN for no values."""
    total, squares = sum(values), sum(v * v for v in values)
    return total * total / (len(values) * squares) if squares > 0 else math.nan
