"""Settings as frozen dataclasses whose fields are checked as they are declared.

    @settings
    class SearchConfig:
        radius: PositiveShare = 0.3
        \"\"\"The search goes so far from the recommended point, unit cube.\"\"\"

A range is said once, in the type of the field (`fields.py`); the string below a field describes
it, in its JSON Schema too.  What joins several fields is checked in `__post_init__`, which runs
after the fields are checked.  pydantic checks; what it finds becomes one line, a `ConfigError`,
whether settings are made in Python or read from a file by `from_dict`.

No kind of value is changed silently: true is no number, "3" is no integer, 1.0 is no integer.
An unknown key is refused and the nearest valid one named: a typo must never become a silently
ignored setting.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, cast, dataclass_transform

from ewsjf_env.config.errors import ConfigError, closest, path_text, refuse_unknown, shown
from ewsjf_env.config.overrides import as_set, overridden

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails, SchemaValidator

T = TypeVar("T")

_STRICT = ("float", "int", "bool", "str")


@dataclass_transform(frozen_default=True, field_specifiers=(dataclasses.field,))
def settings(cls: type[T]) -> type[T]:
    """Make a frozen dataclass whose fields are checked whenever one is made.

    Raises (when one is made):
        ConfigError: an unknown or missing field, a value of the wrong type or out of range.
    """
    made = dataclasses.dataclass(frozen=True)(cls)
    plain = made.__init__
    names = [field.name for field in dataclasses.fields(cast(Any, made)) if field.init]

    @functools.wraps(plain)
    def checked(self: Any, *values: Any, **named: Any) -> None:
        given = dict(zip(names, values, strict=False))
        if len(values) > len(names) or given.keys() & named.keys():
            plain(self, *values, **named)  # Python says what is wrong with that call
        _check(made, given | named, "", self)

    made.__init__ = checked  # type: ignore[method-assign]
    made.__pydantic_config__ = {"arbitrary_types_allowed": True}  # type: ignore[attr-defined]
    return made


def from_dict(cls: type[T], data: Any, where: str, sets: Sequence[str] = ()) -> T:
    """Build the dataclass `cls` from `data`; nested dataclasses are built recursively.

    Args:
        cls: settings, or any dataclass.
        data: a mapping of field names to plain values (numbers, strings, lists, mappings).
        where: what to call the mapping in an error, for example a file name.
        sets: values set on a command line, see `overridden`.

    Raises:
        ConfigError: unknown or missing key, a value of the wrong type or out of range.
    """
    if not sets:
        return cast(T, _check(cls, data, where))
    try:
        return cast(T, _check(cls, overridden(data, sets, cls), where))
    except ConfigError as error:
        raise as_set(error, sets) from None


def to_dict(value: Any) -> Any:
    """Inverse of `from_dict`: a dataclass as plain mappings and lists.

    One that is written in another form than its fields has a method `written`.
    """
    if hasattr(value, "written"):
        return value.written()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_dict(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(k): to_dict(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_dict(v) for v in value]
    return value


def _check(cls: type, data: Any, where: str, instance: Any = None) -> Any:
    """Check a mapping, and make the dataclass, or fill `instance`."""
    from pydantic_core import ArgsKwargs, ValidationError

    given = data if instance is None else ArgsKwargs((), data)
    try:
        return _validator(cls).validate_python(given, self_instance=instance)
    except ValidationError as error:
        found = _worst(error.errors(include_url=False))
    raise _told(found, data, where)


@functools.cache
def _validator(cls: type) -> SchemaValidator:
    """Pydantic's validator of a dataclass, made strict where it would change a value's kind."""
    from pydantic import TypeAdapter
    from pydantic_core import SchemaValidator

    adapter: TypeAdapter[Any] = TypeAdapter(cls)
    adapter.rebuild(raise_errors=True)  # an annotation that cannot be resolved is named
    return SchemaValidator(_strict(adapter.core_schema, finite=False))


def _strict(schema: Any, finite: bool) -> Any:
    """The schema without silent changes; `finite`: within settings NaN and infinities go."""
    if isinstance(schema, list):
        return [_strict(item, finite) for item in schema]
    if not isinstance(schema, dict):
        return schema
    kind = schema.get("type")
    finite = hasattr(schema["cls"], "__pydantic_config__") if kind == "dataclass" else finite
    # A default is a value, not a schema.
    kept = {k: v if k == "default" else _strict(v, finite) for k, v in schema.items()}
    if kind in _STRICT:
        kept["strict"] = True
    if kind == "float":
        kept.setdefault("allow_inf_nan", not finite)
    if kind == "dict" and kept.get("keys_schema", {}).get("type") == "str":
        kept["keys_schema"] = _called(str, "plain")
    if kind == "literal":
        return _called(functools.partial(_check_choice, schema["expected"]), "before", kept)
    if kind == "dataclass":
        names = [field["name"] for field in schema["schema"]["fields"]]
        check = functools.partial(_check_keys, names)
        reference = {"ref": kept.pop("ref")} if "ref" in kept else {}
        return _called(check, "before", kept) | reference
    return kept


def _called(function: Any, when: str, schema: Any = None) -> dict[str, Any]:
    called = {"type": f"function-{when}", "function": {"type": "no-info", "function": function}}
    return called if schema is None else called | {"schema": schema}


def _check_choice(names: Sequence[object], value: object) -> object:
    if not any(type(value) is type(name) and value == name for name in names):
        hint = closest(str(value), [str(name) for name in names])
        raise ConfigError(f": {shown(value)} is not one of {list(names)}{hint}")
    return value


def _check_keys(names: Sequence[str], data: Any) -> Any:
    keys = getattr(data, "kwargs", data)
    if isinstance(keys, Mapping):
        refuse_unknown(keys, names, "")
    return data


def _worst(errors: Sequence[ErrorDetails]) -> ErrorDetails:
    """What to tell of several: a wrong value before a missing one; of a union its last kind."""
    told = [error for error in errors if error["type"] != "missing"] or list(errors)
    if told[0]["type"] == "missing" and not isinstance(told[0]["input"], (list, tuple)):
        return told[0]
    alike = [error for error in told if error["input"] is told[0]["input"]]
    return ([error for error in alike if not error["type"].endswith("_type")] or alike)[-1]


def _told(error: ErrorDetails, data: Any, where: str) -> ConfigError:
    """One line of an error of pydantic's."""
    keys = _keys(error["loc"], data)
    path = (where + path_text(keys)).removeprefix(": ")
    message = reason = _message(error)
    if isinstance(cause := error.get("ctx", {}).get("error"), ConfigError):
        named, reason = _named(cause, keys, data)
        keys += named
    message, reason = message.removeprefix(": "), reason.removeprefix(": ")
    return ConfigError(f"{path}: {message}" if path else message, keys, reason)


