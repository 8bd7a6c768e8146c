"""A policy: an order, its parameter values and a partition, in one JSON file.

A policy file is plain JSON, versioned and validated: unknown keys, other schema versions and
values of another parameter space are refused.  Loading needs numpy only and runs no code from
the file.

Its `kind` says whether some parameters follow the traffic (`adaptive`):

    static  they do not
    table   they are those of the nearest of a few kinds of traffic
    mlp     a small network computes them
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from numpy.typing import ArrayLike

from ewsjf_env.config import (
    ConfigError,
    closest,
    nearest,
    refuse_irregular,
    refuse_unknown,
    to_dict,
)
from ewsjf_env.parameters import ParameterSpace, Value
from ewsjf_env.policy.adaptive import Adaptive
from ewsjf_env.policy.rules import RULES
from ewsjf_env.scheduling.orders.registry import ORDERS
from ewsjf_env.scheduling.orders.spec import OrderSpec
from ewsjf_env.scheduling.partition.partition import Partition
from ewsjf_env.strict_json import read_json

SCHEMA_VERSION = 1
MAX_FILE_BYTES = 8_000_000  # four layers of 256 have 200,000 weights of up to 25 characters
DEFAULT_PATH = Path(__file__).parent / "default.json"
SHIPPED_ORDER = "ewsjf"
STATIC = "static"
KINDS = (STATIC, *RULES)
_KEYS = (
    "schema_version",
    "kind",
    "name",
    "order",
    "parameter_space_hash",
    "parameters",
    "partition",
    "adaptive",
    "provenance",
)
ONE_QUEUE = Partition(cuts=(), means=(512.0,), masses=(1.0,))


@dataclass(frozen=True)
class Policy:
    """One way to order waiting requests.

    Attributes:
        name: label of the arm in comparisons, unique there.
        order: a key of `scheduling.orders.registry.ORDERS`.
        parameters: values of all parameters of that order's space.
        partition: the queues to start with; refreshed from traffic by partitioned orders.
        adaptive: how some of the parameters follow the traffic; None: they do not.  `parameters`
            then holds what is in force until the first change.
        provenance: where the values come from (run id, traffic, evaluation); never interpreted.
    """

    name: str
    order: str
    parameters: Mapping[str, Value] = field(default_factory=dict)
    partition: Partition = ONE_QUEUE
    adaptive: Adaptive | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise ConfigError(f"name: expected a string, got {self.name!r}")
        values = self.spec.space.validate(self.parameters, f"policy {self.name!r}")
        object.__setattr__(self, "parameters", values)
        if self.adaptive is not None:
            names = self.adaptive.space.names
            if self.adaptive.space.content_hash != self.space.subset(names).content_hash:
                raise ConfigError(f"policy {self.name!r}: adaptive: of another parameter space")

    @property
    def spec(self) -> OrderSpec:
        """The registry entry of the order; ConfigError for an unknown order."""
        return order_spec(self.order, "order")

    @property
    def space(self) -> ParameterSpace:
        """The parameter space of the order."""
        return self.spec.space

    @property
    def kind(self) -> str:
        """One of `KINDS`."""
        return STATIC if self.adaptive is None else self.adaptive.rule.kind

    @property
    def oracle(self) -> bool:
        """True when the order reads true output lengths: a bound, not a product."""
        return self.spec.oracle

    def act(self, features: ArrayLike | None = None) -> dict[str, Value]:
        """All parameter values for what the traffic looks like.

        Args:
            features: the inputs of `adaptive`, shape (len(inputs),) in [-1, 1]; a static policy
                does not look at them.  Where they are missing (None or another shape) or not
                finite, the tuned parameters are at the policy's fallback.
        """
        if self.adaptive is None:
            return dict(self.parameters)
        return {**self.parameters, **self.adaptive.act(features)}

    def with_parameters(self, values: Mapping[str, object], name: str | None = None) -> Policy:
        """The same policy with some parameters changed."""
        merged: dict[str, Any] = {**self.parameters, **values}
        return dataclasses.replace(self, parameters=merged, name=name or self.name)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as in a policy file.

        Parameters of a later generation that are at their defaults are left out, so that a file
        that has no use for them stays readable by, and equal to that of, an earlier version.
        """
        adaptive = {} if self.adaptive is None else {"adaptive": self.adaptive.to_dict()}
        space = self.space.needed(self.parameters)
        return {
            "schema_version": SCHEMA_VERSION,
            "kind": self.kind,
            "name": self.name,
            "order": self.order,
            "parameter_space_hash": space.content_hash,
            "parameters": {name: self.parameters[name] for name in space.names},
            "partition": self.partition.to_dict(),
            **adaptive,
            "provenance": to_dict(self.provenance),
        }

    @classmethod
    def from_dict(cls, data: object, where: str = "policy") -> Policy:
        """Inverse of `to_dict`.

        Only `order` is required: an inline policy may be as short as {"order": "hrrn"}, and
        {"order": "ewsjf"} is the shipped policy, to the digit.  A `parameter_space_hash`, where
        given, must be that of the order's space or of an earlier generation of it; a policy that
        is not static must have one.

        Raises:
            ConfigError: naming the key, its value and what is allowed.
        """
        if not isinstance(data, Mapping):
            raise ConfigError(f"{where}: expected a mapping, got {type(data).__name__}")
        refuse_unknown(data, _KEYS, where)
        version = data.get("schema_version", SCHEMA_VERSION)
        if version != SCHEMA_VERSION or isinstance(version, bool):
            raise ConfigError(f"{where}: schema_version: {version!r} is not {SCHEMA_VERSION}")
        kind = data.get("kind", STATIC)
        if not isinstance(kind, str) or kind not in KINDS:
            hint = closest(str(kind), KINDS)
            raise ConfigError(f"{where}: kind: {kind!r} is not one of {', '.join(KINDS)}{hint}")
        spec = order_spec(data.get("order"), f"{where}: order")
        name = data.get("name", spec.name)
        if not isinstance(name, str) or not name:
            raise ConfigError(f"{where}: name: expected a string, got {name!r}")
        parameters = _mapping(data, "parameters", where)
        _check_space(data, kind, spec, parameters, where)
        policy = cls(
            name=name,
            order=spec.name,
            parameters=spec.space.validate(parameters, where),
            partition=_partition(data, spec, where),
            adaptive=_adaptive(data, kind, spec.space, where),
            provenance=dict(_mapping(data, "provenance", where)),
        )
        return policy if "provenance" in data else _as_shipped(policy)

    @classmethod
    def load(cls, path: str | Path) -> Policy:
        """Read a policy file; ConfigError naming the file when anything is wrong with it."""
        refuse_irregular(path)
        try:
            with Path(path).open("rb") as file:
                content = file.read(MAX_FILE_BYTES + 1)
        except (OSError, ValueError) as error:  # ValueError: a NUL in the name
            reason = getattr(error, "strerror", None) or error
            raise ConfigError(f"{path}: policy file cannot be read: {reason}") from None
        if len(content) > MAX_FILE_BYTES:
            raise ConfigError(f"{path}: policy file is larger than {MAX_FILE_BYTES} bytes")
        return cls.from_json(content, str(path))

    @classmethod
    def from_json(cls, content: bytes | str, where: str) -> Policy:
        """Parse JSON text; ConfigError for what `strict_json` refuses."""
        return cls.from_dict(read_json(content, where), where)

    def save(self, path: str | Path) -> None:
        """Write the policy file atomically: a reader sees the old or the new one, whole."""
        target = Path(path)
        temporary = target.with_name(f"{target.name}.{os.getpid()}.tmp")
        try:
            temporary.write_text(self.to_json(), encoding="utf-8")
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)

    def to_json(self) -> str:
        """The text of the policy file."""
        data = self.to_dict()
        if self.adaptive is None:
            return json.dumps(data, indent=2, allow_nan=False) + "\n"
        # A number a line would be a hundred thousand lines: here it is a key a line.
        rows = [f"  {json.dumps(k)}: {json.dumps(v, allow_nan=False)}" for k, v in data.items()]
        return "{\n" + ",\n".join(rows) + "\n}\n"


