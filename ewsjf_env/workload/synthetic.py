"""Synthetic traffic: classes of requests, mixed in shares that may jump.

Mixtures with a share of short and of long requests are the case EWSJF is made for; phases
whose mix shifts are the case for adaptation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Annotated

import numpy as np

from ewsjf_env.config import ConfigError, Count, NotNegative, Positive, Range, nearest, settings
from ewsjf_env.workload.arrivals import ArrivalLaw, RateProfile
from ewsjf_env.workload.lengths import LengthLaw
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


@settings
class RequestClass:
    """Requests of one kind."""

    name: str
    """What phases call the class."""
    share: NotNegative
    """Its share of all requests; shares are divided by their sum."""
    prompt: LengthLaw
    """Distribution of prompt lengths."""
    output: LengthLaw
    """Distribution of output lengths, independent of the prompt's."""
    priority: Annotated[int, Range(-(2**31), 2**31 - 1)] | None = None
    """vLLM's priority, lower is more urgent; null: none."""


@settings
class Phase:
    """From `start` on, other shares or another rate hold."""

    start_s: NotNegative | None = None
    """Start in seconds; give this or `start_fraction`."""
    start_fraction: Annotated[float, Range(0.0, np.nextafter(1.0, 0.0))] | None = None
    """Start as a fraction of the drawn duration."""
    shares: Mapping[str, NotNegative] = field(default_factory=dict)
    """Share of each class in this phase (a class not named has none); empty keeps the classes'
    own shares.
    """
    rate_factor: Positive = 1.0
    """Rate relative to other phases; the whole keeps the mean rate."""

    def __post_init__(self) -> None:
        if (self.start_s is None) == (self.start_fraction is None):
            raise ConfigError("start_s: give exactly one of start_s and start_fraction")

    def start(self, duration_s: float) -> float:
        """Start in seconds for a draw of `duration_s`."""
        if self.start_s is not None:
            return self.start_s
        return float(self.start_fraction or 0.0) * duration_s


