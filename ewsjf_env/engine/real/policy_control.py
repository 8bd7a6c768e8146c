"""Control of a running server's policy, with leases for what is not trusted.

A server outlives its tuner.  Values that are not trusted, those of the installed policy or of
`trust`, are therefore sent with a lease (`serving/lease.py`) and renewed: a tuner that is killed
leaves the server on what it trusted last.  Everything that is believed to be in force is what the
server has answered.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from ewsjf_env.engine.base import EngineError
from ewsjf_env.engine.real.link import Link
from ewsjf_env.parameters import Value
from ewsjf_env.policy.policy import Policy

Ask = Callable[[Coroutine[Any, Any, Any]], Any]


class PolicyControl:
    """The policy of one server, or of all replicas of one.

    Attributes:
        in_force: as the server said last; of its first rank.
        instance: which server that was; another one after a restart.
        versions: number of the policy in force, for each rank.
    """

    def __init__(self, lease_s: float, keep_partition: bool) -> None:
        """No server yet.

        Args:
            lease_s: of values that are not trusted; 0: they stay for good.
            keep_partition: a server that serves the order already gets only the values.
        """
        self.in_force: Policy | None = None
        self.instance = ""
        self.versions: tuple[int, ...] = ()
        self._served: list[tuple[str, Mapping[str, Any]]] = []  # order and values, by rank
        self._lease_s = lease_s
        self._keep_partition = keep_partition
        self._link: Link | None = None
        self._ask: Ask | None = None
        self._policy: Policy | None = None  # as installed, with the values applied last
        self._trusted: Mapping[str, Value] = {}
        self._confirmed: Mapping[str, Value] = {}  # what the server falls back to
        self._renew_s: float | None = None

    def connect(self, link: Link, ask: Ask) -> None:
        """Talk to this server, and see what it serves.

        Args:
            link: to it.
            ask: runs a coroutine of the link and waits for it.
        """
        self._link, self._ask = link, ask
        self._accept(ask(link.policy()))

    def install(self, policy: Policy) -> None:
        """Serve by this policy, from the next `put_again` on where there is no server yet."""
        self._policy = policy
        self._trusted = dict(policy.parameters)
        if self._ask is not None:
            self._send_whole(policy)

    def check_installed(self, who: str) -> Policy:
        """The policy; EngineError where none was installed."""
        if self._policy is None:
            raise EngineError(f"{who}: no policy is installed; call install first")
        return self._policy

    def trust(self, parameters: Mapping[str, object]) -> None:
        """These values may stay; see `OutlivesTuner`."""
        policy = self.check_installed("trust")
        wanted = {**self._trusted, **parameters}
        self._trusted = dict(policy.with_parameters(wanted).parameters)

    def put_again(self) -> None:
        """The policy, and then the values applied last, for a server that may serve another."""
        if self._policy is not None:
            policy = self._policy
            self._send_whole(policy.with_parameters(self._trusted))
            self._bring(dict(policy.parameters))

    def follow_ranks(self) -> None:
        """See which ranks there are now; those that were added serve what the others serve."""
        assert self._link is not None, "connected before"
        self._accept(self._asked(self._link.policy()))
        if any(one != self._served[0] for one in self._served):
            self.put_again()

    def apply(self, parameters: Mapping[str, object]) -> Mapping[str, object]:
        """Change some values; all that are in force then.

        Raises:
            ConfigError: for an unknown parameter or an illegal value.
            EngineError: the server serves another order by now.
        """
        policy = self.check_installed("apply")
        assert self._link is not None, "connected before"
        self._accept(self._asked(self._link.policy()))
        assert self.in_force is not None, "accepted"
        for order, _ in self._served:
            if order != policy.order:
                raise EngineError(f"somebody else has made the server serve {order!r}")
        wanted = dict(self.in_force.with_parameters(parameters).parameters)
        self._bring(wanted)
        self._policy = policy.with_parameters(wanted)
        return dict(self.in_force.parameters)

    def renew(self) -> None:
        """Give a sign of life, where one is due."""
        if self._renew_s is not None and time.monotonic() >= self._renew_s:
            assert self.in_force is not None, "on trial"
            self._send_on_trial(self.in_force.parameters)

    def leave(self) -> dict[str, Any] | None:
        """The change that leaves the server under what is trusted; None where it is."""
        if self.in_force is None or not self._trusted:
            return None
        if self._renew_s is None and self.in_force.parameters == self._trusted:
            return None
        return {"parameters": dict(self._trusted)}

    def _bring(self, wanted: Mapping[str, Value]) -> None:
        """Put values in force: for good if they are trusted, else on trial."""
        assert self.in_force is not None, "connected before"
        agree = all(one == self._served[0] for one in self._served)
        same = agree and wanted == self.in_force.parameters
        if self._lease_s <= 0 or _alike(wanted, self._trusted):
            if self._renew_s is not None or not same:
                self._send({"parameters": dict(wanted)})
                self._confirmed = wanted
                self._renew_s = None
        elif self._renew_s is None or not same:
            if self._confirmed != self._trusted:
                self._send({"parameters": dict(self._trusted)})
                self._confirmed = self._trusted
            self._send_on_trial(wanted)

    def _send_whole(self, policy: Policy) -> None:
        """Put a policy in force for good."""
        assert self.in_force is not None, "connected before"
        if self._keep_partition and all(order == policy.order for order, _ in self._served):
            self._send({"parameters": dict(policy.parameters), "name": policy.name})
        else:
            self._send(dataclasses.replace(policy, provenance={}).to_dict())
        self._confirmed = dict(policy.parameters)
        self._renew_s = None

    def _send_on_trial(self, values: Mapping[str, Value]) -> None:
        self._send({"parameters": dict(values), "lease_s": self._lease_s})
        self._renew_s = time.monotonic() + 0.5 * self._lease_s

    def _send(self, change: Mapping[str, Any]) -> None:
        assert self._link is not None, "connected before"
        self._accept(self._asked(self._link.configure(change)))

    def _asked(self, question: Coroutine[Any, Any, Any]) -> Any:
        assert self._ask is not None, "connected before"
        return self._ask(question)

    def _accept(self, answer: Mapping[str, Any]) -> None:
        """Believe what the server says is in force."""
        self.in_force = Policy.from_dict(answer["policy"], "the server's policy")
        self.instance = answer["instance"]
        ranks = answer["ranks"]
        self.versions = tuple(rank["policy_version"] for rank in ranks)
        self._served = [(r["policy"]["order"], r["policy"]["parameters"]) for r in ranks]


def _alike(values: Mapping[str, Value], others: Mapping[str, Value]) -> bool:
    """Equal, but for what a value loses on its way through a float32 action."""
    for name, value in values.items():
        other = others[name]
        if isinstance(value, str) or isinstance(other, str):
            if value != other:
                return False
        elif not math.isclose(value, other, rel_tol=1e-5, abs_tol=1e-6):
            return False
    return True