def order_spec(order: object, where: str) -> OrderSpec:
    """The registry entry of an order; ConfigError, naming the nearest, for an unknown one."""
    if not isinstance(order, str) or order not in ORDERS:
        raise ConfigError(f"{where}: unknown {order!r}{nearest(str(order), ORDERS)}")
    return ORDERS[order]


def default_policy() -> Policy:
    """The `ewsjf` policy that ships with the package, learnt from generic training traffic."""
    return dataclasses.replace(_shipped())


@functools.cache
def _shipped() -> Policy:
    return Policy.load(DEFAULT_PATH)


def _as_shipped(policy: Policy) -> Policy:
    """With the shipped policy's provenance, where it is that policy."""
    if policy.order != SHIPPED_ORDER or policy.adaptive is not None:
        return policy
    shipped = _shipped()
    same = policy.parameters == shipped.parameters and policy.partition == shipped.partition
    return dataclasses.replace(policy, provenance=shipped.provenance) if same else policy


def _mapping(data: Mapping[str, Any], key: str, where: str) -> Mapping[str, Any]:
    found = data.get(key, {})
    if not isinstance(found, Mapping):
        raise ConfigError(f"{where}: {key}: expected a mapping, got {found!r}")
    return found


def _check_space(
    data: Mapping[str, Any], kind: str, spec: OrderSpec, parameters: Mapping[str, Any], where: str
) -> None:
    """Refuse a policy of another parameter space, and values that its own space does not have."""
    own, generations = spec.space.content_hash, spec.space.generations()
    given = data.get("parameter_space_hash", own if kind == STATIC else None)
    if not isinstance(given, str) or given not in generations:
        raise ConfigError(
            f"{where}: parameter_space_hash: {given!r} is not {own!r}, the space of order "
            f"{spec.name!r} in this version; export the policy again"
        )
    for name in parameters:
        if name in spec.space and name not in generations[given]:
            raise ConfigError(
                f"{where}: parameters: {name!r} is not in the space {given!r} that the policy "
                f"names; its own is {own!r}"
            )


