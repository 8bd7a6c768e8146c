"""Adaptive policies: features of the past window give values of some parameters.

An `Adaptive` is the part of a policy file of kind `table` or `mlp`.  It names its inputs and
carries their scales, so that a file whose features mean something else in this version is
refused; what it proposes is clipped into safe bounds; and where there is nothing to judge by it
falls back to values that are known to be good.

The inputs are computed as the environment computes its observation, from request records and a
few counters: see `inputs_of`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ewsjf_env.config import ConfigError, check_range, from_dict, nearest, refuse_unknown, to_dict
from ewsjf_env.measure.features import FEATURES, feature_names, feature_table, observe
from ewsjf_env.measure.records import (
    MetricSettings,
    RequestRecord,
    WindowCounters,
    measure_window,
)
from ewsjf_env.measure.requests import Requests
from ewsjf_env.measure.traffic import traffic_statistics
from ewsjf_env.parameters import Parameter, ParameterSpace, Value
from ewsjf_env.policy.rules import RULES, Rule, complete_values

Bounds = Mapping[str, tuple[Value, ...]]

LONGEST_PERIOD_S = 86_400.0
_KEYS = ("period_s", "window_s", "tuned", "inputs", "features", "fallback", "bounds", "metrics")


@dataclass(frozen=True)
class Adaptive:
    """A rule, what it reads, what it may set and how often.

    Attributes:
        space: the tuned parameters, in the order of the order's space.
        inputs: names of the rule's features: of `features.FEATURES`, or `parameter_<name>` for
            the value in force of a tuned parameter.
        rule: inputs -> values.
        fallback: values of the tuned parameters where an input is missing or not finite.
        bounds: for each tuned parameter the lowest and highest safe value, or for a choice the
            safe ones; what the rule proposes is clipped into them.
        period_s: seconds between two changes, [1, 86400].
        window_s: the inputs describe the last `window_s` of a period, (0, period_s].
        metrics: class limits of the features.
    """

    space: ParameterSpace
    inputs: tuple[str, ...]
    rule: Rule
    fallback: Mapping[str, Value]
    bounds: Bounds
    period_s: float
    window_s: float
    metrics: MetricSettings = field(default_factory=MetricSettings)

    def __post_init__(self) -> None:
        check_range("period_s", self.period_s, 1.0, LONGEST_PERIOD_S)
        check_range("window_s", self.window_s, 0.0, self.period_s, low_open=True)
        if not len(self.space):
            raise ConfigError("tuned: no parameter is named")
        known = feature_names(self.space)
        if not self.inputs:
            raise ConfigError("inputs: no feature is named")
        for name in self.inputs:
            if name not in known:
                raise ConfigError(f"inputs: unknown feature {name!r}{nearest(name, known)}")
            if self.inputs.count(name) > 1:
                raise ConfigError(f"inputs: {name!r} occurs twice")
        self.rule.check(len(self.inputs), self.space, self.rule.kind)
        fallback = complete_values(self.fallback, self.space, "fallback")
        object.__setattr__(self, "fallback", fallback)
        object.__setattr__(self, "bounds", _checked_bounds(self.bounds, self.space))

    def act(self, features: ArrayLike | None) -> dict[str, Value]:
        """Values of the tuned parameters for `features`, shape (len(inputs),).

        The fallback where they are None, of another shape or not finite.
        """
        x = _finite(features, len(self.inputs))
        if x is None:
            return dict(self.fallback)
        return self._clipped(self.rule.propose(x, self.space))

    def inputs_of(
        self,
        records: Sequence[RequestRecord],
        counters: WindowCounters,
        start_s: float,
        end_s: float,
        prefill_cost_s: Callable[[int], float],
        values: Mapping[str, object],
    ) -> NDArray[np.float32]:
        """The inputs for the window [start_s, end_s), shape (len(inputs),) in [-1, 1].

        Args:
            records: any superset of the window's requests; events after `end_s` are ignored.
            counters: of the window.
            start_s: start of the window in seconds, on the clock of the records.
            end_s: its end, > start_s.
            prefill_cost_s: C(b): prompt tokens -> seconds, > 0.
            values: in force, at least all tuned ones.
        """
        requests = Requests.of(records, prefill_cost_s, start_s, end_s)
        metrics = measure_window(requests, counters, start_s, end_s, self.metrics)
        traffic = traffic_statistics(requests, start_s, end_s)
        return self.chosen(observe(metrics, traffic, self.space, values))

    def chosen(self, observation: NDArray[np.float32]) -> NDArray[np.float32]:
        """The inputs out of a whole observation, as `features.observe` gives it."""
        names = feature_names(self.space)
        return observation[[names.index(name) for name in self.inputs]]

    def to_dict(self) -> dict[str, Any]:
        """Plain values; the rule's stand beside the others."""
        return {
            "period_s": self.period_s,
            "window_s": self.window_s,
            "tuned": list(self.space.names),
            "inputs": list(self.inputs),
            "features": [row for row in feature_table() if row["name"] in self.inputs],
            "fallback": dict(self.fallback),
            "bounds": {name: list(limits) for name, limits in self.bounds.items()},
            "metrics": to_dict(self.metrics),
            **self.rule.to_dict(),
        }

    @classmethod
    def from_dict(cls, data: object, kind: str, order: ParameterSpace, where: str) -> Adaptive:
        """Inverse of `to_dict`.

        Args:
            data: see `to_dict`.
            kind: a key of `rules.RULES`.
            order: all parameters of the policy's order.
            where: what to call it in an error.

        Raises:
            ConfigError: naming the key, its value and what is allowed.
        """
        if not isinstance(data, Mapping):
            raise ConfigError(f"{where}: expected a mapping, got {type(data).__name__}")
        rule_keys = {"table": ("centres", "values"), "mlp": ("layers", "squash")}[kind]
        refuse_unknown(data, (*_KEYS, *rule_keys), where)
        for key in _KEYS:
            if key not in data and key != "metrics":
                raise ConfigError(f"{where}: missing key {key!r}")
        space = _tuned_space(_texts(data, "tuned", where), order, where)
        _check_features(data["features"], _texts(data, "inputs", where), where)
        rule = {key: data[key] for key in rule_keys if key in data}
        numbers = from_dict(_Times, {k: data[k] for k in ("period_s", "window_s")}, where)
        metrics = from_dict(MetricSettings, data.get("metrics", {}), f"{where}: metrics")
        try:
            return cls(
                space=space,
                inputs=tuple(data["inputs"]),
                rule=RULES[kind].from_dict(rule, space, kind),
                fallback=data["fallback"],
                bounds=data["bounds"],
                period_s=numbers.period_s,
                window_s=numbers.window_s,
                metrics=metrics,
            )
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from None

    def _clipped(self, values: Mapping[str, Value]) -> dict[str, Value]:
        return {
            p.name: _clip(p, values[p.name], self.bounds[p.name]) for p in self.space.parameters
        }


