"""The registry of all orders, EWSJF and its rivals.

One literal dict, `ORDERS`, holds EWSJF in its score modes and every rival, all behind the
`Order` interface, so that they share recovery rule, ties, pinning and admission limits.  A
policy names an order of this registry and gives values of its parameter space.

Orders marked `oracle` read the true output length and are an upper bound, never a product.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Callable

from ewsjf_env.parameters import ParameterSpace, integer, linear, log
from ewsjf_env.scheduling.entry import Entry
from ewsjf_env.scheduling.memory import MEMORY_PARAMETERS
from ewsjf_env.scheduling.orders.boost import AdaptiveBoostOrder, boosted_arrival_s
from ewsjf_env.scheduling.orders.ewsjf import EWSJF_ORDERS
from ewsjf_env.scheduling.orders.keyed import Key, KeyedOrder
from ewsjf_env.scheduling.orders.late import deadline_s, late_parameters
from ewsjf_env.scheduling.orders.order import Order
from ewsjf_env.scheduling.orders.promotion import PromotingOrder
from ewsjf_env.scheduling.orders.routing import LengthRouter
from ewsjf_env.scheduling.orders.scored import ScoredOrder
from ewsjf_env.scheduling.orders.scoring import ResponseRatioScore, Scorer, SigmoidScore
from ewsjf_env.scheduling.orders.spec import Builder, OrderContext, OrderSpec, Values, number
from ewsjf_env.scheduling.partition.partition import Partition
from ewsjf_env.scheduling.step_shape import STEP_PARAMETERS


def _keyed(key: Callable[[Values, OrderContext], Callable[[Entry], Key]]) -> Builder:
    def build(values: Values, partition: Partition, context: OrderContext) -> Order:
        return KeyedOrder(key(values, context))

    return build


def _uncached_key(context: OrderContext) -> Callable[[Entry], Key]:
    return lambda e: (-(-e.uncached_tokens // context.block_tokens),)


def _spf(values: Values, partition: Partition, context: OrderContext) -> Order:
    return KeyedOrder(_uncached_key(context), refresh=True)


def _residual_sjf(values: Values, partition: Partition, context: OrderContext) -> Order:
    inner = KeyedOrder(_uncached_key(context), refresh=True)
    return PromotingOrder(inner, number(values, "max_wait_s"), lambda entry: True)


def _short_first(values: Values, partition: Partition, context: OrderContext) -> Order:
    limit = int(values["short_tokens"])
    inner = KeyedOrder(lambda e: (float(e.prompt_tokens > limit),))
    max_wait_s = number(values, "long_max_wait_s") or math.inf
    return PromotingOrder(inner, max_wait_s, lambda entry: entry.prompt_tokens > limit)


def _random_key(values: Values, context: OrderContext) -> Callable[[Entry], Key]:
    def key(entry: Entry) -> Key:
        text = f"{context.seed}:{entry.request_id}".encode()
        return (float(int.from_bytes(hashlib.blake2b(text, digest_size=6).digest(), "big")),)

    return key


def _boost_key(values: Values, context: OrderContext) -> Callable[[Entry], Key]:
    gamma = number(values, "gamma")
    return lambda e: (boosted_arrival_s(e.arrived_s, context.cost_s(e.prompt_tokens), gamma),)


def _boost_ada(values: Values, partition: Partition, context: OrderContext) -> Order:
    return AdaptiveBoostOrder(context.cost_s, number(values, "gamma"))


def _linear_aging_key(values: Values, context: OrderContext) -> Callable[[Entry], Key]:
    rate = number(values, "r")
    return lambda e: (e.prompt_tokens + rate * e.arrived_s,)


def _deadline_key(values: Values, context: OrderContext) -> Callable[[Entry], Key]:
    return lambda e: (deadline_s(e, context.level, context.cost_s),)


def _length_key(values: Values, context: OrderContext) -> Callable[[Entry], Key]:
    return lambda e: (e.prompt_tokens,)


def _total_key(values: Values, context: OrderContext) -> Callable[[Entry], Key]:
    beta = number(values, "beta")
    return lambda e: (e.prompt_tokens + beta * e.output_tokens,)


def _per_request(scorer: Callable[[Values], Scorer]) -> Builder:
    def build(values: Values, partition: Partition, context: OrderContext) -> Order:
        return ScoredOrder(LengthRouter(), scorer(values), context.cost_s, context.traffic)

    return build


_BOOST = ParameterSpace(
    (
        log(
            "gamma",
            0.02,
            low=1e-4,
            high=10.0,
            unit="1/s",
            description="tail exponent; large is FCFS",
        ),
    )
)
_TOTAL = ParameterSpace(
    (
        linear(
            "beta",
            2.0,
            low=0.0,
            high=1000.0,
            unit="tokens/token",
            description="cost of an output token in prompt tokens",
        ),
    )
)
_AGING = ParameterSpace(
    (log("r", 20.0, low=0.1, high=1e5, unit="tokens/s", description="aging rate"),)
)
_HRRN = ParameterSpace((log("exponent", 1.0, low=0.25, high=4.0, description="W / C^exponent"),))
_RESIDUAL = ParameterSpace(
    (log("max_wait_s", 10.0, low=0.1, high=3600.0, unit="s", description="FCFS beyond"),)
)
_SHORT_FIRST = ParameterSpace(
    (
        integer(
            "short_tokens",
            256,
            low=1,
            high=1_000_000,
            unit="tokens",
            description="a prompt up to this is short",
        ),
        linear(
            "long_max_wait_s",
            0.0,
            low=0.0,
            high=3600.0,
            unit="s",
            description="a long one goes first beyond this wait; 0 is never",
        ),
    )
)
_SIGMOID = ParameterSpace(
    (
        log("median_tokens", 32_768.0, low=16.0, high=1e6, unit="tokens", description="Lm"),
        log("median_wait_s", 5.0, low=0.01, high=3600.0, unit="s", description="Wm"),
    )
)

_SPECS: tuple[OrderSpec, ...] = (
    *EWSJF_ORDERS,
    OrderSpec("fcfs", "first come, first served", _keyed(lambda v, c: lambda e: e.arrival_key)),
    OrderSpec(
        "priority",
        "user priority, then arrival",
        _keyed(lambda v, c: lambda e: (e.priority, e.arrived_s)),
    ),
    OrderSpec("random", "hash of the request id: the sanity floor", _keyed(_random_key)),
    OrderSpec("sjf", "shortest prompt first", _keyed(_length_key)),
    OrderSpec("sjf_late", "sjf; who misses the level anyway goes last", _keyed(_length_key)),
    OrderSpec("edf", "earliest deadline of the service level first", _keyed(_deadline_key)),
    OrderSpec("edf_late", "edf; who misses the level anyway goes last", _keyed(_deadline_key)),
    OrderSpec("spf", "shortest uncached prefill first", _spf),
    OrderSpec(
        "sjf_total",
        "shortest prompt + beta x true output first",
        _keyed(_total_key),
        _TOTAL,
        oracle=True,
    ),
    OrderSpec(
        "linear_aging", "prompt minus r x wait (SGLang 30806)", _keyed(_linear_aging_key), _AGING
    ),
    OrderSpec(
        "hrrn",
        "highest response ratio next, every request scored (SGLang 32911)",
        _per_request(lambda v: ResponseRatioScore(number(v, "exponent"))),
        _HRRN,
    ),
    OrderSpec("boost", "arrival minus boost(C, gamma) (UniBoost)", _keyed(_boost_key), _BOOST),
    OrderSpec("boost_ada", "boost, gamma refitted from the tail of the waits", _boost_ada, _BOOST),
    OrderSpec(
        "residual_sjf",
        "shortest uncached first, FCFS once a wait is too long (vLLM 51375)",
        _residual_sjf,
        _RESIDUAL,
    ),
    OrderSpec(
        "srf",
        "short requests first, aged long ones before them (vllm-ascend)",
        _short_first,
        _SHORT_FIRST,
    ),
    OrderSpec(
        "sigmoid",
        "half sigmoid of wait, half of shortness (vLLM 29366)",
        _per_request(
            lambda v: SigmoidScore(number(v, "median_tokens"), number(v, "median_wait_s"))
        ),
        _SIGMOID,
    ),
)

_LATE_LAST = {"sjf_late", "edf_late"}


def _with_common(spec: OrderSpec) -> OrderSpec:
    """The order with what is nothing of its own: steps, memory and late requests."""
    late = late_parameters("last" if spec.name in _LATE_LAST else "off")
    common = (*STEP_PARAMETERS, *MEMORY_PARAMETERS, *late)
    return dataclasses.replace(spec, space=ParameterSpace((*spec.space.parameters, *common)))


ORDERS: dict[str, OrderSpec] = {spec.name: _with_common(spec) for spec in _SPECS}
