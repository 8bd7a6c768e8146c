"""How do the scheduler's own events become a history of requests, and changes of policy?

The scheduler calls one method at each of its entries; everything vLLM is read here and nowhere
else, the rest works on plain numbers (`scheduling.history`, `scheduling.adaptation`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.request import Request, RequestStatus

from ewsjf_env.policy.adaptation import Adaptation
from ewsjf_env.policy.policy import Policy
from ewsjf_env.policy.policy_queue import PolicyQueue
from ewsjf_env.scheduling.history import RequestHistory


class SchedulerWatch:
    """Watches one scheduler, and lets an adaptive policy follow what is seen.

    Attributes:
        history: of the requests.
        adaptation: of the policy in force.
    """

    def __init__(self, waiting: PolicyQueue[Request], now_s: float) -> None:
        """Watch from now on.

        Args:
            waiting: where the policy is in force.
            now_s: the scheduler's clock.
        """
        self._waiting = waiting
        self.history = RequestHistory()
        self.adaptation = Adaptation(
            self.history,
            lambda tokens: waiting.cost_model.cost_s(tokens),  # the model may be exchanged
            lambda: waiting.policy.partition.queues,
        )
        self.adaptation.follow(waiting.policy, now_s)

    def arrived(self, request: Request, arrival_s: float) -> None:
        """A request was added."""
        self.history.arrived(
            request.request_id,
            request,
            arrival_s,
            request.num_prompt_tokens,
            request.max_tokens,
        )

    def before_step(self, finished: Iterable[str], now_s: float) -> None:
        """A step begins; `finished` also names what was aborted since the last one."""
        self.adaptation.roll(now_s)
        self.history.left(finished, now_s)
        values = self.adaptation.act(self._waiting.policy)
        if values is not None:
            self.install(self._waiting.policy.with_parameters(values), now_s)

    def after_step(self, output: SchedulerOutput, kv_usage: float, now_s: float) -> None:
        """A step was scheduled."""
        for new in output.scheduled_new_reqs:
            self.history.admitted(new.req_id, new.num_computed_tokens)
        self.history.used_kv(kv_usage, now_s)

    def before_update(self, now_s: float) -> None:
        """The tokens of a step are about to be taken in."""
        self.adaptation.roll(now_s)

    def after_update(self, finished: Iterable[str], now_s: float) -> None:
        """They were taken in."""
        self.history.produced(now_s)
        gone = self.history.left(finished, now_s)
        if gone and self._waiting.learns_outputs:
            for request in cast(list[Request], gone):
                if request.status != RequestStatus.FINISHED_ABORTED:
                    waiting = self._waiting
                    waiting.finished(request, request.num_prompt_tokens, request.num_output_tokens)

    def install(self, policy: Policy, now_s: float) -> None:
        """Serve by another policy from now on."""
        self._waiting.install(policy)
        self.adaptation.follow(policy, now_s)

    def state(self) -> dict[str, Any]:
        """How the policy follows the traffic, as plain values; empty for a static one."""
        found = self.adaptation.state()
        return {"adaptation": found} if found else {}
