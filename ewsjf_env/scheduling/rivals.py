"""Which orders exist, with which parameters, and how is each built?

One literal registry, `ORDERS`, holds EWSJF in its score modes and every rival, all behind the
`Order` interface, so that they share recovery rule, ties, pinning and admission limits.  A
policy names an order of this registry and gives values of its parameter space.

Orders marked `oracle` read the true output length and are an upper bound, never a product.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ewsjf_env.parameters import Parameter, ParameterSpace, Value
from ewsjf_env.scheduling.boost import AdaptiveBoostOrder, boosted_arrival_s
from ewsjf_env.scheduling.entry import Entry
from ewsjf_env.scheduling.order import CostFunction, Key, KeyedOrder, Order, ScoredOrder
from ewsjf_env.scheduling.partition import Partition
from ewsjf_env.scheduling.promotion import PromotingOrder
from ewsjf_env.scheduling.routing import (
    BubbleRouter,
    CutRouter,
    LengthRouter,
    Router,
    WidthRouter,
)
from ewsjf_env.scheduling.scoring import (
    AuthorsScore,
    NormalisedScore,
    PaperScore,
    PowerScore,
    ResponseRatioScore,
    Scorer,
    SigmoidScore,
    Traffic,
)

Values = Mapping[str, Value]


@dataclass(frozen=True)
class OrderContext:
    """What an order may use besides its parameters.

    `cost_s` is C(b) in seconds; `block_tokens` the KV block size (orders on uncached work are
    quantised to it); `seed` drives `random`.
    """

    cost_s: CostFunction
    traffic: Traffic
    block_tokens: int = 16
    seed: int = 0


Builder = Callable[[Values, Partition, OrderContext], Order]


@dataclass(frozen=True)
class OrderSpec:
    """One entry of the registry; `partitioned` orders use and refresh the policy's partition."""

    name: str
    summary: str
    build: Builder
    space: ParameterSpace = ParameterSpace(())
    partitioned: bool = False
    oracle: bool = False


def _number(values: Values, name: str) -> float:
    return float(values[name])


# -- EWSJF ---------------------------------------------------------------------------------------

# Shared by every EWSJF score mode; ALGORITHM sections 3 to 5.
_STRUCTURE = (
    Parameter("alpha", 1.5, 0.75, 4.0, "log", description="gap threshold of Refine-and-Prune"),
    Parameter("q_max", 16, scale="choice", choices=(4, 8, 16, 32), description="most queues"),
    Parameter(
        "overdue_share",
        0.0,
        0.0,
        0.5,
        description="phi: share of the token budget for overdue requests; 0 is off",
    ),
    Parameter(
        "overdue_floor_s",
        10.0,
        1.0,
        300.0,
        "log",
        unit="s",
        description="no wait below this is overdue",
        tunable=False,
    ),
    Parameter(
        "overdue_kappa",
        60.0,
        1.0,
        10_000.0,
        "log",
        description="overdue beyond this many times the own prefill cost",
        tunable=False,
    ),
    Parameter(
        "overtake_window_s",
        0.0,
        0.0,
        3600.0,
        unit="s",
        description="A: never passed by a request this much younger; 0 is off",
        tunable=False,
    ),
    Parameter(
        "backfill",
        "score",
        scale="choice",
        choices=("score", "adjacent", "none"),
        description="who fills the step after its first pick",
        tunable=False,
    ),
    Parameter(
        "routing",
        "cuts",
        scale="choice",
        choices=("cuts", "bubble"),
        description="contiguous cuts, or the paper's temporary bubble queues",
        tunable=False,
    ),
    Parameter(
        "repartition_s",
        600.0,
        5.0,
        86_400.0,
        "log",
        unit="s",
        description="least time between two partitions",
        tunable=False,
    ),
)


def _scored(scorer: Callable[[Values], Scorer]) -> Builder:
    def build(values: Values, partition: Partition, context: OrderContext) -> Order:
        bubble = values["routing"] == "bubble"
        router: Router = BubbleRouter(partition) if bubble else CutRouter(partition)
        order = ScoredOrder(
            router,
            scorer(values),
            context.cost_s,
            context.traffic,
            backfill=values["backfill"],  # type: ignore[arg-type]
            overtake_window_s=_number(values, "overtake_window_s") or math.inf,
        )
        keys = [router.route(_representative(partition, i)) for i in range(partition.queues)]
        stats = zip(partition.means, partition.masses, strict=True)
        order.know_queues(dict(zip(keys, stats, strict=True)))
        return order

    return build


def _representative(partition: Partition, index: int) -> int:
    """A length that routes to queue `index`."""
    return partition.cuts[index] if index < len(partition.cuts) else _last_length(partition)


def _last_length(partition: Partition) -> int:
    low = partition.cuts[-1] + 1 if partition.cuts else 1
    return max(low, round(partition.means[-1]))


def _power(values: Values) -> Scorer:
    return PowerScore(
        wait_power=_number(values, "lambda"),
        cost_power=_number(values, "mu"),
        cost_weight=_number(values, "k"),
        fairness_weight=_number(values, "w_fair"),
        density_weight=_number(values, "delta"),
    )


