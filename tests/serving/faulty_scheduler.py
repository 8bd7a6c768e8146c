"""The real scheduler with faults that a test switches on by the name of a policy.

"faulty": scoring raises, always.  "jumpy": the clock jumps back and forth by an hour.
"""

from __future__ import annotations

import itertools
import time
from typing import Any

from ewsjf_env.policy.policy import Policy
from ewsjf_env.scheduling.orders.order import Order
from ewsjf_env.scheduling.orders.scored import ScoredOrder
from ewsjf_env.serving.scheduler import EWSJFScheduler


class _Raising:
    def score(self, *about: Any) -> float:
        raise RuntimeError("a fault that a test asked for")


class FaultyScheduler(EWSJFScheduler):
    """See the module."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._install = self.ewsjf.install
        self.ewsjf.install = self._install_faulty  # type: ignore[method-assign]

    def _install_faulty(
        self, policy: Policy, version: int | None = None, lease_s: float | None = None
    ) -> None:
        ewsjf = self.ewsjf
        self._install(policy, version, lease_s)
        ewsjf.read_clock = time.monotonic
        if policy.name == "jumpy":
            jumps = itertools.cycle((0.0, 3600.0, -3600.0, 7200.0))
            ewsjf.read_clock = lambda: time.monotonic() + next(jumps)
        if policy.name == "faulty":
            build = ewsjf.queue._build_order

            def build_raising() -> Order:
                order = build()
                assert isinstance(order, ScoredOrder)
                order.scorer = _Raising()
                return order

            ewsjf.queue.replace_orders(build_raising, ewsjf.queue._build_overdue)
