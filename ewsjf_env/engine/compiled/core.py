"""One trace in a compiled engine: the state, and what Python does for it between two steps.

The slow parts are those of the scheduler itself: its `PolicyQueue`, without requests, holds the
policy, the cost model and the re-partition.  Compiled code stops where one of them is due.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable
from typing import Any

import numpy as np

from ewsjf_env.engine.base import EngineError
from ewsjf_env.engine.compiled.history import CoreHistory, records_of
from ewsjf_env.engine.compiled.kernel import codes
from ewsjf_env.engine.compiled.kernel.clock import advance
from ewsjf_env.engine.compiled.kernel.state import State
from ewsjf_env.engine.compiled.kernel.views import point_to, table_of
from ewsjf_env.engine.compiled.orders.waiting import rekey, replace_order
from ewsjf_env.engine.compiled.policy import policy_queues, policy_record, random_keys
from ewsjf_env.engine.simulated.virtual_core import Totals
from ewsjf_env.measure.requests import RequestRecord
from ewsjf_env.policy.adaptation import Adaptation
from ewsjf_env.policy.policy import Policy
from ewsjf_env.policy.policy_queue import PolicyQueue
from ewsjf_env.scheduling.cost import UNSEEN_LEVEL, PrefillCostModel
from ewsjf_env.scheduling.orders.boost import GAMMA_RANGE, TAIL_RATIO
from ewsjf_env.scheduling.partition.length_drift import (
    DriftSettings,
    Reference,
    least_ks_distance,
)

Noise = Callable[[], np.ndarray[Any, np.dtype[np.float64]]]


class CompiledCore:
    """One state serving one trace; the counterpart of `virtual_core.VirtualCore`.

    Args:
        state: nothing has arrived in it.
        queue: the scheduler's own waiting queue, empty; None: plain first come first served.
        seed: of the order `random`.
        noise: the next factors on step times; None: there are none.
    """

    def __init__(
        self,
        state: State,
        queue: PolicyQueue[Any] | None,
        seed: int = 0,
        noise: Noise | None = None,
    ) -> None:
        self.state = state
        self._table = table_of(state)
        self.queue = queue
        self._seed = seed
        self._noise = noise
        self._reference: Reference | None = None  # in the state
        self._observed = 0  # arrivals that the re-partition knows
        if queue is not None:
            self.adaptation = Adaptation(
                CoreHistory(lambda: self.state),
                queue.cost_model.cost_s,
                lambda: queue.policy.partition.queues,
            )
            self.adaptation.follow(queue.policy, 0.0)
            self._set_costs(queue.cost_model)
            self._set_traffic(queue)
            self._follow(queue)
        else:
            policy = state.policy[0]
            policy["promote_s"] = policy["overtake_s"] = policy["adapt_s"] = math.inf
            policy["prefill_share"] = 1.0

    @property
    def clock_s(self) -> float:
        """Seconds on the virtual clock."""
        return float(self.state.clock[0]["now_s"])

    def install(self, policy: Policy) -> None:
        """Serve by another policy from the next step on."""
        assert self.queue is not None
        self._observe_arrivals()
        self._return_costs(self.queue.cost_model)
        self.queue.install(policy)
        self.adaptation.follow(policy, self.clock_s)
        self._follow(self.queue)

    def advance(self, end_s: float, until_idle: bool = False) -> None:
        """Serve until the clock shows `end_s`, see `VirtualCore.advance`.

        Raises:
            EngineError: the scheduler schedules nothing although requests wait.
        """
        help_with = {
            codes.REPARTITION: self._repartition,
            codes.REFIT: self._refit,
            codes.NOISE: self._draw_noise,
            codes.ADAPT: self._adapt,
        }
        while True:
            code = advance(self._table, end_s, until_idle)
            if code in (codes.REACHED, codes.IDLE):
                return
            if code == codes.STUCK:
                clock = self.state.clock[0]
                raise EngineError(
                    f"no progress at {clock['now_s']:.3f} s: {clock['live']} requests are waiting "
                    "or running, but the scheduler schedules none of them"
                )
            help_with[code]()

    def stop_arrivals(self) -> None:
        """Drop the rows of the trace that have not arrived yet."""
        clock = self.state.clock[0]
        ahead = int(np.searchsorted(self.state.requests["arrival_s"], clock["now_s"]))
        clock["last"] = max(min(int(clock["last"]), ahead), int(clock["next"]))

    def totals(self) -> Totals:
        """The sums since the start, exact at the clock's time."""
        c = self.state.clock[0]
        c["kv_usage_s"] += c["kv_usage"] * (c["now_s"] - c["kv_since_s"])
        c["kv_since_s"] = c["now_s"]
        return Totals(
            output_tokens=int(c["output_tokens"]),
            prefill_tokens=int(c["prefill_tokens"]),
            preemptions=int(c["preemptions"]),
            kv_usage_s=float(c["kv_usage_s"]),
            admitted_prompt_tokens=int(c["admitted_prompt"]),
            admitted_cached_tokens=int(c["admitted_cached"]),
            steps=int(c["steps"]),
        )

    def arrived(self) -> int:
        """How many requests have arrived by now."""
        clock, arrival_s = self.state.clock[0], self.state.requests["arrival_s"]
        by_now = min(int(clock["last"]), bisect_left(arrival_s, float(clock["now_s"])))
        return max(by_now, int(clock["next"]))

    def records(self, since_s: float = 0.0) -> list[RequestRecord]:
        """Requests that have arrived by now, in order of arrival.

        Args:
            since_s: leave out those that finished before.
        """
        found = self.state.requests[: self.arrived()]
        return records_of(found, np.flatnonzero(~(found["finish_s"] < since_s)))

    def _exchange(self, **arrays: Any) -> None:
        """Put other arrays into the state."""
        self.state = self.state._replace(**arrays)
        point_to(self._table, **arrays)

    # -- what compiled code asks for -----------------------------------------------------------

    def _repartition(self) -> None:
        """Ask the re-partition, as the waiting queue does at the beginning of a step."""
        assert self.queue is not None
        self._observe_arrivals()
        self._return_costs(self.queue.cost_model)
        before = self.queue.repartitions
        self.queue.begin_step(self.clock_s, 0)
        if self.queue.repartitions != before:
            self._follow(self.queue)
        else:
            self._set_repartition()

    def _adapt(self) -> None:
        """Let an adaptive policy note what has been counted, and act, as `SchedulerExtension`."""
        assert self.queue is not None
        self.adaptation.roll(self.clock_s)
        if self.state.clock[0]["stage"] == codes.TIMED:  # a step is about to be scheduled
            self._return_costs(self.queue.cost_model)
            values = self.adaptation.act(self.queue.policy)
            if values is not None:
                self.install(self.queue.policy.with_parameters(values))
        self._set_adaptation()

    def _refit(self) -> None:
        """Fit gamma of the order boost_ada to the tail of the waits, as `scheduling.boost` does."""
        clock, policy = self.state.clock[0], self.state.policy[0]
        clock["served"] = 0
        waits_s = self.state.waits_s[: clock["waits"]]
        t95_s, t99_s = np.percentile(waits_s, (95, 99))
        if t99_s > t95_s:
            low, high = GAMMA_RANGE
            policy["p0"] = min(high, max(low, TAIL_RATIO / float(t99_s - t95_s)))
            rekey(self._table)

    def _draw_noise(self) -> None:
        assert self._noise is not None
        self._exchange(noise=self._noise())
        self.state.clock[0]["noise_used"] = 0

    # -- the policy in force -------------------------------------------------------------------

    def _follow(self, queue: PolicyQueue[Any]) -> None:
        """Take over the policy of the queue, and put those that wait into its order."""
        policy = queue.policy
        requests = self.state.requests
        if policy.order == "random":
            requests["key_given"] = random_keys(self._seed, len(requests))
        arrays = policy_queues(policy, requests["prompt"])
        self._exchange(policy=policy_record(policy, self.state.limits[0]), **arrays)
        policy_now = self.state.policy[0]
        policy_now["queues"] = len(self.state.queues)
        self.state.clock[0]["bubbles"] = int(self.state.queues["bubble"].sum())
        policy_now["c0"], policy_now["c1"], policy_now["c2"] = queue.cost_model.coefficients
        self._set_repartition()
        self._set_adaptation()
        replace_order(self._table)

    def _set_costs(self, model: PrefillCostModel) -> None:
        """Begin with a cost model that has learnt nothing."""
        record = self.state.model[0]
        record["spread"] = math.nan
        record["forgetting"], record["least_r2"] = model.forgetting, model.min_r2
        record["prior_c0"], record["prior_c1"], record["prior_c2"] = model.prior
        record["level_product"] = record["level_square"] = UNSEEN_LEVEL
        self.state.fit[:2] = model.prior_theta

    def _return_costs(self, model: PrefillCostModel) -> None:
        """Tell the scheduler's cost model what compiled code has learnt."""
        policy = self.state.policy[0]
        c0, c1, c2 = (float(policy[name]) for name in ("c0", "c1", "c2"))
        model.take_over((c0, c1, c2), float(self.state.model[0]["r2"]))

    def _set_traffic(self, queue: PolicyQueue[Any]) -> None:
        traffic, clock = queue.traffic, self.state.clock[0]
        clock["mean_cost_s"], clock["traffic_count"] = traffic.mean_cost_s, traffic.count

    def _set_adaptation(self) -> None:
        """When the adaptation wants to be asked next."""
        policy = self.state.policy[0]
        policy["adapt_s"], policy["acts"] = self.adaptation.next_s, self.adaptation.due

    def _set_repartition(self) -> None:
        """When the re-partition wants to be asked next."""
        assert self.queue is not None
        found, policy, clock = self.queue.repartitioner, self.state.policy[0], self.state.clock[0]
        policy["logs"] = found is not None
        if found is None:
            return
        settings, drift, now = found.settings, found.settings.drift, found.state()
        policy["interval_s"] = settings.interval_s
        policy["least_lengths"] = settings.partition.min_samples
        policy["drift_window"] = drift.window if drift else 1 << 62
        policy["check_interval_s"] = drift.check_interval_s if drift else math.inf
        policy["renew"], policy["pending"] = now.renew, codes.EVALUATING if now.pending else 0
        if drift is not None:
            policy["share_shift"] = drift.share_shift
            self._set_reference(now.reference, drift)
        policy["evaluated_s"], policy["checked_s"] = now.evaluated_s, now.checked_s
        clock["fresh"], clock["kept"] = now.fresh, now.kept

    def _set_reference(self, reference: Reference | None, drift: DriftSettings) -> None:
        """With what late lengths are compared."""
        policy = self.state.policy[0]
        policy["reference_size"] = 0.0 if reference is None else reference.size
        if reference is not None:
            policy["ks_least"] = least_ks_distance(drift.window, reference, drift)
            if reference is not self._reference:
                self._exchange(reference=np.stack((reference.lengths, reference.shares)))
        self._reference = reference

    def _observe_arrivals(self) -> None:
        """Tell the re-partition who has arrived since it was told last."""
        assert self.queue is not None
        found, arrived = self.queue.repartitioner, int(self.state.clock[0]["next"])
        if found is not None:
            seen = self.state.requests[self._observed : arrived]
            found.observe_many(seen["noted"].astype(np.int64), seen["arrival_s"])
            # Comparisons that have found nothing were compiled code's.
            policy, clock = self.state.policy[0], self.state.clock[0]
            found.compared(float(policy["checked_s"]), int(clock["fresh"]))
        self._observed = arrived
