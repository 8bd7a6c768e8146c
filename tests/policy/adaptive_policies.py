"""Small adaptive policies for tests."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from ewsjf_env.measure.features import feature_names
from ewsjf_env.policy.adaptive import Adaptive, whole_bounds
from ewsjf_env.policy.policy import Policy, default_policy
from ewsjf_env.policy.rules import Layer, Network, Rule, Table

TUNED = ("k", "q_max", "overdue_share")
SPACE = default_policy().space.subset(TUNED)
FALLBACK = {name: default_policy().parameters[name] for name in TUNED}
CALM = {"k": 2.0, "q_max": 8, "overdue_share": 0.1}
BUSY = {"k": 50.0, "q_max": 32, "overdue_share": 0.3}


def table(inputs: int = 1, low: float = -0.5, high: float = 0.5) -> Table:
    """Calm where all features are low, busy where they are high."""
    return Table(((low,) * inputs, (high,) * inputs), (CALM, BUSY))


def network(
    sizes: Sequence[int],
    activation: Any = "tanh",
    squash: Any = "tanh",
    seed: int = 0,
    scale: float = 0.5,
) -> Network:
    """Random weights; sizes are those of input, layers and action."""
    random = np.random.default_rng(seed)
    layers = []
    for index, (inputs, outputs) in enumerate(pairwise(sizes)):
        weights = random.normal(0.0, scale, (outputs, inputs)).tolist()
        layers.append(
            Layer(
                tuple(map(tuple, weights)),
                tuple(random.normal(0.0, scale, outputs).tolist()),
                activation if index < len(sizes) - 2 else "none",
            )
        )
    return Network(tuple(layers), squash)


def adaptive(
    rule: Rule | None = None,
    inputs: Sequence[str] = ("arrival_rate_per_s",),
    period_s: float = 10.0,
    window_s: float = 10.0,
    **changes: Any,
) -> Adaptive:
    """Three parameters that follow the arrival rate, unless told otherwise."""
    values: Mapping[str, Any] = {
        "space": SPACE,
        "inputs": tuple(inputs),
        "rule": rule or table(len(inputs)),
        "fallback": FALLBACK,
        "bounds": whole_bounds(SPACE),
        "period_s": period_s,
        "window_s": window_s,
        **changes,
    }
    return Adaptive(**values)


def policy(part: Adaptive | None = None, name: str = "follower") -> Policy:
    """The default policy with an adaptive part."""
    return dataclasses.replace(default_policy(), name=name, adaptive=part or adaptive())


def whole_network(**changes: Any) -> Adaptive:
    """A network that sees the whole observation."""
    names = feature_names(SPACE)
    return adaptive(network((len(names), 8, len(SPACE))), names, **changes)
