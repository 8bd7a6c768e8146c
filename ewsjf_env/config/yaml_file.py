"""YAML files of settings: mappings whose keys are strings, each given once.

YAML 1.1 has more than settings need, and some of it means what nobody expects.  Refused are keys
that are read as something else than is written (`no:` as false), tags, anchors that hold
themselves or that unfold to very much, and deep nesting.  `010` and `1:30` are no numbers here,
as in YAML 1.2: YAML 1.1 reads them as 8 and 90.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml
from yaml.constructor import ConstructorError

from ewsjf_env.config.errors import ConfigError
from ewsjf_env.config.files import read_text

MAX_VALUES = 100_000
"""Values of a file, each as often as its anchor is used."""
MAX_DEPTH = 32

_TAG = "tag:yaml.org,2002:"
_KINDS = ("null", "bool", "int", "float", "str", "seq", "map", "timestamp")
_INTEGER = r"[-+]?(?:0b[01_]+|0x[0-9a-fA-F_]+|0|[1-9][0-9_]*)$"
_FLOAT = (
    r"[-+]?(?:[0-9][0-9_]*\.[0-9_]*(?:[eE][-+][0-9]+)?|\.[0-9][0-9_]*(?:[eE][-+][0-9]+)?"
    r"|\.(?:inf|Inf|INF))$|\.(?:nan|NaN|NAN)$"
)


class _Loader(yaml.SafeLoader):
    """A safe loader without what the module refuses; all keys are strings."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """See yaml; a merged key (`<<`) may be overridden, as YAML has it."""
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise ConstructorError(None, None, "a key is no string", key.start_mark)
            if key.value in seen:
                problem = f"key {key.value!r} is given twice"
                raise ConstructorError(None, None, problem, key.start_mark)
            seen.add(key.value)
            if key.tag != f"{_TAG}merge" and str(read := self.construct_object(key)) != key.value:
                problem = f"key {key.value!r} is read as {read!r}; write it in quotes"
                raise ConstructorError(None, None, problem, key.start_mark)
        return {str(key): value for key, value in super().construct_mapping(node, deep).items()}

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """See yaml; a number or date that cannot be one is told with its place."""
        try:
            return super().construct_object(node, deep)
        except ValueError as error:
            raise ConstructorError(None, None, str(error), node.start_mark) from None


_Loader.yaml_implicit_resolvers = {
    first: [(tag, form) for tag, form in kinds if tag not in (f"{_TAG}int", f"{_TAG}float")]
    for first, kinds in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(f"{_TAG}int", re.compile(_INTEGER), list("-+0123456789"))
_Loader.add_implicit_resolver(f"{_TAG}float", re.compile(_FLOAT), list("-+0123456789."))


def parse_yaml(text: str, where: str) -> Any:
    """The value of a YAML text; ConfigError, which begins with `where`, when it is none."""
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _measure(node, {})
        return loader.construct_document(node)
    except RecursionError:
        reason, place = f"nested deeper than {MAX_DEPTH} levels", ""
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = "" if mark is None else f" (line {mark.line + 1}, column {mark.column + 1})"
        reason = getattr(error, "problem", None) or str(error)
    told = " ".join(f"{reason}{place}".split()).replace('"<unicode string>", ', "")
    raise ConfigError(f"{where}: not valid YAML: {told}")


def load_yaml(path: str | Path) -> dict[str, Any]:
    """Read a YAML mapping; ConfigError when the file is missing, invalid or no mapping."""
    data = parse_yaml(read_text(path), str(path))
    if data is None:
        raise ConfigError(f"{path}: is empty; expected a mapping at top level")
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: expected a mapping at top level, got {type(data).__name__}")
    return data


def _measure(node: yaml.Node, known: dict[yaml.Node, tuple[int, int] | None]) -> tuple[int, int]:
    """Values of a node when all anchors are unfolded, and its depth; refuses what is too much."""
    if node in known:
        if (found := known[node]) is None:
            raise ConstructorError(None, None, "an anchor holds itself", node.start_mark)
        return found
    known[node] = None
    if node.tag not in [f"{_TAG}{kind}" for kind in (*_KINDS, "merge", "value")]:
        problem = f"the tag {node.tag.replace(_TAG, '!!')!r} is not for settings"
        raise ConstructorError(None, None, problem, node.start_mark)
    parts: list[yaml.Node] = []
    if isinstance(node, yaml.ScalarNode):
        _refuse_odd_text(node)
    elif isinstance(node, yaml.MappingNode):
        parts = [part for pair in node.value for part in pair]
    else:
        parts = node.value
    inside = [_measure(part, known) for part in parts]
    size = 1 + sum(count for count, _ in inside)
    depth = 1 + max((depth for _, depth in inside), default=0)
    if size > MAX_VALUES:
        problem = f"more than {MAX_VALUES} values, anchors unfolded"
        raise ConstructorError(None, None, problem, node.start_mark)
    if depth > MAX_DEPTH:
        raise RecursionError
    known[node] = size, depth
    return size, depth


def _refuse_odd_text(node: yaml.ScalarNode) -> None:
    if "\0" in node.value:  # no file has such a name
        raise ConstructorError(None, None, "a string with a NUL", node.start_mark)
    try:
        node.value.encode()
    except UnicodeEncodeError:
        raise ConstructorError(None, None, "a string is not Unicode", node.start_mark) from None
