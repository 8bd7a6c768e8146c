"""Rules from a few numbers about the traffic to parameter values: a table or a network.

Both are plain numbers, small enough to check by hand or to bound: nothing of a policy file is
code.  What comes in is a vector of features in [-1, 1], shape (n,); see `adaptive` for which.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ewsjf_env.config import ConfigError, nearest, refuse_unknown
from ewsjf_env.parameters import ParameterSpace, Value

Vector = NDArray[np.float64]

MAX_CENTRES = 64
MAX_LAYERS = 4
MAX_WIDTH = 256
MAX_WEIGHT = 1e6  # of a layer; a sum of 256 such products is still a finite number
ACTIVATIONS = ("relu", "tanh", "none")
SQUASHES = ("tanh", "clip")


@dataclass(frozen=True)
class Table:
    """The values that belong to the nearest centre, by Euclidean distance; ties: the first.

    Attributes:
        centres: feature vectors in [-1, 1], (k, n), k <= 64.
        values: for each centre, values of all tuned parameters.
    """

    kind = "table"

    centres: tuple[tuple[float, ...], ...]
    values: tuple[Mapping[str, Value], ...]

    def propose(self, features: Vector, space: ParameterSpace) -> dict[str, Value]:
        """Values for `features`, shape (n,)."""
        return dict(self.values[self.nearest(features)])

    def nearest(self, features: Vector) -> int:
        """Number of the centre closest to `features`, shape (n,)."""
        return int(np.argmin(((self._centres - features) ** 2).sum(axis=1)))

    def check(self, inputs: int, space: ParameterSpace, where: str) -> None:
        """Raise ConfigError unless it maps `inputs` features to legal values of `space`."""
        if not 1 <= len(self.centres) <= MAX_CENTRES:
            raise ConfigError(
                f"{where}: centres: {len(self.centres)} of them, expected 1 to {MAX_CENTRES}"
            )
        if len(self.values) != len(self.centres):
            raise ConfigError(
                f"{where}: values: {len(self.values)} for {len(self.centres)} centres"
            )
        for index, (centre, values) in enumerate(zip(self.centres, self.values, strict=True)):
            if len(centre) != inputs:
                raise ConfigError(
                    f"{where}: centres[{index}]: {len(centre)} features, expected {inputs}"
                )
            for number in centre:
                if not -1.0 <= number <= 1.0:
                    raise ConfigError(f"{where}: centres[{index}]: {number!r} is outside [-1, 1]")
            complete_values(values, space, f"{where}: values[{index}]")

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "centres": [list(centre) for centre in self.centres],
            "values": [dict(values) for values in self.values],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], space: ParameterSpace, where: str) -> Table:
        """Inverse of `to_dict`; `check` says the rest."""
        refuse_unknown(data, ("centres", "values"), where)
        rows = _listed(data, "values", where)
        return cls(
            centres=_matrix(data, "centres", where),
            values=tuple(
                complete_values(row, space, f"{where}: values[{index}]")
                for index, row in enumerate(rows)
            ),
        )

    @cached_property
    def _centres(self) -> Vector:
        return np.array(self.centres, dtype=np.float64)


@dataclass(frozen=True)
class Layer:
    """y = activation(W x + c), W of shape (outputs, inputs) and c of shape (outputs,)."""

    weights: tuple[tuple[float, ...], ...]
    bias: tuple[float, ...]
    activation: Literal["relu", "tanh", "none"] = "none"

    def __call__(self, x: Vector) -> Vector:
        """Map (inputs,) to (outputs,)."""
        y = self._weights @ x + self._bias
        if self.activation == "relu":
            y = np.maximum(y, 0.0)
        elif self.activation == "tanh":
            y = np.tanh(y)
        return np.asarray(y, dtype=np.float64)

    @cached_property
    def _weights(self) -> Vector:
        return np.array(self.weights, dtype=np.float64)

    @cached_property
    def _bias(self) -> Vector:
        return np.array(self.bias, dtype=np.float64)


@dataclass(frozen=True)
class Network:
    """A small actor: features -> layers -> squash -> an action in [-1, 1]^d -> values.

    Attributes:
        layers: at most 4 with the last, none wider than 256.
        squash: `tanh`, or `clip` to [-1, 1].
    """

    kind = "mlp"

    layers: tuple[Layer, ...]
    squash: Literal["tanh", "clip"] = "tanh"

    def action(self, features: Vector) -> Vector:
        """The action for `features`, shape (n,) -> (d,)."""
        x = np.asarray(features, dtype=np.float64)
        for layer in self.layers:
            x = layer(x)
        return np.tanh(x) if self.squash == "tanh" else np.clip(x, -1.0, 1.0)

    def propose(self, features: Vector, space: ParameterSpace) -> dict[str, Value]:
        """Values for `features`, shape (n,)."""
        return space.from_box(self.action(features))

    def check(self, inputs: int, space: ParameterSpace, where: str) -> None:
        """Raise ConfigError unless it maps `inputs` features to an action of `space`."""
        if not 1 <= len(self.layers) <= MAX_LAYERS:
            raise ConfigError(f"{where}: {len(self.layers)} layers, expected 1 to {MAX_LAYERS}")
        if self.squash not in SQUASHES:
            raise ConfigError(
                f"{where}: squash: {self.squash!r} is not one of {', '.join(SQUASHES)}"
            )
        width = inputs
        for index, layer in enumerate(self.layers):
            name = f"{where}: layers[{index}]"
            width = _check_layer(layer, width, name)
        if width != len(space):
            raise ConfigError(
                f"{where}: the last layer has {width} outputs for {len(space)} parameters"
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        layers = [
            {
                "weights": [list(row) for row in layer.weights],
                "bias": list(layer.bias),
                "activation": layer.activation,
            }
            for layer in self.layers
        ]
        return {"layers": layers, "squash": self.squash}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], space: ParameterSpace, where: str) -> Network:
        """Inverse of `to_dict`; `check` says the rest."""
        refuse_unknown(data, ("layers", "squash"), where)
        layers = []
        for index, row in enumerate(_listed(data, "layers", where)):
            name = f"{where}: layers[{index}]"
            if not isinstance(row, Mapping):
                raise ConfigError(f"{name}: expected a mapping, got {type(row).__name__}")
            refuse_unknown(row, ("weights", "bias", "activation"), name)
            weights = _matrix(row, "weights", name)
            bias = _numbers(_listed(row, "bias", name), f"{name}: bias")
            layers.append(Layer(weights, bias, row.get("activation", "none")))
        return cls(tuple(layers), data.get("squash", "tanh"))


Rule = Table | Network
RULES: Mapping[str, type[Table] | type[Network]] = {"table": Table, "mlp": Network}


def complete_values(values: object, space: ParameterSpace, where: str) -> dict[str, Value]:
    """Legal values of all parameters of `space` and of no other; ConfigError otherwise."""
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where}: expected a mapping, got {values!r}")
    for name in space.names:
        if name not in values:
            raise ConfigError(f"{where}: no value of the tuned parameter {name!r}")
    return space.validate(values, where)


def _check_layer(layer: Layer, inputs: int, where: str) -> int:
    """Check one layer and return its width."""
    width = len(layer.weights)
    if not 1 <= width <= MAX_WIDTH:
        raise ConfigError(f"{where}: {width} outputs, expected 1 to {MAX_WIDTH}")
    for row in layer.weights:
        if len(row) != inputs:
            raise ConfigError(f"{where}: weights: a row of {len(row)} for {inputs} inputs")
    if len(layer.bias) != width:
        raise ConfigError(f"{where}: bias: {len(layer.bias)} numbers for {width} outputs")
    for number in (*layer.bias, *(w for row in layer.weights for w in row)):
        if not abs(number) <= MAX_WEIGHT:  # refuses NaN, too
            raise ConfigError(f"{where}: {number!r} is outside [-{MAX_WEIGHT:g}, {MAX_WEIGHT:g}]")
    if layer.activation not in ACTIVATIONS:
        hint = nearest(str(layer.activation), ACTIVATIONS)
        raise ConfigError(f"{where}: activation: unknown {layer.activation!r}{hint}")
    return width


def _listed(data: Mapping[str, Any], key: str, where: str) -> list[Any]:
    found = data.get(key)
    if not isinstance(found, list):
        raise ConfigError(f"{where}: {key}: expected a list, got {type(found).__name__}")
    return found


def _matrix(data: Mapping[str, Any], key: str, where: str) -> tuple[tuple[float, ...], ...]:
    return tuple(
        _numbers(row, f"{where}: {key}[{index}]")
        for index, row in enumerate(_listed(data, key, where))
    )


def _numbers(row: object, where: str) -> tuple[float, ...]:
    if not isinstance(row, Sequence) or isinstance(row, (str, bytes)):
        raise ConfigError(f"{where}: expected a list of numbers, got {row!r}")
    for number in row:
        wrong = isinstance(number, bool) or not isinstance(number, (int, float))
        if wrong or not math.isfinite(number):
            raise ConfigError(f"{where}: {number!r} is not a finite number")
    return tuple(float(number) for number in row)
