"""Parameter spaces: what can be tuned, in which range, and its place in the unit cube.

A `ParameterSpace` is the one place where named values become a point of [0, 1]^d and back.
Tuners work on the cube (or on the Box [-1, 1]^d of the environment); engines, policy files and
people work on named values.  Integer and choice parameters are rounded here, so that the value
that was really in force can be credited.

The content hash of a space is stored in policy files and studies: a space whose names, bounds
or scales changed is another space, and a policy of the old one is refused.  Parameters that were
*added* belong to a later generation: with them at their defaults the space behaves as the one
before, so what names none of them is written, and read, as of that generation.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ewsjf_env.config import ConfigError, closest, nearest

Value = float | int | str
Scale = Literal["linear", "log", "integer", "choice"]


@dataclass(frozen=True)
class Parameter:
    """One named parameter.

    Attributes:
        name: lower-case identifier; the symbol of the algorithm where it has one.
        default: a legal value.
        low, high: inclusive bounds (unused for `choice`).
        scale: `linear`, `log` (low > 0), `integer`, or `choice` (one of `choices`).
        choices: ordered legal values of a `choice`.
        unit: "s", "tokens", "tokens/s" or "" for a pure number.
        description: one line.
        tunable: False for structural switches that a tuner leaves alone.
        named: a tuner leaves it alone, too, unless a task names it: one that most traffic has
            no use for would only dilute the search.
        generation: of the space that first had it, >= 1; at its default it must change nothing.
        reconfigure: `live` when a running engine can change it, else `restart`.
        minor: True for what refines the outcome of the others: a tuner looks at it later.
    """

    name: str
    default: Value
    low: float = 0.0
    high: float = 1.0
    scale: Scale = "linear"
    choices: tuple[Value, ...] = ()
    unit: str = ""
    description: str = ""
    tunable: bool = True
    named: bool = False
    generation: int = 1
    reconfigure: Literal["live", "restart"] = "live"
    minor: bool = False

    def __post_init__(self) -> None:
        if self.scale == "choice":
            if len(self.choices) < 1:
                raise ConfigError(f"parameter {self.name!r}: a choice needs values")
        elif not self.low < self.high or (self.scale == "log" and self.low <= 0):
            raise ConfigError(f"parameter {self.name!r}: bounds [{self.low}, {self.high}]")
        self.check(self.default)

    @property
    def allowed(self) -> str:
        """The allowed values as text, for error messages and tables."""
        if self.scale == "choice":
            return "one of " + ", ".join(str(c) for c in self.choices)
        kind = {"linear": "", "log": " (log)", "integer": " (whole)"}[self.scale]
        return f"[{self.low:g}, {self.high:g}]{kind}{' ' + self.unit if self.unit else ''}"

    def check(self, value: object) -> Value:
        """Return `value` in its canonical type; ConfigError when it is not allowed."""
        if self.scale == "choice":
            for choice in self.choices:
                same_kind = isinstance(value, str) == isinstance(choice, str)
                if same_kind and not isinstance(value, bool) and value == choice:
                    return choice
            hint = closest(str(value), [str(c) for c in self.choices])
            raise ConfigError(f"parameter {self.name!r}: {value!r} is not {self.allowed}{hint}")
        if isinstance(value, bool) or not isinstance(value, (int, float, np.number)):
            raise ConfigError(
                f"parameter {self.name!r}: {value!r} is not a number in {self.allowed}"
            )
        try:
            number = float(value)
        except OverflowError:  # a whole number of more than 308 digits
            number = math.inf
        if not (math.isfinite(number) and self.low <= number <= self.high):
            raise ConfigError(f"parameter {self.name!r}: {value!r} is outside {self.allowed}")
        if self.scale == "integer":
            if number != int(number):
                raise ConfigError(f"parameter {self.name!r}: {value!r} is not whole")
            return int(number)
        return number

    def from_unit(self, u: float) -> Value:
        """Map u in [0, 1] (clipped) to a legal value."""
        u = min(1.0, max(0.0, float(u)))
        if self.scale == "choice":
            return self.choices[min(len(self.choices) - 1, int(u * len(self.choices)))]
        if self.scale == "log":
            value = math.exp(math.log(self.low) + u * math.log(self.high / self.low))
            return min(self.high, max(self.low, value))
        if self.scale == "integer":
            return min(int(self.high), int(self.low + u * (self.high - self.low + 1)))
        return min(self.high, self.low + u * (self.high - self.low))

    def to_unit(self, value: object) -> float:
        """Map a legal value to [0, 1]; a cell of a choice or integer maps to its middle."""
        legal = self.check(value)
        if self.scale == "choice":
            return (self.choices.index(legal) + 0.5) / len(self.choices)
        number = float(legal)
        if self.scale == "log":
            return math.log(number / self.low) / math.log(self.high / self.low)
        if self.scale == "integer":
            return (number - self.low + 0.5) / (self.high - self.low + 1)
        return (number - self.low) / (self.high - self.low)


@dataclass(frozen=True)
class ParameterSpace:
    """An ordered set of parameters <-> the unit cube [0, 1]^d <-> the Box [-1, 1]^d."""

    parameters: tuple[Parameter, ...]

    def __post_init__(self) -> None:
        if len(self._by_name) != len(self.parameters):
            names = [p.name for p in self.parameters]
            raise ConfigError(f"parameter space: a name occurs twice in {names}")

    @cached_property
    def _by_name(self) -> dict[str, Parameter]:
        return {p.name: p for p in self.parameters}

    def __len__(self) -> int:
        return len(self.parameters)

    def __contains__(self, name: object) -> bool:
        return name in self._by_name

    def __getitem__(self, name: str) -> Parameter:
        if name not in self._by_name:
            raise ConfigError(f"unknown parameter {name!r}{nearest(name, self.names)}")
        return self._by_name[name]

    @property
    def names(self) -> tuple[str, ...]:
        """The names in cube order."""
        return tuple(self._by_name)

    @property
    def defaults(self) -> dict[str, Value]:
        """A new dict of default values."""
        return {p.name: p.default for p in self.parameters}

    @property
    def content_hash(self) -> str:
        """16 hex digits that change when a name, bound, scale, choice or unit changes."""
        content = [
            [p.name, p.scale, p.unit, list(p.choices)]
            + ([] if p.scale == "choice" else [p.low, p.high])
            for p in self.parameters
        ]
        text = json.dumps(content, separators=(",", ":"), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def generations(self) -> dict[str, ParameterSpace]:
        """This space and its earlier generations, by content hash, the latest first."""
        # The first is there even where it was empty: orders without parameters are saved as of it.
        known = sorted({1, *(p.generation for p in self.parameters)}, reverse=True)
        spaces = [
            ParameterSpace(tuple(p for p in self.parameters if p.generation <= generation))
            for generation in known
        ]
        return {space.content_hash: space for space in spaces}

    def needed(self, values: Mapping[str, Value]) -> ParameterSpace:
        """The earliest generation that can say `values` (of all parameters)."""
        used = [p.generation for p in self.parameters if values[p.name] != p.default]
        latest = max(used, default=1)
        kept = tuple(p for p in self.parameters if p.generation <= latest)
        return self if len(kept) == len(self) else ParameterSpace(kept)

    def validate(self, values: Mapping[str, object], where: str = "parameters") -> dict[str, Value]:
        """Return all parameters: the given values checked, the others at their defaults.

        Raises:
            ConfigError: unknown name (with the nearest valid one) or illegal value.
        """
        for name in values:
            if name not in self:
                raise ConfigError(f"{where}: unknown parameter {name!r}{nearest(name, self.names)}")
        try:
            return {
                p.name: p.check(values[p.name]) if p.name in values else p.default
                for p in self.parameters
            }
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from None

    def from_unit(self, point: ArrayLike) -> dict[str, Value]:
        """Map a point of [0, 1]^d, shape (d,), to legal values."""
        cube = np.asarray(point, dtype=float)
        if cube.shape != (len(self),) or not np.isfinite(cube).all():
            raise ConfigError(f"point: expected {len(self)} finite numbers, got {cube.tolist()}")
        return {p.name: p.from_unit(u) for p, u in zip(self.parameters, cube, strict=True)}

    def to_unit(self, values: Mapping[str, object]) -> NDArray[np.float64]:
        """Map values to their point of [0, 1]^d, shape (d,); missing ones at their default."""
        legal = self.validate(values)
        return np.array([p.to_unit(legal[p.name]) for p in self.parameters])

    def from_box(self, action: ArrayLike) -> dict[str, Value]:
        """Map an action of the Box [-1, 1]^d, shape (d,), to legal values."""
        return self.from_unit((np.asarray(action, dtype=float) + 1.0) / 2.0)

    def to_box(self, values: Mapping[str, object]) -> NDArray[np.float32]:
        """Inverse of `from_box`, up to rounding of integers and choices."""
        return (2.0 * self.to_unit(values) - 1.0).astype(np.float32)

    def subset(self, names: Sequence[str]) -> ParameterSpace:
        """The space of the named parameters only, in the order of this space."""
        for name in names:
            self[name]
        return ParameterSpace(tuple(p for p in self.parameters if p.name in set(names)))

    def tunable(self, frozen: Sequence[str] = (), asked: Sequence[str] = ()) -> ParameterSpace:
        """The parameters that a tuner may move.

        Args:
            frozen: names that it may not.
            asked: names of `named` parameters that it may, too.
        """
        for name in (*frozen, *asked):
            self[name]
        kept = [
            p
            for p in self.parameters
            if p.tunable and (not p.named or p.name in asked) and p.name not in frozen
        ]
        return ParameterSpace(tuple(kept))

    def with_defaults(self, values: Mapping[str, object]) -> ParameterSpace:
        """The same space with other default values (same content hash)."""
        legal = self.validate(values)
        return ParameterSpace(
            tuple(dataclasses.replace(p, default=legal[p.name]) for p in self.parameters)
        )


def linear(name: str, default: float, *, low: float, high: float, **more: Any) -> Parameter:
    """A parameter on a linear scale; `more` are further fields of `Parameter`."""
    return Parameter(name, default, low, high, **more)


def log(name: str, default: float, *, low: float, high: float, **more: Any) -> Parameter:
    """A parameter on a logarithmic scale."""
    return Parameter(name, default, low, high, scale="log", **more)


def integer(name: str, default: int, *, low: int, high: int, **more: Any) -> Parameter:
    """A parameter that is an integer."""
    return Parameter(name, default, low, high, scale="integer", **more)


def choice(name: str, default: Value, *, of: tuple[Value, ...], **more: Any) -> Parameter:
    """A parameter that is one of a few values."""
    return Parameter(name, default, scale="choice", choices=of, **more)
