"""What must a line of windows.jsonl be, for a run to go on from it or to be exported?

A line is only ever written whole, but people edit files, and disks fail.  What an agent is shown
of a line, or an engine is told, is looked at before anything is done with it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from math import isfinite
from typing import Any, TypeVar

from ewsjf_env.config import ConfigError, check_range, from_dict
from ewsjf_env.parameters import ParameterSpace

T = TypeVar("T")
Metrics = Mapping[str, bool | float | None]


@dataclass(frozen=True)
class _Line:
    """Kinds of the fields of a line; see `session.Session.begin_window`."""

    window: int
    episode: int
    step: int
    ended: bool
    trace: Mapping[str, Any]
    values: Mapping[str, Any]
    proposed: Mapping[str, Any]
    incumbent: Mapping[str, Any]
    reward: float
    reward_se: float
    reward_terms: Mapping[str, float]
    margins: Mapping[str, float]
    violation: bool
    void: bool
    shifted: bool
    failure: str | None
    aborted: bool
    guard: Mapping[str, Any] | None
    guard_before: Mapping[str, Any] | None
    guard_after: Mapping[str, Any] | None
    before: tuple[float, ...]
    context: tuple[float, ...]
    observation_before: tuple[float, ...]
    observation: tuple[float, ...]
    metrics: Metrics | None
    reference: Metrics | None
    traffic: Mapping[str, Any] | None
    cuts: tuple[float, ...] | None
    start_s: float
    end_s: float
    diagnostics: Mapping[str, float]


@dataclass(frozen=True)
class _Trace:
    name: str
    seed: int
    rate_per_s: float | None


@dataclass(frozen=True)
class _Traffic:
    arrival_rate_per_s: float | None
    burst_index: float | None
    prompt_tokens_mean: float | None
    count_shares: tuple[float | None, ...]
    queue_depth: float | None
    oldest_age_s: float | None
    running: float | None


@dataclass(frozen=True)
class _Guard:
    mode: str
    breach: bool
    radius: float
    budget_left: float


@dataclass(frozen=True)
class _GuardState:
    """See `safety.SafetyGuard.state`."""

    incumbent: tuple[float, ...]
    incumbent_rewards: tuple[float, ...]
    radius: float
    window: int
    breaches: int
    streak: int
    roll_back: bool
    recent: tuple[bool, ...]
    killed: str | None


_PARTS = {
    "trace": _Trace,
    "traffic": _Traffic,
    "guard": _Guard,
    "guard_before": _GuardState,
    "guard_after": _GuardState,
}


def parse_line(
    line: bytes, number: int, space: ParameterSpace, sees: Sequence[str], where: str
) -> dict[str, Any]:
    """The window in a line, as it was written.

    Args:
        line: without its end.
        number: of the window, from 0.
        space: what the run tunes.
        sees: names of what its agent is given.
        where: names file and line in an error.

    Raises:
        ConfigError: naming the field, what it is, and what is expected.
    """
    try:
        record = json.loads(line)
        found = record["window"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ConfigError(f"{where}: not a window") from None
    if found != number:
        raise ConfigError(f"{where}: window {found!r}, not {number}")
    for field in fields(_Line):
        if field.name not in record:
            raise ConfigError(f"{where}: not a window: it lacks {field.name!r}")
    _known(_Line, record, where)
    _refuse_unbounded(record, where)
    for name, kind in _PARTS.items():
        if record[name] is not None:
            _known(kind, record[name], f"{where}: {name}")
    for name in ("values", "proposed", "incumbent"):
        _check_values(record[name], space, f"{where}: {name}")
    for name in ("before", "context"):
        _check_features(record[name], sees, f"{where}: {name}")
    for name in ("episode", "step"):
        check_range(f"{where}: {name}", record[name], 0, number)
    check_range(f"{where}: reward_se", record["reward_se"], 0.0)
    parsed: dict[str, Any] = record
    return parsed


def _known(kind: type[T], data: Mapping[str, Any], where: str) -> T:
    """What later versions may have added is left alone."""
    names = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    return from_dict(kind, {name: data[name] for name in names if name in data}, where)


def _refuse_unbounded(value: Any, where: str) -> None:
    """Python reads NaN and Infinity, which no JSON may hold, and 1e999."""
    if isinstance(value, float):
        check_range(where, value)
    elif isinstance(value, dict):
        for key, item in value.items():
            _refuse_unbounded(item, f"{where}: {key}")
    elif isinstance(value, list) and not all(
        type(item) is float and isfinite(item) for item in value
    ):
        for index, item in enumerate(value):
            _refuse_unbounded(item, f"{where}[{index}]")


def _check_values(values: Mapping[str, Any], space: ParameterSpace, where: str) -> None:
    space.validate(values, where)
    for parameter in space.parameters:
        if parameter.name not in values:
            raise ConfigError(
                f"{where}: parameter {parameter.name!r} is missing, expected {parameter.allowed}"
            )


def _check_features(features: Sequence[float], sees: Sequence[str], where: str) -> None:
    if len(features) != len(sees):
        named = f" ({', '.join(sees)})" if 0 < len(sees) <= 4 else ""
        raise ConfigError(f"{where}: expected {len(sees)} numbers{named}, got {len(features)}")
    for index, feature in enumerate(features):
        check_range(f"{where}[{index}]", feature, -1.0, 1.0)