def _normalised(values: Values) -> Scorer:
    return NormalisedScore(
        urgency_base=_number(values, "b_u"),
        urgency_slope=_number(values, "a_u"),
        fairness_base=_number(values, "b_f"),
        fairness_slope=_number(values, "a_f"),
        length_power=_number(values, "gamma"),
        density_power=_number(values, "delta"),
    )


def _paper(values: Values) -> Scorer:
    return PaperScore(
        urgency_slope=_number(values, "a_u"),
        urgency_base=_number(values, "b_u"),
        fairness_slope=_number(values, "a_f"),
        fairness_base=_number(values, "b_f"),
    )


def _authors(values: Values, partition: Partition, context: OrderContext) -> Order:
    scorer = AuthorsScore(int(values["step_tokens"]), _number(values, "length_weight"))
    router = WidthRouter(int(values["width_tokens"]))
    return ScoredOrder(
        router,
        scorer,
        context.cost_s,
        context.traffic,
        backfill=values["backfill"],  # type: ignore[arg-type]
    )


_POWER_SPACE = ParameterSpace(
    (
        Parameter("lambda", 0.5, 0.0, 2.0, description="power of the wait (Box-Cox)"),
        Parameter("mu", -0.5, -1.0, 1.0, description="power of the cost (Box-Cox)"),
        Parameter("k", 20.0, 0.05, 500.0, "log", description="weight of the cost"),
        Parameter("w_fair", 0.0, -1.0, 1.0, description="weight of ln(1 + b/b0)"),
        Parameter("delta", 0.0, -0.5, 0.5, description="weight of the queue's density"),
        *_STRUCTURE,
    )
)
_NORMALISED_SPACE = ParameterSpace(
    (
        Parameter("b_u", 1.0, 0.2, 5.0, "log", description="urgency at length 0"),
        Parameter("a_u", 0.0, -1.0, 1.0, description="urgency's slope in length"),
        Parameter("b_f", 0.3, 0.0, 2.0, description="fairness at length 0"),
        Parameter("a_f", 0.0, -0.5, 0.5, description="fairness's slope in length"),
        Parameter("gamma", 0.5, 0.0, 3.0, description="power of the length discount"),
        Parameter("delta", 0.0, 0.0, 0.5, description="power of the queue's density"),
        *_STRUCTURE,
    )
)
_PAPER_SPACE = ParameterSpace(
    (
        Parameter("a_u", 1e-4, -1e-3, 1e-3, description="urgency's slope in tokens"),
        Parameter("b_u", 1.0, 0.0, 5.0, description="urgency at length 0"),
        Parameter("a_f", -5e-5, -1e-3, 1e-3, description="fairness's slope in tokens"),
        Parameter("b_f", 0.5, 0.0, 5.0, description="fairness at length 0"),
        *_STRUCTURE,
    )
)
_AUTHORS_SPACE = ParameterSpace(
    (
        Parameter("step_tokens", 200, 16, 8192, "integer", unit="tokens", description="S"),
        Parameter("width_tokens", 100, 16, 8192, "integer", unit="tokens", description="width"),
        Parameter("length_weight", 0.5, 0.0, 2.0, description="weight of ln(b + 1)"),
        Parameter(
            "backfill",
            "score",
            scale="choice",
            choices=("score", "none"),
            description="`none` drains one queue a step, as published",
            tunable=False,
        ),
    )
)
_HRRN_QUEUES_SPACE = ParameterSpace(
    (Parameter("exponent", 1.0, 0.25, 4.0, "log", description="W / C^exponent"), *_STRUCTURE)
)


# -- rivals --------------------------------------------------------------------------------------


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
    return PromotingOrder(inner, _number(values, "max_wait_s"), lambda entry: True)


def _short_first(values: Values, partition: Partition, context: OrderContext) -> Order:
    limit = int(values["short_tokens"])
    inner = KeyedOrder(lambda e: (float(e.prompt_tokens > limit),))
    max_wait_s = _number(values, "long_max_wait_s") or math.inf
    return PromotingOrder(inner, max_wait_s, lambda entry: entry.prompt_tokens > limit)


def _random_key(values: Values, context: OrderContext) -> Callable[[Entry], Key]:
    def key(entry: Entry) -> Key:
        text = f"{context.seed}:{entry.request_id}".encode()
        return (float(int.from_bytes(hashlib.blake2b(text, digest_size=6).digest(), "big")),)

    return key


def _boost_key(values: Values, context: OrderContext) -> Callable[[Entry], Key]:
    gamma = _number(values, "gamma")
    return lambda e: (boosted_arrival_s(e.arrived_s, context.cost_s(e.prompt_tokens), gamma),)


def _boost_ada(values: Values, partition: Partition, context: OrderContext) -> Order:
    return AdaptiveBoostOrder(context.cost_s, _number(values, "gamma"))


def _linear_aging_key(values: Values, context: OrderContext) -> Callable[[Entry], Key]:
    rate = _number(values, "r")
    return lambda e: (e.prompt_tokens + rate * e.arrived_s,)


