"""Bad input as one line: the field, its value, what is allowed and the nearest valid name."""

from __future__ import annotations

import datetime
import difflib
import reprlib
from collections.abc import Iterable, Mapping
from typing import Any

_REPR = reprlib.Repr()
_REPR.maxlevel = 4
_REPR.maxdict, _REPR.maxlist, _REPR.maxtuple = 10, 20, 20
_REPR.maxlong, _REPR.maxstring, _REPR.maxother = 60, 200, 200


class ConfigError(ValueError):
    """Bad input: one line naming the field or file, the value and what is allowed.

    Attributes:
        keys: where the value stands in the mapping that was read, from its root; empty: not known.
        reason: the message without these keys.
    """

    def __init__(
        self, message: str = "", keys: tuple[str | int, ...] = (), reason: str | None = None
    ) -> None:
        super().__init__(message)
        self.keys = keys
        self.reason = message if reason is None else reason


def path_text(keys: Iterable[str | int]) -> str:
    """Keys and indices as they stand in an error, each after what it follows: `: a: b[0]`."""
    return "".join(f"[{key}]" if isinstance(key, int) else f": {key}" for key in keys)


def shown(value: object) -> str:
    """A value as an error tells it: in Python's words, a date as one writes it, no novel."""
    if isinstance(value, datetime.date):  # a date and time, too
        return f"the date {value}"
    return _REPR.repr(value)


def nearest(name: str, valid: Iterable[str]) -> str:
    """Return a hint `; nearest valid name: 'x'` or the list of valid names."""
    names = sorted(valid)
    return closest(name, names) or (f"; valid names: {', '.join(names)}" if names else "")


def closest(name: str, valid: Iterable[str]) -> str:
    """Return a hint `; nearest valid name: 'x'`, or "" where none is near, for a list before."""
    close = difflib.get_close_matches(name, sorted(valid), n=1, cutoff=0.4)
    return f"; nearest valid name: {close[0]!r}" if close else ""


def refuse_unknown(data: Mapping[str, Any], valid: Iterable[str], where: str) -> None:
    """Raise ConfigError for the first key of `data` that is not in `valid`."""
    names = set(valid)
    for key in data:
        if key not in names:
            before = f"{where}: " if where else ""
            reason = f"unknown key {key!r}{nearest(str(key), names)}"
            raise ConfigError(before + reason, (str(key),), reason)


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
        raise ConfigError(f"{where}: {shown(value)} is outside {left}{low_text}, {high_text}")
