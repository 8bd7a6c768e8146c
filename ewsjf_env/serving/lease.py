"""A lease on a policy: what is served when a tuner dies in the middle of a trial.

A change with a lease is on trial: unless it is renewed in time, or another change comes without a
lease, the scheduler goes back by itself to what was last set without one.  That is looked at
between two steps, so an idle server goes back before it serves again.
"""

from __future__ import annotations

import dataclasses
import math

from ewsjf_env.policy.policy import Policy


class Lease:
    """Of the policy in force; times are seconds on the scheduler's clock."""

    def __init__(self) -> None:
        self.until_s = math.inf
        self._fallback: Policy | None = None

    def grant(self, current: Policy, until_s: float) -> None:
        """A change is on trial until then; `current` is what it replaces or renews."""
        if self._fallback is None:
            self._fallback = current
        self.until_s = until_s

    def confirm(self) -> None:
        """What is in force now is no trial."""
        self._fallback = None
        self.until_s = math.inf

    def expired(self, current: Policy, now_s: float) -> Policy | None:
        """What to go back to, where the lease has ended; queues learnt meanwhile are kept."""
        fallback = self._fallback
        if fallback is None or now_s < self.until_s:
            return None
        if fallback.order == current.order:
            return dataclasses.replace(fallback, partition=current.partition)
        return fallback
