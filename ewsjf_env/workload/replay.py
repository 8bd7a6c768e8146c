"""The replay of a recorded trace as the traffic of one run, with its burst shape.

`TraceWorkload` takes a slice of the recording that starts at a random moment (rotating past
the end to the beginning) and stretches time to reach the asked mean rate: factor = mean rate of
the whole recording / asked rate.  Thinning would reach the rate too, but smooth the bursts.
`LengthsWorkload` is for sources without times: it draws lengths from the file and arrivals
from a law.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from ewsjf_env.config import ConfigError, check_range
from ewsjf_env.workload.arrivals import ArrivalLaw, RateProfile
from ewsjf_env.workload.columns import TraceTable
from ewsjf_env.workload.trace import (
    Floats,
    Ints,
    Trace,
    cap_prompts,
    check_count,
    check_draw,
    smaller_cap,
    streams,
)

MAX_JITTER_S = 3600.0


@dataclass(frozen=True, eq=False)
class TraceWorkload:
    """Replays a recording with arrival times; implements `Workload`.

    A draw longer than the (stretched) recording repeats it: `notes["trace_repeats"]` is the
    number of passes, 1 when no request is used twice.  Later passes get prefix block ids of
    their own, or the repetition itself would look like prefix hits.

    Attributes:
        name: what it is called in results.
        table: the recording; needs arrival times that are not all equal.
        rate_per_s: mean rate when a draw names none; None is the recording's own.
        jitter_s: uniform noise in [0, jitter_s) added to every recorded time, then sorted
            again; 3 undoes the rounding of Mooncake's time stamps to 3 s.
        max_prompt_tokens: its own limit; the stricter of it and the draw's holds.
        description: one sentence for people.
    """

    name: str
    table: TraceTable
    rate_per_s: float | None = None
    jitter_s: float = 0.0
    max_prompt_tokens: int | None = None
    description: str = ""

    def __post_init__(self) -> None:
        check_draw(0, self.max_prompt_tokens, rate_per_s=self.rate_per_s)
        check_range("jitter_s", self.jitter_s, 0.0, MAX_JITTER_S)
        times = self.table.arrival_s
        if times is None:
            raise ConfigError(f"{self.table.path}: arrival_s: the file has no arrival times")
        if not times[-1] > times[0]:
            raise ConfigError(
                f"{self.table.path}: arrival_s: {len(times)} requests at one time have no rate; "
                "expected two different times or more"
            )

    @property
    def period_s(self) -> float:
        """Length of one pass: recorded span plus one mean gap, so that repeating keeps the rate."""
        times = self._times
        return float(times[-1] - times[0]) * len(times) / (len(times) - 1)

    @property
    def native_rate_per_s(self) -> float:
        """Mean rate of the whole recording in requests per second."""
        return len(self.table) / self.period_s

    def repeats(self, duration_s: float, rate_per_s: float | None = None) -> int:
        """How often a draw goes through the recording, >= 1; above 1 requests occur again."""
        rate = float(rate_per_s or self.rate_per_s or self.native_rate_per_s)
        return max(1, math.ceil(duration_s * rate / self.native_rate_per_s / self.period_s))

    def draw(
        self,
        seed: int,
        duration_s: float,
        rate_per_s: float | None = None,
        max_prompt_tokens: int | None = None,
    ) -> Trace:
        """The requests of a slice, time stretched; see `Workload`.

        The mean rate is that of the whole recording: a slice has its own,
        `notes["achieved_rate_per_s"]`.

        Raises:
            ConfigError: an argument out of range, or a slice without any request.
        """
        check_draw(seed, max_prompt_tokens, duration_s=duration_s, rate_per_s=rate_per_s)
        rate = float(rate_per_s or self.rate_per_s or self.native_rate_per_s)
        check_count(rate * duration_s, f"{self.name}: rate_per_s x duration_s")
        stretch = self.native_rate_per_s / rate
        needed_s = float(duration_s) / stretch
        random = streams(seed)
        offset_s = float(random.arrivals.uniform(0.0, self.period_s))
        chosen, passes, moments = self._slice(offset_s, needed_s, random.noise)
        arrival_s = moments * stretch
        inside = arrival_s < duration_s
        chosen, passes, arrival_s = chosen[inside], passes[inside], arrival_s[inside]
        if not len(chosen):
            raise ConfigError(
                f"{self.name}: no request in the slice of duration_s {duration_s!r} at rate_per_s "
                f"{rate!r} (seed {seed}); raise one of them"
            )
        notes: dict[str, float | int | str] = {
            "time_stretch": stretch,
            "native_rate_per_s": self.native_rate_per_s,
            "requested_rate_per_s": rate,
            "achieved_rate_per_s": len(chosen) / duration_s,
            "trace_repeats": self.repeats(duration_s, rate),
            "trace_offset_s": offset_s,
            "jitter_s": self.jitter_s,
        }
        return self._trace(chosen, passes, arrival_s, max_prompt_tokens, notes)

    def draw_backlog(self, seed: int, count: int, max_prompt_tokens: int | None = None) -> Trace:
        """`count` requests at time 0; see `Workload`.

        Without prefix blocks they are a random sample of the whole recording, which has its
        mix exactly; with them a contiguous slice, because a sample would miss the requests that
        share a prefix.
        """
        check_draw(seed, max_prompt_tokens, count=count)
        check_count(count, "count")
        n, count, random = len(self.table), int(count), streams(seed).lengths
        if self.table.block_ids is None:
            full, rest = divmod(count, n)
            picked = np.sort(random.choice(n, size=rest, replace=False))
            order = np.concatenate([np.tile(np.arange(n), full), picked]).astype(np.int64)
            passes = np.zeros(count, dtype=np.int64)
        else:
            start = int(random.integers(n))
            order = (start + np.arange(count)) % n
            passes = np.arange(count, dtype=np.int64) // n
        notes: dict[str, float | int | str] = {"trace_repeats": max(1, math.ceil(count / n))}
        return self._trace(order, passes, np.zeros(count), max_prompt_tokens, notes)

    @property
    def _times(self) -> Floats:
        times = self.table.arrival_s
        if times is None:  # refused by __post_init__
            raise ConfigError(f"{self.table.path}: arrival_s: the file has no arrival times")
        return times

    def _slice(
        self, offset_s: float, needed_s: float, noise: np.random.Generator
    ) -> tuple[Ints, Ints, Floats]:
        """Row, pass and moment (s after the offset, ascending) of every request in `needed_s`."""
        times = self._times - self._times[0]
        if self.jitter_s:
            times = times + noise.uniform(0.0, self.jitter_s, len(times))
        moments = np.mod(times - offset_s, self.period_s)
        order = np.argsort(moments, kind="stable")
        moments = moments[order]
        repeats = math.ceil(needed_s / self.period_s)
        if repeats <= 1:
            count = int(np.searchsorted(moments, needed_s, side="left"))
            return order[:count], np.zeros(count, dtype=np.int64), moments[:count]
        passes = np.repeat(np.arange(repeats, dtype=np.int64), len(order))
        return (
            np.tile(order, repeats),
            passes,
            np.tile(moments, repeats) + passes * self.period_s,
        )

    def _trace(
        self,
        rows: Ints,
        passes: Ints,
        arrival_s: Floats,
        max_prompt_tokens: int | None,
        notes: Mapping[str, float | int | str],
    ) -> Trace:
        table = self.table
        block_ids = table.block_ids
        if block_ids is not None:
            beyond = 1 + max((max(ids) for ids in block_ids), default=0)
            pairs = zip(rows.tolist(), (passes * beyond).tolist(), strict=True)
            block_ids = tuple(
                tuple(i + shift for i in block_ids[row]) if shift else block_ids[row]
                for row, shift in pairs
            )
        limit = smaller_cap(self.max_prompt_tokens, max_prompt_tokens)
        prompt, block_ids, capped = cap_prompts(table.prompt_tokens[rows], block_ids, limit)
        return Trace(
            name=self.name,
            arrival_s=arrival_s,
            prompt_tokens=prompt,
            output_tokens=table.output_tokens[rows],
            priority=None if table.priority is None else table.priority[rows],
            block_ids=block_ids,
            notes={**_source_notes(table), **notes, **capped},
        )


@dataclass(frozen=True, eq=False)
class LengthsWorkload:
    """Lengths sampled with replacement from a file, arrivals from a law; a `Workload`.

    Attributes:
        name: what it is called in results.
        table: the file; its arrival times and prefix blocks, if any, are not used.
        rate_per_s: mean rate when a draw names none; None makes the draw's obligatory.
        arrivals: distribution of the gaps.
        max_prompt_tokens: its own limit; the stricter of it and the draw's holds.
        description: one sentence for people.
    """

    name: str
    table: TraceTable
    rate_per_s: float | None = None
    arrivals: ArrivalLaw = field(default_factory=ArrivalLaw)
    max_prompt_tokens: int | None = None
    description: str = ""

    def __post_init__(self) -> None:
        check_draw(0, self.max_prompt_tokens, rate_per_s=self.rate_per_s)

    def draw(
        self,
        seed: int,
        duration_s: float,
        rate_per_s: float | None = None,
        max_prompt_tokens: int | None = None,
    ) -> Trace:
        """Requests arriving in [0, duration_s); see `Workload`.

        Raises:
            ConfigError: an argument out of range, no rate at all, or no request arrives.
        """
        check_draw(seed, max_prompt_tokens, duration_s=duration_s, rate_per_s=rate_per_s)
        rate = rate_per_s or self.rate_per_s
        if rate is None:
            raise ConfigError(
                f"{self.name}: rate_per_s: {self.table.path} has no arrival times and so no rate "
                "of its own; give one in (0, inf) requests per second"
            )
        check_count(rate * duration_s, f"{self.name}: rate_per_s x duration_s")
        random = streams(seed)
        profile = RateProfile([0.0], [float(rate)], float(duration_s))
        arrival_s = profile.arrivals(self.arrivals, random.arrivals)
        if not len(arrival_s):
            raise ConfigError(
                f"{self.name}: no request arrives in duration_s {duration_s!r} at rate_per_s "
                f"{rate!r} (seed {seed}); raise one of them"
            )
        notes: dict[str, float | int | str] = {
            "requested_rate_per_s": float(rate),
            "achieved_rate_per_s": len(arrival_s) / duration_s,
        }
        return self._trace(arrival_s, random.lengths, max_prompt_tokens, notes)

    def draw_backlog(self, seed: int, count: int, max_prompt_tokens: int | None = None) -> Trace:
        """`count` requests at time 0; see `Workload`."""
        check_draw(seed, max_prompt_tokens, count=count)
        check_count(count, "count")
        return self._trace(np.zeros(int(count)), streams(seed).lengths, max_prompt_tokens, {})

    def _trace(
        self,
        arrival_s: Floats,
        random: np.random.Generator,
        max_prompt_tokens: int | None,
        notes: Mapping[str, float | int | str],
    ) -> Trace:
        table = self.table
        rows = (random.random(len(arrival_s)) * len(table)).astype(np.int64)
        limit = smaller_cap(self.max_prompt_tokens, max_prompt_tokens)
        prompt, _, capped = cap_prompts(table.prompt_tokens[rows], None, limit)
        return Trace(
            name=self.name,
            arrival_s=arrival_s,
            prompt_tokens=prompt,
            output_tokens=table.output_tokens[rows],
            priority=None if table.priority is None else table.priority[rows],
            notes={**_source_notes(table), **notes, **capped},
        )


def _source_notes(table: TraceTable) -> dict[str, float | int | str]:
    return {
        "source": table.path.name,
        "format": table.format,
        "skipped_failed": table.skipped_failed,
    }