@dataclass(frozen=True)
class _Times:
    period_s: float
    window_s: float


def whole_bounds(space: ParameterSpace) -> dict[str, tuple[Value, ...]]:
    """Bounds that clip nothing."""
    return {
        p.name: p.choices if p.scale == "choice" else (p.check(p.low), p.check(p.high))
        for p in space.parameters
    }


def bounds_of(
    tried: Sequence[Mapping[str, Value]], space: ParameterSpace
) -> dict[str, tuple[Value, ...]]:
    """The narrowest bounds that leave every one of `tried`, at least one, as it is."""
    found: dict[str, tuple[Value, ...]] = {}
    for p in space.parameters:
        seen = [p.check(values[p.name]) for values in tried]
        if p.scale == "choice":
            found[p.name] = tuple(choice for choice in p.choices if choice in seen)
        else:
            found[p.name] = (min(seen, key=float), max(seen, key=float))
    return found


def _clip(parameter: Parameter, value: Value, limits: tuple[Value, ...]) -> Value:
    if parameter.scale == "choice":
        at = parameter.choices.index(value)
        return min(limits, key=lambda choice: abs(parameter.choices.index(choice) - at))
    low, high = limits
    return min(max(value, low, key=float), high, key=float)


def _checked_bounds(bounds: object, space: ParameterSpace) -> Bounds:
    if not isinstance(bounds, Mapping):
        raise ConfigError(f"bounds: expected a mapping, got {bounds!r}")
    refuse_unknown(bounds, space.names, "bounds")
    found = {}
    for parameter in space.parameters:
        given, where = bounds.get(parameter.name), f"bounds: {parameter.name}"
        if not isinstance(given, (list, tuple)) or not given:
            raise ConfigError(f"{where}: expected a list of values, got {given!r}")
        try:
            limits = tuple(parameter.check(value) for value in given)
        except ConfigError as error:
            raise ConfigError(f"bounds: {error}") from None
        if parameter.scale != "choice" and (
            len(limits) != 2 or float(limits[0]) > float(limits[1])
        ):
            raise ConfigError(f"{where}: expected [low, high], got {list(given)}")
        found[parameter.name] = limits
    return found


def _finite(features: ArrayLike | None, length: int) -> NDArray[np.float64] | None:
    if features is None:
        return None
    try:
        x = np.asarray(features, dtype=np.float64)
    except (TypeError, ValueError):
        return None
    return x if x.shape == (length,) and bool(np.isfinite(x).all()) else None


def _texts(data: Mapping[str, Any], key: str, where: str) -> list[str]:
    found = data[key]
    if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
        raise ConfigError(f"{where}: {key}: expected a list of names, got {found!r}")
    return found


def _tuned_space(names: Sequence[str], order: ParameterSpace, where: str) -> ParameterSpace:
    if not names:
        raise ConfigError(f"{where}: tuned: no parameter is named")
    try:
        space = order.subset(names)
    except ConfigError as error:
        raise ConfigError(f"{where}: tuned: {error}") from None
    if list(names) != list(space.names):  # a network's outputs are told apart by their place
        raise ConfigError(
            f"{where}: tuned: {list(names)} are not in the order of the space, {list(space.names)}"
        )
    for parameter in space.parameters:
        if not parameter.tunable:
            raise ConfigError(f"{where}: tuned: {parameter.name!r} is a structural switch")
    return space


def _check_features(rows: object, inputs: Sequence[str], where: str) -> None:
    """Every feature among the inputs must be listed, with the scale that it has here."""
    if not isinstance(rows, list) or not all(isinstance(row, Mapping) for row in rows):
        raise ConfigError(f"{where}: features: expected a list of mappings")
    known = {feature.name: dataclasses.asdict(feature) for feature in FEATURES}
    listed = {str(row.get("name")): dict(row) for row in rows}
    for name, row in listed.items():
        if name not in known:
            raise ConfigError(f"{where}: features: unknown {name!r}{nearest(name, known)}")
        if row != known[name]:
            raise ConfigError(
                f"{where}: features: {name!r} is scaled as {row}, in this version as "
                f"{known[name]}; export the policy again"
            )
    for name in inputs:
        if name in known and name not in listed:
            raise ConfigError(f"{where}: features: the scale of input {name!r} is missing")
