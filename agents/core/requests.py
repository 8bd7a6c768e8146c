"""The recorded requests of a window: numbers alone, never text; enough to serve them again.

A window's record holds the requests that arrived since the window before it ended, the discarded
time in front of it included, so that the windows of an episode put together are its whole
traffic.  It is kept with the window, on one line of windows.jsonl.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ewsjf_env.config import ConfigError
from ewsjf_env.measure.records import RequestRecord
from ewsjf_env.parameters import Value

_DIGITS = 6  # of latencies, in seconds; arrivals are kept as they are


@dataclass(frozen=True)
class RecordedTraffic:
    """The requests that arrived in [since_s, until_s), n of them, in order of arrival.

    Attributes:
        since_s: engine seconds at which the record begins: 0, or where the one before ended.
        start_s: start of the measured window.
        end_s: its end, as planned or broken off.
        until_s: end of the record, >= end_s.
        arrival_s: (n,) engine seconds.
        prompt_tokens: (n,).
        cached_tokens: (n,) of the prompt found in the prefix cache.
        generated_tokens: (n,) output tokens until `until_s`: all of them where it finished.
        ttft_s: (n,) first token minus arrival; None while there is none.
        e2e_s: (n,) finish minus arrival; None while it has not finished.
        fallback: values in force from `end_s` on, where the window was broken off.
        first: number of the first of them among all requests of the episode.
        late: of requests that were recorded before and had not finished then: number, tokens
            generated until `until_s`, and whether that is all of them.
    """

    since_s: float
    start_s: float
    end_s: float
    until_s: float
    arrival_s: tuple[float, ...]
    prompt_tokens: tuple[int, ...]
    cached_tokens: tuple[int, ...]
    generated_tokens: tuple[int, ...]
    ttft_s: tuple[float | None, ...]
    e2e_s: tuple[float | None, ...]
    fallback: Mapping[str, Value] | None = None
    first: int = 0
    late: tuple[tuple[int, int, bool], ...] = ()

    def __post_init__(self) -> None:
        edges = (self.since_s, self.start_s, self.end_s, self.until_s)
        if not all(math.isfinite(edge) for edge in edges) or list(edges) != sorted(edges):
            raise ConfigError(f"since_s, start_s, end_s, until_s: {edges} do not ascend")
        for name in ("prompt_tokens", "cached_tokens", "generated_tokens", "ttft_s", "e2e_s"):
            if len(getattr(self, name)) != len(self):
                found = len(getattr(self, name))
                raise ConfigError(f"{name}: {found} values for {len(self)} arrivals")

    def __len__(self) -> int:
        return len(self.arrival_s)

    @classmethod
    def of(
        cls,
        records: Sequence[RequestRecord],
        edges: tuple[float, float, float, float],
        fallback: Mapping[str, Value] | None = None,
    ) -> RecordedTraffic:
        """The record of a window that has just ended.

        What a request was *asked* to generate is left out: a real server does not tell it.  A
        request that was given up has not finished; one that the server rejected was never in it.

        Args:
            records: all requests of the episode so far.
            edges: `since_s`, `start_s`, `end_s` and `until_s`.
            fallback: see the class.
        """
        since_s, _, _, until_s = edges
        records = [r for r in records if r.outcome != "rejected"]
        chosen = [r for r in records if since_s <= r.arrival_s < until_s]
        before = [(i, r) for i, r in enumerate(records) if r.arrival_s < since_s]
        return cls(
            *edges,
            arrival_s=tuple(r.arrival_s for r in chosen),
            prompt_tokens=tuple(r.prompt_tokens for r in chosen),
            cached_tokens=tuple(r.cached_tokens for r in chosen),
            generated_tokens=tuple(r.generated_tokens for r in chosen),
            ttft_s=tuple(_since(r.first_token_s, r.arrival_s) for r in chosen),
            e2e_s=tuple(_since(_finish_s(r), r.arrival_s) for r in chosen),
            fallback=fallback,
            first=len(before),
            late=tuple(
                (i, r.generated_tokens, _finish_s(r) is not None)
                for i, r in before
                if r.finish_s is None or r.finish_s >= since_s
            ),
        )


def _finish_s(record: RequestRecord) -> float | None:
    return record.finish_s if record.outcome == "served" else None


def _since(moment_s: float | None, arrival_s: float) -> float | None:
    return None if moment_s is None else round(moment_s - arrival_s, _DIGITS)
