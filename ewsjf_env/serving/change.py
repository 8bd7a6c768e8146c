"""A change of policy that a caller asks for.

A change is one of two plain mappings:

    {"order": "ewsjf", "parameters": {...}, ...}   a whole policy, as in a policy file
    {"parameters": {"k": 8.0}, "name": "trial 7"}  some parameters of the policy in force

With "lease_s" beside "parameters" the values are on trial for so many seconds, see `lease.py`.

`read_json` reads text from anybody: it refuses whatever Python's parser would let through that
could not be answered, logged or passed on (NaN, infinities, deep nesting, a key given twice,
text that is no Unicode).
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ewsjf_env.config import ConfigError, check_range, refuse_unknown
from ewsjf_env.policy.policy import Policy

MAX_BODY_BYTES = 65_536
MAX_DEPTH = 16
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


def read_json(content: bytes, where: str = "body") -> dict[str, Any]:
    """Parse a JSON object from an untrusted source.

    Raises:
        ConfigError: too large, not JSON, not an object, or see the module.
    """
    if len(content) > MAX_BODY_BYTES:
        raise ConfigError(f"{where}: larger than {MAX_BODY_BYTES} bytes")
    try:
        data = json.loads(
            content.decode("utf-8"),
            parse_constant=_refuse_constant,
            parse_float=_finite,
            object_pairs_hook=_unique,
        )
    except RecursionError:
        raise ConfigError(f"{where}: nested deeper than {MAX_DEPTH} levels") from None
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
    except ValueError as error:
        raise ConfigError(f"{where}: not valid JSON: {_short(error)}") from None
    if not isinstance(data, dict):
        raise ConfigError(f"{where}: expected an object, got {type(data).__name__}")
    _check_tree(data, where)
    return data


def _check_tree(data: object, where: str) -> None:
    """Bound the depth and refuse text with lone surrogates; without recursion."""
    stack: list[tuple[object, int]] = [(data, 1)]
    while stack:
        value, depth = stack.pop()
        if depth > MAX_DEPTH:
            raise ConfigError(f"{where}: nested deeper than {MAX_DEPTH} levels")
        if isinstance(value, dict):
            stack += [(item, depth + 1) for pair in value.items() for item in pair]
        elif isinstance(value, list):
            stack += [(item, depth + 1) for item in value]
        elif isinstance(value, str):
            try:
                value.encode("utf-8")
            except UnicodeEncodeError:
                raise ConfigError(f"{where}: a text is not valid Unicode") from None
        elif isinstance(value, int) and abs(value) > 2**63 - 1:
            raise ConfigError(f"{where}: a whole number is out of the range of 64 bits")


def _check_name(name: object, where: str) -> None:
    if not isinstance(name, str) or not 1 <= len(name) <= MAX_NAME_CHARACTERS:
        raise ConfigError(
            f"{where}: name: expected a text of 1 to {MAX_NAME_CHARACTERS} characters"
        )
    if not name.isprintable():
        raise ConfigError(f"{where}: name: {name!r} has characters that cannot be printed")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ConfigError(f"key {twice!r} is given twice")
    return found


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ConfigError(f"the number {text[:40]} is too large")
    return value


def _refuse_constant(text: str) -> float:
    raise ConfigError(f"{text} is not allowed")


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
