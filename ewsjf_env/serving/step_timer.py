"""The teacher of the prefill-cost model: pairs what a step computes with how long it ran."""

from __future__ import annotations

from collections import deque

from ewsjf_env.scheduling.cost import PrefillCostModel
from ewsjf_env.scheduling.step_work import StepWork

DENSE_SAMPLES = 500  # every prefill step is learnt from up to here, then every fourth
DECODE_SAMPLE_STEPS = 16  # of steps without prefill, one in this many is learnt from


class StepTimer:
    """Times steps from the moments at which they are scheduled.

    Without async scheduling, the time from one `schedule` to the next is the step's own.  With
    it, step n+1 is scheduled when step n-1 ends, so the interval belongs to the step before
    the one just scheduled.  An interval counts only when requests were running throughout: an
    idle engine waits between steps.
    """

    def __init__(self, model: PrefillCostModel, lookahead: int) -> None:
        """`lookahead`: steps that are scheduled before their turn, 0 or 1."""
        self._model = model
        self._samples: deque[StepWork | None] = deque([None] * (lookahead + 1))
        self._last_s: float | None = None
        self._steps = 0
        self._learnt = 0

    def begin(self, now_s: float, busy: bool) -> None:
        """A step is about to be scheduled; `busy`: requests have been running until now."""
        work = self._samples.popleft()
        if work is not None and busy and self._last_s is not None and now_s > self._last_s:
            self._model.observe(work, now_s - self._last_s)
            self._learnt += 1
        self._last_s = now_s

    def end(self, work: StepWork) -> None:
        """It was scheduled and computes this."""
        self._steps += 1
        self._samples.append(work if self._wanted(work) else None)

    def _wanted(self, work: StepWork) -> bool:
        if work.prefill_tokens:
            return self._learnt < DENSE_SAMPLES or self._steps % 4 == 0
        return work.decode_requests > 0 and self._steps % DECODE_SAMPLE_STEPS == 0
