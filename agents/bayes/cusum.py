"""A test of whether something has changed, and since when.

Page's CUSUM ("Continuous Inspection Schemes", Biometrika 1954) on standardised errors: what a
model did not foresee, in units of its own uncertainty.  Mean 0 and variance 1 are then known, so
nothing has to be learnt before a change can be seen, and the sum tells when the change began.
"""

from __future__ import annotations

from ewsjf_env.config import check_range

LARGEST_ERROR = 4.0  # standard deviations: one wild window must not be taken for a change


class Cusum:
    """Two-sided CUSUM of independent errors of mean 0 and variance 1.

    Args:
        slack: errors up to this many standard deviations are chance; half the change that
            should be found fastest, >= 0.
        threshold: sum of the excess at which a change is declared, > 0.  With a slack of 0.5 a
            false alarm comes every 1,500 errors or so at 6.
        largest_error: errors beyond count as this many standard deviations, > 0.
    """

    def __init__(
        self, slack: float = 0.5, threshold: float = 6.0, largest_error: float = LARGEST_ERROR
    ) -> None:
        check_range("slack", slack, 0.0)
        check_range("largest_error", largest_error, 0.0, low_open=True)
        check_range("threshold", threshold, 0.0, low_open=True)
        self._slack = slack
        self._threshold = threshold
        self._largest = largest_error
        self.reset()

    def reset(self) -> None:
        """Forget all errors."""
        self._sums = [0.0, 0.0]
        self._lengths = [0, 0]

    def add(self, error: float) -> int | None:
        """Add one error; when it reveals a change, how many errors ago that began (>= 1).

        After a change everything is forgotten.
        """
        clipped = min(self._largest, max(-self._largest, error))
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