def _total_key(values: Values, context: OrderContext) -> Callable[[Entry], Key]:
    beta = _number(values, "beta")
    return lambda e: (e.prompt_tokens + beta * e.output_tokens,)


def _per_request(scorer: Callable[[Values], Scorer]) -> Builder:
    def build(values: Values, partition: Partition, context: OrderContext) -> Order:
        return ScoredOrder(LengthRouter(), scorer(values), context.cost_s, context.traffic)

    return build


_GAMMA = Parameter(
    "gamma", 0.02, 1e-4, 10.0, "log", unit="1/s", description="tail exponent; large is FCFS"
)

ORDERS: dict[str, OrderSpec] = {
    spec.name: spec
    for spec in (
        OrderSpec("ewsjf", "EWSJF, power score", _scored(_power), _POWER_SPACE, True),
        OrderSpec(
            "ewsjf_normalised",
            "EWSJF, the paper's form without units",
            _scored(_normalised),
            _NORMALISED_SPACE,
            True,
        ),
        OrderSpec("ewsjf_paper", "EWSJF, published score", _scored(_paper), _PAPER_SPACE, True),
        OrderSpec("ewsjf_authors", "EWSJF, the authors' code", _authors, _AUTHORS_SPACE),
        OrderSpec(
            "ewsjf_hrrn",
            "EWSJF queues, response ratio score",
            _scored(lambda v: ResponseRatioScore(_number(v, "exponent"))),
            _HRRN_QUEUES_SPACE,
            True,
        ),
        OrderSpec("fcfs", "first come, first served", _keyed(lambda v, c: lambda e: e.arrival_key)),
        OrderSpec(
            "priority",
            "user priority, then arrival",
            _keyed(lambda v, c: lambda e: (e.priority, e.arrived_s)),
        ),
        OrderSpec("random", "hash of the request id: the sanity floor", _keyed(_random_key)),
        OrderSpec(
            "sjf", "shortest prompt first", _keyed(lambda v, c: lambda e: (e.prompt_tokens,))
        ),
        OrderSpec("spf", "shortest uncached prefill first", _spf),
        OrderSpec(
            "sjf_total",
            "shortest prompt + beta x true output first",
            _keyed(_total_key),
            ParameterSpace(
                (
                    Parameter(
                        "beta",
                        2.0,
                        0.0,
                        1000.0,
                        unit="tokens/token",
                        description="cost of an output token in prompt tokens",
                    ),
                )
            ),
            oracle=True,
        ),
        OrderSpec(
            "linear_aging",
            "prompt minus r x wait (SGLang 30806)",
            _keyed(_linear_aging_key),
            ParameterSpace(
                (Parameter("r", 20.0, 0.1, 1e5, "log", unit="tokens/s", description="aging rate"),)
            ),
        ),
        OrderSpec(
            "hrrn",
            "highest response ratio next, every request scored (SGLang 32911)",
            _per_request(lambda v: ResponseRatioScore(_number(v, "exponent"))),
            ParameterSpace(
                (Parameter("exponent", 1.0, 0.25, 4.0, "log", description="W / C^exponent"),)
            ),
        ),
        OrderSpec(
            "boost",
            "arrival minus boost(C, gamma) (UniBoost)",
            _keyed(_boost_key),
            ParameterSpace((_GAMMA,)),
        ),
        OrderSpec(
            "boost_ada",
            "boost, gamma refitted from the tail of the waits",
            _boost_ada,
            ParameterSpace((_GAMMA,)),
        ),
        OrderSpec(
            "residual_sjf",
            "shortest uncached first, FCFS once a wait is too long (vLLM 51375)",
            _residual_sjf,
            ParameterSpace(
                (
                    Parameter(
                        "max_wait_s", 10.0, 0.1, 3600.0, "log", unit="s", description="FCFS beyond"
                    ),
                )
            ),
        ),
        OrderSpec(
            "srf",
            "short requests first, aged long ones before them (vllm-ascend)",
            _short_first,
            ParameterSpace(
                (
                    Parameter(
                        "short_tokens",
                        256,
                        1,
                        1_000_000,
                        "integer",
                        unit="tokens",
                        description="a prompt up to this is short",
                    ),
                    Parameter(
                        "long_max_wait_s",
                        0.0,
                        0.0,
                        3600.0,
                        unit="s",
                        description="a long one goes first beyond this wait; 0 is never",
                    ),
                )
            ),
        ),
        OrderSpec(
            "sigmoid",
            "half sigmoid of wait, half of shortness (vLLM 29366)",
            _per_request(
                lambda v: SigmoidScore(_number(v, "median_tokens"), _number(v, "median_wait_s"))
            ),
            ParameterSpace(
                (
                    Parameter(
                        "median_tokens",
                        32_768.0,
                        16.0,
                        1e6,
                        "log",
                        unit="tokens",
                        description="Lm",
                    ),
                    Parameter(
                        "median_wait_s", 5.0, 0.01, 3600.0, "log", unit="s", description="Wm"
                    ),
                )
            ),
        ),
    )
}
