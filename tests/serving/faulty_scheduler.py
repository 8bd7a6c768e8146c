"""The real scheduler with faults that a test switches on by the name of a policy.

"faulty": scoring raises, always.  "jumpy": the clock jumps back and forth by an hour.
"""

from __future__ import annotations

import itertools
import time
from typing import Any

from ewsjf_env.policy.policy import Policy
from ewsjf_env.scheduling.orders.order import Order, ScoredOrder
from ewsjf_env.serving.scheduler import EWSJFScheduler


class _Raising:
    def score(self, *about: Any) -> float:
        raise RuntimeError("a fault that a test asked for")


class FaultyScheduler(EWSJFScheduler):
    """See the module."""

    def install_policy(
        self, policy: Policy, version: int | None = None, lease_s: float | None = None
    ) -> None:
        super().install_policy(policy, version, lease_s)
        self._ewsjf_clock = time.monotonic
        if policy.name == "jumpy":
            jumps = itertools.cycle((0.0, 3600.0, -3600.0, 7200.0))
            self._ewsjf_clock = lambda: time.monotonic() + next(jumps)
        if policy.name == "faulty":
            build = self.waiting._build_order

            def build_raising() -> Order:
                order = build()
                assert isinstance(order, ScoredOrder)
                order.scorer = _Raising()
                return order

            self.waiting.replace_orders(build_raising, self.waiting._build_overdue)
