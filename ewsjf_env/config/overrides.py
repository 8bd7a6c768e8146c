"""Values set on a command line: `--set safety.radius=0.3` over what a file says."""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any

from ewsjf_env.config.errors import ConfigError, nearest, path_text, shown
from ewsjf_env.config.yaml_file import parse_yaml


def overridden(data: Mapping[str, Any], sets: Sequence[str], cls: type) -> dict[str, Any]:
    """The mapping with values set.

    Args:
        data: what a file says; it is not changed.
        sets: `a.b=3` each; the value is YAML, a list has indices: `rates_per_s.0=4`.
        cls: the settings that the mapping is for, whose fields are the valid paths.

    Raises:
        ConfigError: `--set a.b: ...`: no such path, naming the nearest one, no YAML, or what the
            path goes through is something else in `data`.
    """
    found: Any = dict(data)
    for text in sets:
        path, equals, value = text.partition("=")
        keys = path.split(".")
        if not equals or "" in keys:
            raise ConfigError(f"--set: {text!r} is not like a.b=3")
        steps: list[str | int] = []
        kind: Any = cls
        for key in keys:
            steps.append(int(key) if _is_index(kind, key) else key)
            inside, kind = kind, _kind_at(kind, key)
            if kind is None:
                hint = _nearest(path, cls, key, inside)
                raise ConfigError(f"--set {path}: unknown key {key!r}{hint}")
        parsed = parse_yaml(value, f"--set {path}")
        found = _with(found, steps, parsed, _Told(path, value))
    return typing.cast(dict[str, Any], found)


def as_set(error: ConfigError, sets: Sequence[str]) -> ConfigError:
    """The error, told as one of `--set` where it is about a value that was set there."""
    for text in reversed(sets):
        path = text.partition("=")[0]
        names = path.split(".")
        if [str(key) for key in error.keys[: len(names)]] == names:
            where = f"--set {path}{path_text(error.keys[len(names) :])}"
            return ConfigError(f"{where}: {error.reason}", error.keys, error.reason)
    return error


@dataclasses.dataclass(frozen=True)
class _Told:
    """What a user wrote: path and value."""

    path: str
    value: str

    def before(self, rest: Sequence[str | int]) -> str:
        """The path of what holds the last keys `rest`."""
        keys = self.path.split(".")
        return ".".join(keys[: len(keys) - len(rest)])

    def whole(self, rest: Sequence[str | int]) -> str:
        """The value inside the mappings and lists that `rest` leads through, as YAML."""
        text = self.value
        for key in reversed(rest):
            text = f"[{text}]" if isinstance(key, int) else f"{{{key}: {text}}}"
        return text


def _with(data: Any, keys: Sequence[str | int], value: Any, told: _Told) -> Any:
    """A copy of `data` with the value at the end of the keys."""
    if not keys:
        return value
    key, rest = keys[0], keys[1:]
    if isinstance(data, list) and str(key).isdecimal():
        if (index := int(key)) >= len(data):
            raise ConfigError(f"--set {told.path}: the list has {len(data)} values, from 0 on")
        items = list(data)
        items[index] = _with(items[index], rest, value, told)
        return items
    if isinstance(key, int):
        name = told.before(keys)
        raise ConfigError(
            f"--set {told.path}: the list {name} is not in the file; give all its values: "
            f"--set {name}={told.whole(keys)}"
        )
    if data is not None and not isinstance(data, Mapping):
        raise ConfigError(
            f"--set {told.path}: {told.before(keys)} is {shown(data)}, expected a mapping"
        )
    inner = {} if data is None else data
    return {**inner, key: _with(inner.get(key), rest, value, told)}


def _is_index(kind: Any, key: str) -> bool:
    """Whether a key of a type is the index of a list."""
    options = list(_options(kind))
    lists = any(typing.get_origin(option) is tuple for option in options)
    others = any(typing.get_origin(option) in (dict, Mapping) for option in options)
    return lists and not others and key.isdecimal()


def _kind_at(kind: Any, key: str) -> Any:
    """The type of a key of a type; None: it has no such key."""
    for option in _options(kind):
        if option is Any:
            return Any
        if dataclasses.is_dataclass(option) and key in (kinds := _kinds(option)):
            return kinds[key]
        arguments = typing.get_args(option)
        if typing.get_origin(option) in (dict, Mapping):
            return arguments[1]
        if typing.get_origin(option) is tuple and key.isdecimal():
            return arguments[0]
    return None


def _options(kind: Any) -> Iterator[Any]:
    """What a value may be, without None and ranges."""
    origin = typing.get_origin(kind)
    if origin is Annotated:
        yield from _options(typing.get_args(kind)[0])
    elif origin in (typing.Union, types.UnionType):
        for option in typing.get_args(kind):
            yield from _options(option)
    else:
        yield kind


def _kinds(cls: Any) -> dict[str, Any]:
    """Types of the keys of settings, as they are written."""
    if hasattr(cls, "written_kinds"):
        return dict(cls.written_kinds())
    hints = typing.get_type_hints(cls, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls) if field.init}


def _paths(cls: Any) -> Iterator[str]:
    for key, kind in _kinds(cls).items():
        yield key
        for option in _options(kind):
            if dataclasses.is_dataclass(option):
                yield from (f"{key}.{path}" for path in _paths(option))


def _nearest(path: str, cls: type, key: str, inside: Any) -> str:
    """The valid path that is like `path`, else the names where `key` is not one.

    Args:
        path: all of it.
        cls: where the path begins.
        key: that is unknown.
        inside: the type without such a key.
    """
    settings = [option for option in _options(inside) if dataclasses.is_dataclass(option)]
    paths = [p for p in _paths(cls) if not (settings and path.startswith(f"{p}."))]
    if close := difflib.get_close_matches(path, paths, n=1, cutoff=0.5):
        return f"; nearest valid path: {close[0]!r}"
    return nearest(key, _kinds(settings[0] if settings else cls))
