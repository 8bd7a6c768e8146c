"""A JSON reader for text from anybody: strict where Python's own is not.

Refused is what Python's parser lets through although it could not be answered, logged or passed
on as JSON: a key given twice, NaN, infinities and numbers that become one, integers beyond 64
bits, deep nesting, strings that are no Unicode.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

from ewsjf_env.config import ConfigError

MAX_DEPTH = 16


def read_json(content: bytes | str, where: str, most_bytes: int | None = None) -> Any:
    """The value of a JSON text.

    Args:
        content: UTF-8 where it is bytes; a byte-order mark may name another Unicode encoding.
        where: what to call it in an error, for example a file name.
        most_bytes: refuse what is longer.

    Raises:
        ConfigError: one line, for what the module names or what is no JSON.
    """
    if most_bytes is not None and len(content) > most_bytes:
        raise ConfigError(f"{where}: larger than {most_bytes} bytes")
    try:
        data = json.loads(
            content,
            parse_constant=_refuse_constant,
            parse_float=_finite,
            object_pairs_hook=unique_keys,
        )
        _check_tree(data)
    except RecursionError:
        reason = f"nested deeper than {MAX_DEPTH} levels"
    except ValueError as error:
        reason = " ".join(str(error).split())[:200]
    else:
        return data
    raise ConfigError(f"{where}: not valid JSON: {reason}")


def _check_tree(data: object) -> None:
    """Bound the depth, refuse strings with lone surrogates and huge integers; no recursion."""
    stack: list[tuple[object, int]] = [(data, 1)]
    while stack:
        value, depth = stack.pop()
        if depth > MAX_DEPTH:
            raise RecursionError
        if isinstance(value, dict):
            stack += [(item, depth + 1) for pair in value.items() for item in pair]
        elif isinstance(value, list):
            stack += [(item, depth + 1) for item in value]
        elif isinstance(value, str):
            try:
                value.encode("utf-8")
            except UnicodeEncodeError:
                raise ValueError("a string is not valid Unicode") from None
        elif isinstance(value, int) and abs(value) > 2**63 - 1:
            raise ValueError("an integer is out of the range of 64 bits")


def unique_keys(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """A hook for objects of Python's own parser; ValueError names a key that is given twice."""
    data = dict(pairs)
    if len(data) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"key {twice!r} is given twice")
    return data


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text[:40]} is too large")
    return value


def _refuse_constant(text: str) -> float:
    raise ValueError(f"{text} is not a JSON number")