def _partition(data: Mapping[str, Any], spec: OrderSpec, where: str) -> Partition:
    """The given one, else the shipped one for an order that has queues."""
    if data.get("partition") is not None:
        return Partition.from_dict(data["partition"], f"{where}: partition")
    return _shipped().partition if spec.partitioned else ONE_QUEUE


def _adaptive(
    data: Mapping[str, Any], kind: str, space: ParameterSpace, where: str
) -> Adaptive | None:
    given = data.get("adaptive")
    if kind != STATIC:
        return Adaptive.from_dict(given, kind, space, f"{where}: adaptive")
    if given is not None:
        raise ConfigError(f"{where}: adaptive: a static policy has none; expected another kind")
    return None


def parse_policies(text: str, where: str = "policies") -> list[Policy]:
    """Parse a list such as `fcfs,hrrn,linear_aging(r=20),ewsjf(k=8;lambda=1),my_policy.json`.

    Commas separate policies outside parentheses.  A policy is the name of an order, with
    values of its parameters in parentheses, or a policy file (ending in .json).

    Args:
        text: see above.
        where: what the list was given for, in an error.

    Raises:
        ConfigError: unknown order or parameter, illegal value, or the same label twice.
    """
    policies = [parse_policy(part, where) for part in split_policies(text)]
    if not policies:
        raise ConfigError(f"{where}: the list is empty")
    names = [p.name for p in policies]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"{where}: {name!r} occurs twice")
    return policies


def split_policies(text: str) -> list[str]:
    """Split at commas outside parentheses; blank parts are dropped."""
    return [part.strip() for part in re.split(r",(?![^()]*\))", text) if part.strip()]


def parse_policy(text: str, where: str = "policy") -> Policy:
    """Parse one item of `parse_policies`; errors begin with `where`."""
    try:
        return _parsed(text)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


def _parsed(text: str) -> Policy:
    if text.endswith(".json"):
        return Policy.load(text)
    match = re.fullmatch(r"([A-Za-z0-9_]+)(?:\((.*)\))?", text)
    if match is None:
        raise ConfigError(f"{text!r}: expected NAME, NAME(parameter=value,...) or FILE.json")
    order, arguments = match.group(1), match.group(2)
    if order not in ORDERS:
        raise ConfigError(f"unknown policy {order!r}{nearest(order, ORDERS)}")
    values = _parse_values(text, re.split(r"[,;]", arguments) if arguments else [])
    return Policy.from_dict({"name": text, "order": order, "parameters": values}, text)


def _parse_values(where: str, parts: Sequence[str]) -> dict[str, object]:
    values: dict[str, object] = {}
    for part in parts:
        name, separator, value = (piece.strip() for piece in part.partition("="))
        if not separator or not name or not value:
            raise ConfigError(f"{where!r}: expected parameter=value, got {part.strip()!r}")
        if name in values:
            raise ConfigError(f"{where!r}: parameter {name!r} is given twice")
        values[name] = _number_or_text(value)
    return values


def _number_or_text(value: str) -> object:
    try:
        number = float(value)
    except ValueError:
        return value
    return int(number) if math.isfinite(number) and number == int(number) else number
