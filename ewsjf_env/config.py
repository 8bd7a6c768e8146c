"""How do plain mappings (YAML, JSON, command lines) become frozen dataclasses, safely?

Every configuration of the project is a frozen dataclass whose fields carry their unit in the
name.  `from_dict` builds one from a mapping and refuses what it does not know, naming the
nearest valid key: a typo must never become a silently ignored setting.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import re
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml

T = TypeVar("T")


class ConfigError(ValueError):
    """Bad input: one line naming the field or file, the value and what is allowed."""


def nearest(name: str, valid: Iterable[str]) -> str:
    """Return a hint `; nearest valid name: 'x'` or the list of valid names."""
    names = sorted(valid)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.4)
    if close:
        return f"; nearest valid name: {close[0]!r}"
    return f"; valid names: {', '.join(names)}" if names else ""


def refuse_unknown(data: Mapping[str, Any], valid: Iterable[str], where: str) -> None:
    """Raise ConfigError for the first key of `data` that is not in `valid`."""
    names = set(valid)
    for key in data:
        if key not in names:
            raise ConfigError(f"{where}: unknown key {key!r}{nearest(str(key), names)}")


def check_range(
    where: str,
    value: float,
    low: float | None = None,
    high: float | None = None,
    *,
    low_open: bool = False,
) -> None:
    """Raise ConfigError unless low <= value <= high (low < value when `low_open`).

    NaN and infinities are always refused.
    """
    inside = value - value == 0  # False for NaN and infinities
    if inside and low is not None:
        inside = value > low if low_open else value >= low
    if inside and high is not None:
        inside = value <= high
    if not inside:
        left = "(" if low_open or low is None else "["
        low_text = "-inf" if low is None else f"{low:g}"
        high_text = "inf)" if high is None else f"{high:g}]"
        raise ConfigError(f"{where}: {value!r} is outside {left}{low_text}, {high_text}")


def from_dict(cls: type[T], data: Any, where: str) -> T:
    """Build the dataclass `cls` from `data`; nested dataclasses are built recursively.

    Args:
        cls: a dataclass whose `__post_init__` validates ranges.
        data: a mapping of field names to plain values (numbers, strings, lists, mappings).
        where: what to call the mapping in an error, for example a file name.

    Raises:
        ConfigError: unknown or missing key, or a value of the wrong type.
    """
    if not isinstance(data, Mapping):
        raise ConfigError(f"{where}: expected a mapping, got {type(data).__name__}")
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}  # type: ignore[arg-type]
    refuse_unknown(data, fields, where)
    hints = _hints(typing.cast(type, cls))
    values = {k: _convert(hints[k], v, f"{where}: {k}") for k, v in data.items()}
    for name, field in fields.items():
        has_default = (
            field.default is not dataclasses.MISSING
            or field.default_factory is not dataclasses.MISSING
        )
        if name not in values and not has_default:
            raise ConfigError(f"{where}: missing key {name!r}")
    try:
        return cls(**values)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def to_dict(value: Any) -> Any:
    """Inverse of `from_dict`: a dataclass as plain mappings and lists."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_dict(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(k): to_dict(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_dict(v) for v in value]
    return value


class _Loader(yaml.SafeLoader):
    """A safe loader that refuses a key that is given twice, of which the last would win."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """See yaml; a merged key (`<<`) may be overridden, as YAML has it."""
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    problem = f"key {key.value!r} is given twice"
                    raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def load_yaml(path: str | Path) -> dict[str, Any]:
    """Read a YAML mapping; ConfigError when the file is missing, invalid or no mapping."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"{path}: cannot be read: {reason}") from None
    try:
        data = yaml.load(text, _Loader)  # a SafeLoader
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # a date, a number, a depth
        mark = getattr(error, "problem_mark", None)
        place = "" if mark is None else f" (line {mark.line + 1}, column {mark.column + 1})"
        reason = getattr(error, "problem", None) or error
        text = " ".join(f"{reason}{place}".split()).replace('"<unicode string>", ', "")
        raise ConfigError(f"{path}: not valid YAML: {text}") from None
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: expected a mapping at top level, got {type(data).__name__}")
    return data


def _convert(hint: Any, value: Any, where: str) -> Any:
    """Convert `value` to the annotated type `hint`; refuse silent changes of kind."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        rest = [a for a in arguments if a is not type(None)]
        for option in rest[:-1]:
            try:
                return _convert(option, value, where)
            except ConfigError:
                continue
        return _convert(rest[-1], value, where)
    if origin is typing.Literal:
        if value not in arguments:
            hint_text = nearest(str(value), [str(a) for a in arguments])
            raise ConfigError(f"{where}: {value!r} is not one of {list(arguments)}{hint_text}")
        return value
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise ConfigError(f"{where}: expected a list, got {value!r}")
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return tuple(_convert(arguments[0], v, f"{where}[{i}]") for i, v in enumerate(value))
        if len(value) != len(arguments):
            raise ConfigError(f"{where}: expected {len(arguments)} values, got {len(value)}")
        pairs = zip(arguments, value, strict=True)
        return tuple(_convert(a, v, f"{where}[{i}]") for i, (a, v) in enumerate(pairs))
    if origin in (dict, Mapping):
        if not isinstance(value, Mapping):
            raise ConfigError(f"{where}: expected a mapping, got {value!r}")
        return {str(k): _convert(arguments[1], v, f"{where}: {k}") for k, v in value.items()}
    if dataclasses.is_dataclass(hint):
        return (
            value
            if isinstance(value, typing.cast(type, hint))
            else from_dict(typing.cast(type, hint), value, where)
        )
    if hint is bool and not isinstance(value, bool):
        raise ConfigError(f"{where}: expected true or false, got {value!r}")
    if hint is int and (isinstance(value, bool) or not isinstance(value, int)):
        raise ConfigError(f"{where}: expected a whole number, got {value!r}")
    if hint is float:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ConfigError(f"{where}: expected a number, got {value!r}{_number_hint(value)}")
        try:
            return float(value)
        except OverflowError:
            raise ConfigError(f"{where}: expected a number up to 1e308") from None
    if hint is str and not isinstance(value, str):
        raise ConfigError(f"{where}: expected a text, got {value!r}")
    return value


def _number_hint(value: object) -> str:
    """YAML's numbers with an exponent have a dot; without, they are texts."""
    text = value if isinstance(value, str) else ""
    match = re.fullmatch(r"([-+]?\d+)(\.\d*)?[eE]([-+]?)(\d+)", text)
    if match is None:
        return ""
    whole, rest, sign, exponent = match.groups()
    return f"; YAML wants {whole}{rest or '.0'}e{sign or '+'}{exponent}"
