"""A detector of changes: whether something has changed, and since when.

Page's CUSUM ("Continuous Inspection Schemes", Biometrika 1954) on standardised errors: what a
model did not foresee, in units of its own uncertainty.  Mean 0 and variance 1 are then known, so
nothing has to be learnt before a change can be seen, and the sum tells when the change began.
"""

from __future__ import annotations

from ewsjf_env.config import check_range

_MOST_ERROR_SDS = 4.0  # one wild window must not be taken for a change


class Cusum:
    """Two-sided CUSUM of independent errors of mean 0 and variance 1.

    Args:
        slack: errors up to this many standard deviations are chance; half the change that
            should be found fastest, >= 0.
        threshold: sum of the excess at which a change is declared, > 0.  With a slack of 0.5 a
            false alarm comes every 1,500 errors or so at 6.
    """

    def __init__(self, slack: float = 0.5, threshold: float = 6.0) -> None:
        check_range("slack", slack, 0.0)
        check_range("threshold", threshold, 0.0, low_open=True)
        self._slack = slack
        self._threshold = threshold
        self.reset()

    def reset(self) -> None:
        """Forget all errors."""
        self._sums = [0.0, 0.0]
        self._lengths = [0, 0]

    def add(self, error: float) -> int | None:
        """Add one error; when it reveals a change, how many errors ago that began (>= 1).

        After a change everything is forgotten.
        """
        clipped = min(_MOST_ERROR_SDS, max(-_MOST_ERROR_SDS, error))
        for side, signed in enumerate((clipped, -clipped)):
            total = self._sums[side] + signed - self._slack
            self._sums[side] = max(0.0, total)
            self._lengths[side] = self._lengths[side] + 1 if total > 0.0 else 0
        side = int(self._sums[1] > self._sums[0])
        if self._sums[side] <= self._threshold:
            return None
        length = self._lengths[side]
        self.reset()
        return length