def _named(
    cause: ConfigError, keys: Sequence[str | int], data: Any
) -> tuple[tuple[str | int, ...], str]:
    """The keys that an error is about below `keys`, and its reason without them.

    What joins several fields is refused by a message that begins with the name of one.
    """
    if cause.keys:
        return cause.keys, cause.reason
    for key in keys:
        data = data[key]
    found: list[str | int] = []
    reason = cause.reason
    while True:
        name, colon, rest = reason.partition(": ")
        if unknown := re.match(r"unknown key '([^']*)'", reason):
            return (*found, unknown[1]), reason
        if not (colon and isinstance(data, Mapping) and name in data):
            return tuple(found), reason
        found.append(name)
        data, reason = data[name], rest


def _keys(location: Sequence[str | int], data: Any) -> tuple[str | int, ...]:
    """Keys and indices of `data` that lead to an error; pydantic's names of kinds are left out."""
    keys: list[str | int] = []
    for item in location:
        if isinstance(data, Mapping) and item in data:
            keys.append(str(item))
            data = data[item]
        elif isinstance(data, (list, tuple)) and isinstance(item, int) and item < len(data):
            keys.append(item)
            data = data[item]
    return tuple(keys)


def _message(error: ErrorDetails) -> str:
    """What is expected, and what there is."""
    kind, value, context = error["type"], error["input"], error.get("ctx", {})
    match kind:
        case "value_error":
            return str(context["error"])
        case "missing" if isinstance(value, (list, tuple)):
            return f"expected {int(error['loc'][-1]) + 1} values, got {len(value)}"
        case "missing":
            return f"missing key {error['loc'][-1]!r}"
        case "too_long":
            return f"expected {context['max_length']} values, got {context['actual_length']}"
        case "dataclass_type":
            return f"expected a mapping, got {_kind(value)}"
        case "dict_type" | "mapping_type":
            return f"expected a mapping, got {shown(value)}"
        case "tuple_type" | "list_type":
            return f"expected a list, got {shown(value)}"
        case "bool_type":
            return f"expected true or false, got {shown(value)}"
        case "int_type":
            return f"expected an integer, got {shown(value)}"
        case "string_type":
            return f"expected a string, got {shown(value)}"
        case "finite_number":
            return f"{shown(value)} is outside (-inf, inf)"
        case "float_type" if isinstance(value, int) and not isinstance(value, bool):
            return "expected a number up to 1e308"
        case "float_type":
            return f"expected a number, got {shown(value)}{_number_hint(value)}"
    return f"{error['msg'][:1].lower()}{error['msg'][1:]}, got {shown(value)}"


def _kind(value: object) -> str:
    return "nothing" if value is None else type(value).__name__


def _number_hint(value: object) -> str:
    """YAML's numbers with an exponent have a dot; without, they are strings."""
    text = value if isinstance(value, str) else ""
    match = re.fullmatch(r"([-+]?\d+)(\.\d*)?[eE]([-+]?)(\d+)", text)
    if match is None:
        return ""
    if math.isinf(float(text)):
        return ""
    whole, rest, sign, exponent = match.groups()
    return f"; YAML wants {whole}{rest or '.0'}e{sign or '+'}{exponent}"
