"""The entry of an order in the registry: its name, its parameters and how it is built."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from ewsjf_env.measure.service import ServiceLevel
from ewsjf_env.parameters import ParameterSpace, Value
from ewsjf_env.scheduling.orders.expected_output import OutputEstimates
from ewsjf_env.scheduling.orders.order import CostFunction, Order
from ewsjf_env.scheduling.orders.scoring import Traffic
from ewsjf_env.scheduling.partition.partition import Partition

Values = Mapping[str, Value]


@dataclass(frozen=True)
class OrderContext:
    """What an order may use besides its parameters.

    `cost_s` is C(b) in seconds; `block_tokens` the KV block size (orders on uncached work are
    quantised to it); `seed` drives `random`; `outputs` is what is known of output lengths; `level`
    is the service level that requests have, None where they have none.
    """

    cost_s: CostFunction
    traffic: Traffic
    block_tokens: int = 16
    seed: int = 0
    outputs: OutputEstimates = field(default_factory=OutputEstimates)
    level: ServiceLevel | None = None


Builder = Callable[[Values, Partition, OrderContext], Order]


@dataclass(frozen=True)
class OrderSpec:
    """One entry of the registry; `partitioned` orders use and refresh the policy's partition."""

    name: str
    summary: str
    build: Builder
    space: ParameterSpace = field(default_factory=lambda: ParameterSpace(()))
    partitioned: bool = False
    oracle: bool = False


def number(values: Values, name: str) -> float:
    """The value of a numeric parameter."""
    return float(values[name])