@settings
class SyntheticWorkload:
    """A mixture of request classes with Poisson or Gamma arrivals; implements `Workload`."""

    name: str
    """What it is called in results."""
    classes: tuple[RequestClass, ...]
    """Kinds of requests: at least one, with names of their own and some share above 0."""
    rate_per_s: Positive = 1.0
    """Mean arrivals a second when a draw names none."""
    arrivals: ArrivalLaw = field(default_factory=ArrivalLaw)
    """Distribution of the gaps between arrivals."""
    phases: tuple[Phase, ...] = ()
    """Changes of the mix, in order of their starts; before the first one the classes' own
    shares and a rate factor of 1 hold.
    """
    max_prompt_tokens: Count | None = None
    """Longer prompts are capped; the stricter of this and the draw's limit holds."""
    description: str = ""
    """One sentence for people."""

    def __post_init__(self) -> None:
        if not self.classes:
            raise ConfigError("classes: expected at least one class, got none")
        names = [c.name for c in self.classes]
        for i, name in enumerate(names):
            if name in names[:i]:
                raise ConfigError(f"classes[{i}]: name {name!r} is used twice")
        if not sum(c.share for c in self.classes) > 0:
            raise ConfigError("classes: share: at least one must be above 0")
        for i, phase in enumerate(self.phases):
            for name in phase.shares:
                if name not in names:
                    hint = nearest(name, names)
                    raise ConfigError(f"phases[{i}]: shares: unknown class {name!r}{hint}")
            if phase.shares and not sum(phase.shares.values()) > 0:
                raise ConfigError(f"phases[{i}]: shares: at least one must be above 0")

    def draw(
        self,
        seed: int,
        duration_s: float,
        rate_per_s: float | None = None,
        max_prompt_tokens: int | None = None,
    ) -> Trace:
        """Requests arriving in [0, duration_s) at the mean rate; see `Workload`.

        Raises:
            ConfigError: an argument out of range, phases out of order, or a duration so short
                that no request arrives.  Phases that start after the end play no part and are
                counted in `notes["phases_not_reached"]`.
        """
        check_draw(seed, max_prompt_tokens, duration_s=duration_s, rate_per_s=rate_per_s)
        rate = self.rate_per_s if rate_per_s is None else float(rate_per_s)
        check_count(rate * duration_s, f"{self.name}: rate_per_s x duration_s")
        starts, shares, factors = self._pieces(float(duration_s))
        weights = np.diff([*starts, duration_s]) / duration_s
        rates = rate * factors / float(weights @ factors)
        random = streams(seed)
        profile = RateProfile(starts, rates.tolist(), float(duration_s))
        arrival_s = profile.arrivals(self.arrivals, random.arrivals)
        if not len(arrival_s):
            raise ConfigError(
                f"{self.name}: no request arrives in duration_s {duration_s!r} at rate_per_s "
                f"{rate!r} (seed {seed}); raise one of them"
            )
        piece = np.searchsorted(starts, arrival_s, side="right") - 1
        notes = {
            "requested_rate_per_s": rate,
            "achieved_rate_per_s": len(arrival_s) / duration_s,
            "phases_not_reached": sum(p.start(duration_s) >= duration_s for p in self.phases),
        }
        return self._trace(arrival_s, shares[piece], random.lengths, max_prompt_tokens, notes)

    def draw_backlog(self, seed: int, count: int, max_prompt_tokens: int | None = None) -> Trace:
        """`count` requests at time 0 in the time-averaged mix; see `Workload`."""
        check_draw(seed, max_prompt_tokens, count=count)
        check_count(count, "count")
        typical_s = self._typical_duration_s()
        starts, shares, factors = self._pieces(typical_s)
        weights = np.diff([*starts, typical_s]) * factors
        mix = weights @ shares / weights.sum()
        arrival_s = np.zeros(int(count))
        rows = np.broadcast_to(mix, (int(count), len(mix)))
        return self._trace(arrival_s, rows, streams(seed).lengths, max_prompt_tokens, {})

    def _pieces(self, duration_s: float) -> tuple[list[float], Floats, Floats]:
        """Starts (k,), class shares (k, classes) and rate factors (k,) of the constant pieces."""
        own = {c.name: c.share for c in self.classes}
        pieces: list[tuple[float, Mapping[str, float], float]] = [(0.0, own, 1.0)]
        for i, phase in enumerate(self.phases):
            start = phase.start(duration_s)
            if start < pieces[-1][0]:
                raise ConfigError(
                    f"{self.name}: phases[{i}]: starts at {start!r} s, before the phase above it "
                    f"({pieces[-1][0]!r} s)"
                )
            if start == pieces[-1][0]:
                pieces.pop()
            if start < duration_s:
                pieces.append((start, phase.shares or own, phase.rate_factor))
        rows = [[mix.get(c.name, 0.0) for c in self.classes] for _, mix, _ in pieces]
        shares: Floats = np.array(rows, dtype=np.float64)
        shares /= shares.sum(axis=1, keepdims=True)
        factors: Floats = np.array([factor for _, _, factor in pieces], dtype=np.float64)
        return [start for start, _, _ in pieces], shares, factors

    def _typical_duration_s(self) -> float:
        """A duration in which the phases take about equal parts, for the mix of a backlog."""
        starts = [p.start_s for p in self.phases if p.start_s]
        return max(starts) * (len(starts) + 1) / len(starts) if starts else 1.0

    def _trace(
        self,
        arrival_s: Floats,
        shares: Floats,
        random: np.random.Generator,
        max_prompt_tokens: int | None,
        notes: Mapping[str, float | int | str],
    ) -> Trace:
        """Give each arrival a class, by its row of `shares` (n, classes), and lengths."""
        uniforms = random.random((len(arrival_s), 3))
        limits = np.cumsum(shares, axis=1)
        limits /= limits[:, -1:]  # exactly 1 at the end, where the sum may round to below
        chosen = (uniforms[:, :1] >= limits).sum(axis=1)
        prompt: Ints = np.empty(len(arrival_s), dtype=np.int64)
        output: Ints = np.empty(len(arrival_s), dtype=np.int64)
        for index, law in enumerate(self.classes):
            mine = chosen == index
            prompt[mine] = law.prompt.at(uniforms[mine, 1])
            output[mine] = law.output.at(uniforms[mine, 2])
        priority: Ints | None = None
        if any(c.priority is not None for c in self.classes):
            priority = np.array([c.priority or 0 for c in self.classes], dtype=np.int64)[chosen]
        limit = smaller_cap(self.max_prompt_tokens, max_prompt_tokens)
        prompt, _, capped = cap_prompts(prompt, None, limit)
        return Trace(
            name=self.name,
            arrival_s=arrival_s,
            prompt_tokens=prompt,
            output_tokens=output,
            priority=priority,
            notes={**notes, **capped},
        )
