"""Records of a compiled engine's requests, and their history as an adaptive policy reads it.

What `scheduling.history.RequestHistory` tells, from the arrays of the state.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ewsjf_env.engine.compiled.kernel.state import Floats, Integers, State
from ewsjf_env.measure.requests import RequestRecord
from ewsjf_env.scheduling.history import CAPACITY, HistoryTotals

_COLUMNS = (
    "arrival_s",
    "prompt",
    "output",
    "cached",
    "generated",
    "first_token_s",
    "finish_s",
    "preempted",
)


class CoreHistory:
    """A `policy.adaptation.History` of one trace in a compiled engine."""

    def __init__(self, state: Callable[[], State]) -> None:
        """`state`: the engine's, which exchanges its arrays now and then."""
        self._state = state

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
        return records_of(self._state().requests, np.flatnonzero(~(self._finish_s() < since_s)))

    def totals(self, now_s: float) -> HistoryTotals:
        """Sums until `now_s`, not before the last event."""
        clock = self._state().clock[0]
        since_s = float(clock["used_since_s"])
        elapsed_s = 0.0 if math.isnan(since_s) else now_s - since_s
        return HistoryTotals(
            output_tokens=int(clock["output_tokens"]),
            preemptions=int(clock["preemptions"]),
            kv_usage_s=float(clock["used_s"]) + float(clock["used"]) * elapsed_s,
        )

    def _finish_s(self) -> Floats:
        state = self._state()
        found: Floats = state.requests["finish_s"][: int(state.clock[0]["next"])]
        return found


def records_of(requests: Any, places: Integers) -> list[RequestRecord]:
    """Records of some requests, in the order of `places`.

    Args:
        requests: records of `state.REQUEST`, of a trace from its beginning.
        places: positions among them, shape (n,).
    """
    found = requests[places]
    rows = zip(places.tolist(), *(found[name].tolist() for name in _COLUMNS), strict=True)
    return [
        RequestRecord(
            request_id=f"{index:08d}",
            arrival_s=arrival_s,
            prompt_tokens=prompt,
            output_tokens=output,
            cached_tokens=max(0, cached),
            generated_tokens=generated,
            first_token_s=None if first_s != first_s else first_s,
            finish_s=None if finish_s != finish_s else finish_s,
            preemptions=preemptions,
        )
        for (
            index,
            arrival_s,
            prompt,
            output,
            cached,
            generated,
            first_s,
            finish_s,
            preemptions,
        ) in rows
    ]
