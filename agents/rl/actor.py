"""A trained actor as plain numpy, free of torch.

    h = view;  h = activation(weight @ h + bias) for each layer;  action = squash(h)

This is what a policy file of a learnt policy has to carry, and all that serving it needs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ewsjf_env.config import ConfigError

Array = NDArray[np.float32]
Activation = Literal["relu", "tanh", "identity"]
Squash = Literal["tanh", "clip"]

_ACTIVATIONS: dict[Activation, Callable[[Array], Array]] = {
    "relu": lambda h: np.maximum(h, np.float32(0.0)),
    "tanh": np.tanh,
    "identity": lambda h: h,
}
_SQUASHES: dict[Squash, Callable[[Array], Array]] = {
    "tanh": np.tanh,
    "clip": lambda h: np.clip(h, np.float32(-1.0), np.float32(1.0)),
}


@dataclass(frozen=True)
class DenseLayer:
    """One layer: activation(weight @ h + bias).

    Attributes:
        weight: float32, shape (outputs, inputs).
        bias: float32, shape (outputs,).
        activation: of the outputs.
    """

    weight: Array
    bias: Array
    activation: Activation

    def __post_init__(self) -> None:
        if self.weight.ndim != 2 or self.bias.shape != self.weight.shape[:1]:
            raise ConfigError(
                f"layer: a weight of shape {self.weight.shape} and a bias of {self.bias.shape}"
            )
        if self.activation not in _ACTIVATIONS:
            raise ConfigError(f"activation: {self.activation!r} is not one of {[*_ACTIVATIONS]}")


@dataclass(frozen=True)
class ActorNetwork:
    """The deterministic policy: an observation in, an action of the Box [-1, 1]^d out.

    Attributes:
        layers: one after the other, at least one.
        squash: how the last layer's outputs become an action.
    """

    layers: tuple[DenseLayer, ...]
    squash: Squash

    def __post_init__(self) -> None:
        if not self.layers:
            raise ConfigError("layers: an actor needs at least one")
        if self.squash not in _SQUASHES:
            raise ConfigError(f"squash: {self.squash!r} is not one of {[*_SQUASHES]}")
        for before, after in zip(self.layers, self.layers[1:], strict=False):
            if after.weight.shape[1] != len(before.bias):
                raise ConfigError(
                    f"layers: {len(before.bias)} outputs meet {after.weight.shape[1]} inputs"
                )

    @property
    def view_size(self) -> int:
        """Numbers in an observation."""
        return int(self.layers[0].weight.shape[1])

    @property
    def action_size(self) -> int:
        """Numbers in an action."""
        return len(self.layers[-1].bias)

    def __call__(self, view: Sequence[float] | Array) -> Array:
        """The action for one observation, float32 of shape (action_size,) in [-1, 1]."""
        h = np.asarray(view, dtype=np.float32)
        if h.shape != (self.view_size,):
            raise ConfigError(f"view: shape {h.shape}, expected ({self.view_size},)")
        for layer in self.layers:
            h = _ACTIVATIONS[layer.activation](layer.weight @ h + layer.bias)
        return _SQUASHES[self.squash](h)
