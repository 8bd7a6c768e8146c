"""Requests of an engine: one as a record, many as columns."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Outcome = Literal["served", "aborted", "rejected"]
OUTCOMES: tuple[Outcome, ...] = ("served", "aborted", "rejected")
"""What becomes of a request.  `served` is also said of one that has not ended; `aborted` was taken
in and given up, by its client or by a failure; `rejected` was never taken in."""
_SERVED, _ABORTED, _REJECTED = range(len(OUTCOMES))


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """One request as the engine saw it; times are seconds on the engine's own clock.

    `output_tokens` is what was asked for, `generated_tokens` what was produced so far;
    a time is None until the event has happened.  `finish_s` is when it ended,
    whatever its `outcome`.
    """

    request_id: str
    arrival_s: float
    prompt_tokens: int
    output_tokens: int
    cached_tokens: int = 0
    generated_tokens: int = 0
    first_token_s: float | None = None
    finish_s: float | None = None
    preemptions: int = 0
    outcome: Outcome = "served"


@dataclass(frozen=True, slots=True, eq=False)
class Requests:
    """The n requests that an engine had in a window, in order of arrival; all arrays are (n,).

    Attributes:
        position: of the request among all requests of its trace, from 0.
        arrival_s: seconds on the engine's clock.
        prompt_tokens: of the request.
        generated_tokens: so far.
        first_token_s: NaN until there was one.
        finish_s: NaN until it ended.
        cost_s: C(b), seconds > 0 that its prefill takes alone on the machine.
        outcome: place in `OUTCOMES`; None where no request was aborted or rejected.
    """

    position: Integers
    arrival_s: Floats
    prompt_tokens: Integers
    generated_tokens: Integers
    first_token_s: Floats
    finish_s: Floats
    cost_s: Floats
    outcome: NDArray[np.int8] | None = None

    @property
    def served(self) -> NDArray[np.bool_]:
        """Those that were neither aborted nor rejected."""
        return self._are(_SERVED)

    @property
    def aborted(self) -> NDArray[np.bool_]:
        """Those that were given up."""
        return self._are(_ABORTED)

    @property
    def rejected(self) -> NDArray[np.bool_]:
        """Those that were never taken in."""
        return self._are(_REJECTED)

    def __len__(self) -> int:
        return len(self.position)

    @classmethod
    def of(
        cls,
        records: Iterable[RequestRecord],
        prefill_cost_s: Callable[[int], float],
        start_s: float,
        end_s: float,
    ) -> Requests:
        """Those that arrived before the end of a window and had not finished before its start.

        Args:
            records: all requests of the trace so far, in order of arrival; or the last of them,
                whose positions then count from the first that is given.
            prefill_cost_s: C(b): prompt tokens -> seconds alone on the machine, > 0.
            start_s: start of the window in engine seconds.
            end_s: its end.
        """
        seen = [
            (position, record)
            for position, record in enumerate(records)
            if record.arrival_s < end_s and (record.finish_s is None or record.finish_s >= start_s)
        ]
        found = [record for _, record in seen]
        outcome = None
        if any(r.outcome != OUTCOMES[_SERVED] for r in found):
            outcome = np.array([OUTCOMES.index(r.outcome) for r in found], np.int8)
        return cls(
            position=np.array([position for position, _ in seen], np.int64),
            arrival_s=np.array([r.arrival_s for r in found], np.float64),
            prompt_tokens=np.array([r.prompt_tokens for r in found], np.int64),
            generated_tokens=np.array([r.generated_tokens for r in found], np.int64),
            first_token_s=np.array([_or_nan(r.first_token_s) for r in found], np.float64),
            finish_s=np.array([_or_nan(r.finish_s) for r in found], np.float64),
            cost_s=np.array([prefill_cost_s(r.prompt_tokens) for r in found], np.float64),
            outcome=outcome,
        )

    def take(self, chosen: NDArray[np.bool_] | Integers) -> Requests:
        """Some of the requests, by a mask (n,) or by their places."""
        return Requests(
            self.position[chosen],
            self.arrival_s[chosen],
            self.prompt_tokens[chosen],
            self.generated_tokens[chosen],
            self.first_token_s[chosen],
            self.finish_s[chosen],
            self.cost_s[chosen],
            None if self.outcome is None else self.outcome[chosen],
        )

    def _are(self, outcome: int) -> NDArray[np.bool_]:
        if self.outcome is None:
            return np.full(len(self), outcome == _SERVED)
        return np.asarray(self.outcome == outcome, np.bool_)


def _or_nan(moment_s: float | None) -> float:
    return math.nan if moment_s is None else moment_s
