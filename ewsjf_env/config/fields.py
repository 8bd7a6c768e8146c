"""Kinds of fields: a range or a choice of names, said once where the field is declared.

    window_s: Positive = 60.0
    speed: Annotated[float, Range(0.0, 1000.0, low_open=True)] = 1.0
    kind: Annotated[str, Among("objective", lambda: OBJECTIVES)] = "relative"

The range is checked when settings are made, and is told in their JSON Schema.  pydantic is loaded
by the first check, not by the import of a module that declares settings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Annotated, Any

from ewsjf_env.config.errors import ConfigError, check_range, nearest, shown

MAX_INTEGER = 2**63 - 1
"""Of a setting: what is larger is no number of an array, and no float where it has 309 digits."""


@dataclass(frozen=True)
class Range:
    """A number from `low` to `high`, without `low` itself when `low_open`; None: no limit."""

    low: float | None = None
    high: float | None = None
    low_open: bool = False

    def check(self, value: Any, convert: Callable[[Any], Any]) -> Any:
        """The number; ConfigError `: VALUE is outside [LOW, HIGH]`, as it was given."""
        converted = convert(value)
        if type(converted) is int and abs(converted) > MAX_INTEGER:
            raise ConfigError(f": {shown(value)} is outside [-2^63 + 1, 2^63 - 1]")
        check_range("", value, self.low, self.high, low_open=self.low_open)
        return converted

    def __get_pydantic_core_schema__(self, source: Any, handler: Callable[[Any], Any]) -> Any:
        """See pydantic: the checks of the type, then the range, which NaN is outside, too."""
        schema = handler(source)
        if schema["type"] == "float":
            schema = schema | {"allow_inf_nan": True}
        return _wrapped(self.check, schema)

    def __get_pydantic_json_schema__(self, core: Any, handler: Callable[[Any], Any]) -> Any:
        """See pydantic: the type with its limits."""
        limits = {"exclusiveMinimum" if self.low_open else "minimum": self.low}
        limits["maximum"] = self.high
        return handler(core) | {key: limit for key, limit in limits.items() if limit is not None}


@dataclass(frozen=True)
class Among:
    """A name of a registry; `names` is asked at the first check, when all modules are there."""

    what: str
    names: Callable[[], Iterable[str]]

    def check(self, value: Any, convert: Callable[[Any], Any]) -> Any:
        """The name; ConfigError that names the nearest valid one when it is unknown."""
        names = list(self.names())
        if convert(value) not in names:
            raise ConfigError(f": unknown {self.what} {value!r}{nearest(value, names)}")
        return value

    def __get_pydantic_core_schema__(self, source: Any, handler: Callable[[Any], Any]) -> Any:
        """See pydantic: a string, then the choice."""
        return _wrapped(self.check, handler(source))

    def __get_pydantic_json_schema__(self, core: Any, handler: Callable[[Any], Any]) -> Any:
        """See pydantic: the string with its names."""
        return handler(core) | {"enum": list(self.names())}


class Distinct:
    """A list without the same value twice: `Annotated[tuple[str, ...], Distinct()]`."""

    def check(self, value: Any, convert: Callable[[Any], Any]) -> Any:
        """The list; ConfigError `: VALUE occurs twice`."""
        converted = convert(value)
        for index, item in enumerate(converted):
            if item in converted[:index]:
                raise ConfigError(f": {item!r} occurs twice")
        return converted

    def __get_pydantic_core_schema__(self, source: Any, handler: Callable[[Any], Any]) -> Any:
        """See pydantic: the list, then its values."""
        return _wrapped(self.check, handler(source))

    def __get_pydantic_json_schema__(self, core: Any, handler: Callable[[Any], Any]) -> Any:
        """See pydantic: the list, whose values differ."""
        return handler(core) | {"uniqueItems": True}


class Instance:
    """A value that is made elsewhere: `Annotated[Policy, Instance()]` is checked for its class."""

    def __get_pydantic_core_schema__(self, source: Any, handler: Callable[[Any], Any]) -> Any:
        """See pydantic."""
        return {"type": "is-instance", "cls": source}


def _wrapped(check: Callable[..., Any], schema: Any) -> Any:
    return {
        "type": "function-wrap",
        "function": {"type": "no-info", "function": check},
        "schema": schema,
    }


Positive = Annotated[float, Range(0.0, low_open=True)]
NotNegative = Annotated[float, Range(0.0)]
Share = Annotated[float, Range(0.0, 1.0)]
PositiveShare = Annotated[float, Range(0.0, 1.0, low_open=True)]
Count = Annotated[int, Range(1)]
Natural = Annotated[int, Range(0)]
Names = Annotated[tuple[str, ...], Distinct()]
