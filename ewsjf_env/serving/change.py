"""A change of policy that a caller asks for.

A change is one of two plain mappings:

    {"order": "ewsjf", "parameters": {...}, ...}   a whole policy, as in a policy file; what is
                                                   left out is at its default
    {"parameters": {"k": 8.0}, "name": "trial 7"}  some parameters of the policy in force

{"order": "fcfs"} and back {"order": "ewsjf"} is the way to try the shipped policy and to undo it:
the second is that policy to the digit, with its partition.

With "lease_s" beside "parameters" the values are on trial for so many seconds, see `lease.py`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

from ewsjf_env.config import ConfigError, check_range, refuse_unknown
from ewsjf_env.policy.policy import Policy

MAX_BODY_BYTES = 65_536
MAX_QUEUES = 64
MAX_NAME_CHARACTERS = 200
MAX_LEASE_S = 86_400.0


@dataclass(frozen=True)
class PolicyChange:
    """A whole policy, or values of some parameters (and perhaps a new name) of the current one."""

    policy: Policy | None = None
    parameters: Mapping[str, object] = dataclasses.field(default_factory=dict)
    name: str | None = None
    lease_s: float | None = None

    @classmethod
    def from_dict(cls, data: object, where: str = "change") -> PolicyChange:
        """Read a change.

        Raises:
            ConfigError: neither form, or a whole policy that is not legal.
        """
        if not isinstance(data, Mapping):
            raise ConfigError(f"{where}: expected a mapping, got {type(data).__name__}")
        name = data.get("name")
        if name is not None:
            _check_name(name, where)
        if "order" in data:
            policy = Policy.from_dict(data, where)
            if policy.partition.queues > MAX_QUEUES:
                raise ConfigError(
                    f"{where}: partition: {policy.partition.queues} queues, at most {MAX_QUEUES} "
                    "are allowed: every pick looks at each"
                )
            return cls(policy=policy)
        if "parameters" not in data:
            raise ConfigError(
                f"{where}: expected 'parameters' to change, or a whole policy with its 'order'"
            )
        refuse_unknown(data, ("parameters", "name", "lease_s"), where)
        parameters = data["parameters"]
        if not isinstance(parameters, Mapping):
            raise ConfigError(f"{where}: parameters: expected a mapping, got {parameters!r}")
        if not parameters:
            raise ConfigError(f"{where}: parameters: nothing to change")
        lease_s = data.get("lease_s")
        if lease_s is not None:
            if isinstance(lease_s, bool) or not isinstance(lease_s, (int, float)):
                raise ConfigError(f"{where}: lease_s: expected a number, got {lease_s!r}")
            check_range(f"{where}: lease_s", lease_s, 0.0, MAX_LEASE_S, low_open=True)
        return cls(parameters=dict(parameters), name=name, lease_s=lease_s)

    def applied_to(self, current: Policy) -> Policy:
        """The policy that this change makes of `current`; ConfigError when it is not legal."""
        if self.policy is not None:
            return self.policy
        return current.with_parameters(self.parameters, name=self.name)


def _check_name(name: object, where: str) -> None:
    if not isinstance(name, str) or not 1 <= len(name) <= MAX_NAME_CHARACTERS:
        raise ConfigError(
            f"{where}: name: expected a string of 1 to {MAX_NAME_CHARACTERS} characters"
        )
    if not name.isprintable():
        raise ConfigError(f"{where}: name: {name!r} has characters that cannot be printed")
