"""Tags: the names under which fields of a record are drawn in TensorBoard and stand in a table.

A dataclass says the tag of a field where it declares the field:

    ttft_p95_s: float = tag("latency/ttft_p95_ms", scale=1000)    one number
    terms: Mapping[str, float] = tag("reward/{}")                 one number a key
    cuts: tuple[int, ...] = tag("partition/cut_{}")               one number a position
    mode: str = tag("safety/{}", one_of=("held", "killed"))       1 at the one, 0 at the others

Latencies are shown in ms, as vLLM's benchmarks print them; the metric words are vLLM's, too.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

Number = Callable[[str, Any], float | None]


def tag(
    name: str,
    *,
    scale: float = 1.0,
    one_of: Sequence[str] = (),
    is_set: bool = False,
    default: Any = dataclasses.MISSING,
) -> Any:
    """A dataclass field that is shown.

    Args:
        name: group, slash and word; `{}` stands for a key, a position or a word of `one_of`.
        scale: what the number is multiplied by.
        one_of: words of a field that holds one of them.
        is_set: show whether there is a value in place of the value.
        default: of the field; without it the field must be given.
    """
    shown = {"tag": name, "scale": scale, "one_of": tuple(one_of), "is_set": is_set}
    field: Any = dataclasses.field(default=default, metadata=shown)
    return field


def plain_number(key: str, value: Any) -> float | None:
    """A value as a number; None where it is none."""
    return None if value is None or isinstance(value, str) else float(value)


def scalars(part: Any, number: Number = plain_number) -> dict[str, float]:
    """The numbers of a dataclass by tag; what was not measured (None, NaN) is left out.

    Args:
        part: an instance.
        number: makes a number of a value and the key under which it stands in its field.
    """
    found: dict[str, float] = {}
    for field in _tagged(type(part)):
        name, scale = field.metadata["tag"], field.metadata["scale"]
        for key, value in _items(field.metadata, getattr(part, field.name)):
            shown = number(key, value)
            if shown is not None and math.isfinite(shown):
                found[name.format(key)] = shown * scale
    return found


def names(part: type, keys: Mapping[str, Sequence[str]] | None = None) -> tuple[str, ...]:
    """All tags of a dataclass.

    Args:
        part: the class.
        keys: keys that a field of many numbers can hold, by its name; others are left out.
    """
    found: list[str] = []
    for field in _tagged(part):
        name = field.metadata["tag"]
        words = field.metadata["one_of"] or (keys or {}).get(field.name, ())
        found += [name.format(word) for word in words] if "{}" in name else [name]
    return tuple(found)


def _tagged(part: type) -> Iterator[dataclasses.Field[Any]]:
    return (field for field in dataclasses.fields(part) if field.metadata.get("tag"))


def _items(metadata: Mapping[str, Any], value: Any) -> Iterator[tuple[str, Any]]:
    if metadata["one_of"]:
        yield from ((word, value == word) for word in metadata["one_of"])
    elif metadata["is_set"]:
        yield "", value is not None
    elif isinstance(value, Mapping):
        yield from value.items()
    elif isinstance(value, tuple):
        yield from ((str(position), item) for position, item in enumerate(value))
    else:
        yield "", value
