"""The waiting queue under a policy, and what the queue learns from traffic.

`PolicyQueue` is the waiting queue plus the slow state around it: the prefill-cost model C(b),
the traffic scales, and the partition, which is refreshed from past arrivals by a background
computation and swapped at the start of a step.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any, TypeVar

from ewsjf_env.policy.policy import Policy
from ewsjf_env.scheduling.cost import PrefillCostModel
from ewsjf_env.scheduling.entry import Entry
from ewsjf_env.scheduling.orders.expected_output import OutputEstimates
from ewsjf_env.scheduling.orders.keyed import KeyedOrder
from ewsjf_env.scheduling.orders.order import Order
from ewsjf_env.scheduling.orders.scoring import Traffic
from ewsjf_env.scheduling.orders.spec import OrderContext, number
from ewsjf_env.scheduling.overdue import OverdueLane, OverdueSettings
from ewsjf_env.scheduling.partition.partition import PartitionSettings
from ewsjf_env.scheduling.partition.repartition import Repartitioner, RepartitionSettings
from ewsjf_env.scheduling.tenants import TenantAccounts, TenantOrder, TenantSettings
from ewsjf_env.scheduling.waiting_queue import WaitingQueue

R = TypeVar("R")

_SHAPING = ("alpha", "homogeneity", "q_max", "prune")  # what `_start_repartitioner` divides by


class PolicyQueue(WaitingQueue[R]):
    """A waiting queue that serves by a `Policy`, exchangeable between two steps.

    Attributes:
        repartitioner: keeps the partition fresh; None where the policy wants none.

    Args:
        policy: what to serve by.
        describe_request: request -> a new `Entry` (given the sequence number).
        cost_model: C(b); the caller feeds it step times.
        executor: computes partitions off the step; an inline one makes runs repeatable.
        tenants: how service is shared among tenants; None: there are none.
        by_priority: serve as vLLM's own priority policy does: smaller `Entry.priority` first, the
            earliest arrival among equals, returned requests in their own place.  The policy's
            order then waits until this is off: an operator asked for priorities by name.
        block_tokens: KV block size.
        longest_tokens: the model's length limit.
        seed: for the order `random` and the length sample.
    """

    def __init__(
        self,
        policy: Policy,
        describe_request: Callable[[R, int], Entry],
        cost_model: PrefillCostModel,
        executor: Executor,
        *,
        tenants: TenantSettings | None = None,
        by_priority: bool = False,
        block_tokens: int = 16,
        longest_tokens: int = 8192,
        seed: int = 0,
    ) -> None:
        self.policy = policy
        self.cost_model = cost_model
        self.policy_version = 0
        self.repartitions = 0
        self._executor = executor
        self._seed = seed
        traffic = Traffic(mean_cost_s=cost_model.cost_s(512), longest_tokens=longest_tokens)
        self.outputs = OutputEstimates()
        self._context = OrderContext(cost_model.cost_s, traffic, block_tokens, seed, self.outputs)
        self.repartitioner: Repartitioner | None = None
        super().__init__(
            self._build_order,
            self._build_overdue,
            describe_request,
            self._note_arrival,
            by_priority=by_priority,
            tenants=None if tenants is None else TenantAccounts(tenants),
        )
        self._start_repartitioner()

    @property
    def traffic(self) -> Traffic:
        """The scales of the traffic."""
        return self._context.traffic

    def install(self, policy: Policy) -> None:
        """Serve by another policy from now on; waiting requests are re-routed, none is lost.

        A policy that only asks for other queues than those in force gets them as soon as enough
        traffic is known; one that brings its own partition keeps that until it is refreshed.
        """
        # What cannot be built raises here, before anything has changed.
        policy.spec.build(policy.parameters, policy.partition, self._context)
        before, self.policy = self.policy, policy
        self.policy_version += 1
        self._start_repartitioner()
        asks = any(before.parameters.get(name) != policy.parameters.get(name) for name in _SHAPING)
        if self.repartitioner is not None and asks and before.partition == policy.partition:
            self.repartitioner.renew()
        self.replace_orders(self._build_order, self._build_overdue)

    def use_executor(self, executor: Executor) -> None:
        """Compute partitions elsewhere, for example inline on a virtual clock."""
        self._executor = executor
        self.repartitioner = None  # it holds on to its executor
        self._start_repartitioner()

    def use_cost_model(self, cost_model: PrefillCostModel) -> None:
        """Exchange C(b); waiting requests are ordered anew."""
        self.cost_model = cost_model
        self._context = dataclasses.replace(self._context, cost_s=cost_model.cost_s)
        self._context.traffic.mean_cost_s = cost_model.cost_s(512)
        self._start_repartitioner()
        self.replace_orders(self._build_order, self._build_overdue)

    def begin_step(self, now_s: float, budget_tokens: int) -> None:
        """Start a step; swap in a partition that has become ready."""
        if self.repartitioner is not None:
            partition = self.repartitioner.poll(now_s, self.policy.partition)
            if partition is not None:
                self.policy = dataclasses.replace(self.policy, partition=partition)
                self.repartitions += 1
                self.replace_orders(self._build_order, self._build_overdue)
        super().begin_step(now_s, budget_tokens)

    @property
    def learns_outputs(self) -> bool:
        """Whether the policy in force has a use for what `finished` tells."""
        return bool(self.policy.parameters.get("w_output"))

    def finished(self, request: R, prompt_tokens: int, generated_tokens: int) -> None:
        """Learn from a request that ended by itself how much is generated."""
        known = self._left.get(request)
        tenant = "" if known is None else known[2]
        self.outputs.observe(tenant, prompt_tokens, generated_tokens)

    def state(self) -> dict[str, Any]:
        """The policy in force and what the queue knows, as plain values."""
        return {
            **self.describe(),
            "policy": self.policy.name,
            "order": self.policy.order,
            "policy_version": self.policy_version,
            "parameters": dict(self.policy.parameters),
            "cuts": list(self.policy.partition.cuts),
            "repartitions": self.repartitions,
            "mean_cost_s": self._context.traffic.mean_cost_s,
            "cost_r2": self.cost_model.r2,
        }

    def _build_order(self) -> Order:
        if self._by_priority:
            return KeyedOrder(lambda entry: entry.arrival_key)
        if self.tenants is not None:
            return TenantOrder(self._build_policy_order, self.tenants)
        return self._build_policy_order()

    def _build_policy_order(self) -> Order:
        policy = self.policy
        return policy.spec.build(policy.parameters, policy.partition, self._context)

    def _build_overdue(self) -> OverdueLane:
        values, settings = self.policy.parameters, OverdueSettings()  # off, where none are named
        if "overdue_share" in values:
            settings = OverdueSettings(
                share=number(values, "overdue_share"),
                floor_s=number(values, "overdue_floor_s"),
                cost_factor=number(values, "overdue_kappa"),
            )
        return OverdueLane(settings, self.cost_model.cost_s)

    def _start_repartitioner(self) -> None:
        """Follow the policy's settings; what is known of the traffic outlives a policy."""
        values = self.policy.parameters
        if not self.policy.spec.partitioned or values["repartition"] == "off":
            self.repartitioner = None
            return
        partition = PartitionSettings(
            alpha=number(values, "alpha"),
            homogeneous_ratio=number(values, "homogeneity"),
            fixed_cost_tokens=_fixed_cost_tokens(self.cost_model),
            max_queues=int(values["q_max"]),
            prune=values["prune"],  # type: ignore[arg-type]
        )
        settings = RepartitionSettings(
            interval_s=number(values, "repartition_s"), partition=partition
        )
        if self.repartitioner is None:
            self.repartitioner = Repartitioner(settings, self._executor, seed=self._seed)
        else:
            self.repartitioner.reconfigure(settings)

    def _note_arrival(self, entry: Entry) -> None:
        if self.repartitioner is not None:
            self.repartitioner.observe(entry.routed_tokens, entry.arrived_s)


def _fixed_cost_tokens(model: PrefillCostModel) -> float:
    """What any prefill costs, in tokens: C(0) over the cost of a token, in [1, 1000]."""
    span = 1023
    per_token_s = (model.cost_s(1 + span) - model.cost_s(1)) / span
    return min(1000.0, max(1.0, model.cost_s(1) / per_token_s)) if per_token_s > 0 else 1.0
