"""The history of a compiled engine's requests, as an adaptive policy reads it.

What `scheduling.history.RequestHistory` tells, from the arrays of the state.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from ewsjf_env.measure.requests import RequestRecord
from ewsjf_env.scheduling.history import CAPACITY, HistoryTotals

if TYPE_CHECKING:
    from ewsjf_env.engine.compiled.core import CompiledCore


class CoreHistory:
    """A `policy.adaptation.History` of one trace in a compiled engine."""

    def __init__(self, core: CompiledCore) -> None:
        self._core = core

    @property
    def complete_since_s(self) -> float:
        """See `RequestHistory`: the last `CAPACITY` requests that have finished are kept."""
        finish_s = self._finish_s()
        ended_s = finish_s[~np.isnan(finish_s)]
        forgotten = len(ended_s) - CAPACITY - 1
        if forgotten < 0:
            return -math.inf
        return float(np.partition(ended_s, forgotten)[forgotten])

    def records(self, since_s: float = -math.inf) -> list[RequestRecord]:
        """Those of requests that have not finished before `since_s`, in order of arrival."""
        return self._core.records_of(np.flatnonzero(~(self._finish_s() < since_s)))

    def totals(self, now_s: float) -> HistoryTotals:
        """Sums until `now_s`, not before the last event."""
        clock = self._core.state.clock[0]
        since_s = float(clock["used_since_s"])
        elapsed_s = 0.0 if math.isnan(since_s) else now_s - since_s
        return HistoryTotals(
            output_tokens=int(clock["output_tokens"]),
            preemptions=int(clock["preemptions"]),
            kv_usage_s=float(clock["used_s"]) + float(clock["used"]) * elapsed_s,
        )

    def _finish_s(self) -> np.ndarray:
        state = self._core.state
        found: np.ndarray = state.requests["finish_s"][: int(state.clock[0]["next"])]
        return found
