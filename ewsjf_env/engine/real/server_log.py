"""The scheduler's record of requests, put on the engine's own clock.

Reads the answers of `ewsjf_window`, one for each data-parallel rank of each replica.  A rank's
times are seconds on its scheduler's clock; the answer with the shortest way there and back tells
how that clock stands against ours.  The counters of all ranks are added up.

Ranks may come and go (elastic scaling): those that stay keep their instance.  One that has left
stays in the sums, one that is new adds what it has counted since its start.
"""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ewsjf_env.engine.base import EngineError
from ewsjf_env.engine.real.open_loop import known
from ewsjf_env.measure.records import RequestRecord, WindowCounters
from ewsjf_env.scheduling.history import record_of


@dataclass(frozen=True)
class Reading:
    """The counters at one moment.

    Attributes:
        at_s: seconds on the engine's clock.
        counters: sums over all ranks since the server's start, see `Recorder.counters`.
        ranks: how many.
        cuts: of the first rank's partition.
        versions: of each rank's policy.
    """

    at_s: float
    counters: Mapping[str, float]
    ranks: int
    cuts: tuple[int, ...]
    versions: tuple[int, ...]

    def since(self, before: Reading, window_s: float) -> WindowCounters:
        """What was counted since `before`, in a window of `window_s`.

        Both readings were taken some milliseconds beside the window's edges: sums are scaled.
        """
        span_s = self.at_s - before.at_s
        scale = window_s / span_s if span_s > 0 else 1.0
        ranks = 0.5 * (before.ranks + self.ranks)
        added = {n: count - before.counters.get(n, 0.0) for n, count in self.counters.items()}
        prompts, steps = added["admitted_prompt_tokens"], added["steps"]
        return WindowCounters(
            output_tokens=round(added["output_tokens"] * scale),
            prefill_tokens=round(added["prefill_tokens"] * scale),
            preemptions=round(added["preemptions"]),
            kv_usage_mean=added["kv_usage_s"] / (span_s * ranks) if span_s > 0 else math.nan,
            prefix_hit_rate=added["admitted_cached_tokens"] / prompts if prompts else math.nan,
            queues=len(self.cuts) + 1,
            scheduler_us_per_step=1e6 * added["scheduler_s"] / steps if steps else None,
        )


class ServerLog:
    """Everything read from one server since `begin`.

    Attributes:
        cursor: from where the next answer goes on.
        more: the last answer was not all; ask again.
        lost: records that were dropped before they were read, since `begin`.
    """

    def __init__(self, keep_records: bool) -> None:
        """`keep_records`: also the requests; else only counters."""
        self._keep = keep_records
        self._instances: tuple[str, ...] | None = None
        self._counts: dict[str, Mapping[str, float]] = {}  # by instance, also of those that left
        self.begin()
        self.cursor = "0"
        self.more = False

    def begin(self) -> None:
        """Forget requests and clocks: the engine's clock starts at 0 again."""
        # By instance: numbers of ranks may shift when others come or go.
        self._finished: list[tuple[str, list[Any]]] = []
        self._open: list[tuple[str, list[Any]]] = []
        self._offsets: dict[str, tuple[float, float]] = {}  # way there and back, offset
        self.lost = 0

    def take(self, answer: Mapping[str, Any], asked_s: float, answered_s: float) -> Reading:
        """Note an answer, asked for and received at these moments of the engine's clock.

        Raises:
            EngineError: it comes from another server than the answers before.
        """
        ranks = answer["ranks"]
        instances = tuple(rank["instance"] for rank in ranks)
        if self._instances is not None and not _same_or_scaled(self._instances, instances):
            raise EngineError("a server has restarted: its records begin anew")
        self._instances = instances
        self.cursor = answer["next"]
        self.more = any(rank["more"] for rank in ranks)
        counters: dict[str, float] = defaultdict(float)
        self._open = []
        for rank in ranks:
            instance = rank["instance"]
            self._set_clock(instance, rank["now_s"], asked_s, answered_s)
            self._counts[instance] = rank["counters"]
            self.lost += rank["lost"]
            if self._keep:
                self._finished += [(instance, row) for row in rank["finished"]]
                self._open += [(instance, row) for row in rank["open"]]
        for counted in self._counts.values():
            for name, value in counted.items():
                counters[name] += value
        first = ranks[0]
        return Reading(
            at_s=0.5 * (asked_s + answered_s),
            counters=dict(counters),
            ranks=len(ranks),
            cuts=tuple(first["cuts"]),
            versions=tuple(rank["policy_version"] for rank in ranks),
        )

    def records(self, until_s: float) -> list[RequestRecord]:
        """Requests known at `until_s`, as they stood then, in order of arrival.

        Those that were open at `begin` have arrived before 0.
        """
        found = []
        for instance, row in [*self._finished, *self._open]:
            offset_s = self._offsets[instance][1]
            record = record_of(row)
            arrival_s = record.arrival_s - offset_s
            if arrival_s >= until_s:
                continue
            first, finish = (
                None if moment is None else known(moment - offset_s, until_s)
                for moment in (record.first_token_s, record.finish_s)
            )
            placed = dataclasses.replace(
                record,
                arrival_s=arrival_s,
                first_token_s=first,
                finish_s=finish,
                outcome="served" if finish is None else record.outcome,
            )
            found.append(placed)
        return sorted(found, key=lambda record: record.arrival_s)

    def _set_clock(self, instance: str, now_s: float, asked_s: float, answered_s: float) -> None:
        way_s = answered_s - asked_s
        if instance not in self._offsets or way_s < self._offsets[instance][0]:
            self._offsets[instance] = (way_s, now_s - 0.5 * (asked_s + answered_s))


def _same_or_scaled(before: tuple[str, ...], now: tuple[str, ...]) -> bool:
    """Whether ranks have only come or only gone; a restart gives another name to some that stay."""
    return set(before) <= set(now) or set(now) <= set(before)
