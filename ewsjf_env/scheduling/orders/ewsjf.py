"""EWSJF in its score modes: parameter spaces and builders.

Every mode shares the structure of ALGORITHM sections 3 to 5 (partition, backfill, fairness)
and differs in how the head of a queue is scored.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from ewsjf_env.parameters import Parameter, ParameterSpace
from ewsjf_env.scheduling.orders.effective_work import EffectiveWork, WorkFunction
from ewsjf_env.scheduling.orders.order import Order, ScoredOrder
from ewsjf_env.scheduling.orders.routing import BubbleRouter, CutRouter, Router, WidthRouter
from ewsjf_env.scheduling.orders.scoring import (
    AuthorsScore,
    NormalisedScore,
    PaperScore,
    PowerScore,
    ResponseRatioScore,
    Scorer,
)
from ewsjf_env.scheduling.orders.spec import Builder, OrderContext, OrderSpec, Values, number
from ewsjf_env.scheduling.partition.partition import Partition

# Shared by every EWSJF score mode; ALGORITHM sections 3 to 5.
_STRUCTURE = (
    Parameter(
        "alpha",
        1.5,
        0.75,
        4.0,
        "log",
        description="gap threshold of Refine-and-Prune",
        minor=True,
    ),
    Parameter(
        "homogeneity",
        1.5,
        1.2,
        8.0,
        "log",
        description="most a queue's longest prompt exceeds its shortest before it is split",
        minor=True,
    ),
    Parameter(
        "q_max", 16, scale="choice", choices=(4, 8, 16, 32), description="most queues", minor=True
    ),
    Parameter(
        "prune",
        "delay",
        scale="choice",
        choices=("delay", "ward", "paper_low", "paper_high"),
        description="which neighbouring queues are merged first",
        tunable=False,
    ),
    Parameter(
        "overdue_share",
        0.0,
        0.0,
        0.5,
        description="phi: share of the token budget for overdue requests; 0 is off",
        minor=True,
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
        "repartition",
        "on",
        scale="choice",
        choices=("on", "off"),
        description="off freezes the policy's own partition",
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
    Parameter(
        "w_cached",
        0.0,
        description="share of the cached prefix that is no work; 0 counts the whole prompt",
        named=True,
        generation=2,
    ),
    Parameter(
        "w_output",
        0.0,
        0.0,
        16.0,
        unit="tokens/token",
        description="prompt tokens that an expected output token counts as; 0 is off",
        named=True,
        generation=2,
    ),
    Parameter(
        "output_quantile",
        0.5,
        0.05,
        0.95,
        description="of what similar requests generated, where the caller gives no hint",
        named=True,
        generation=2,
    ),
    Parameter(
        "output_from",
        "both",
        scale="choice",
        choices=("both", "hint", "learned"),
        description="where the expected output comes from; `both` prefers the caller's hint",
        tunable=False,
        generation=2,
    ),
    Parameter(
        "route_by",
        "work",
        scale="choice",
        choices=("prompt", "work"),
        description="what chooses the queue: the request's work on arrival, or the prompt alone",
        tunable=False,
        generation=2,
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
            overtake_window_s=number(values, "overtake_window_s") or math.inf,
            work=_work(values, context),
            route_by_work=values["route_by"] == "work",
        )
        keys = [router.route(_representative(partition, i)) for i in range(partition.queues)]
        stats = zip(partition.means, partition.masses, strict=True)
        order.know_queues(dict(zip(keys, stats, strict=True)))
        return order

    return build


def _work(values: Values, context: OrderContext) -> WorkFunction | None:
    """Effective work where the policy asks for it; None where a request is its length."""
    cached, output = number(values, "w_cached"), number(values, "w_output")
    if not cached and not output:
        return None
    return EffectiveWork(
        cached_weight=cached,
        output_weight=output,
        quantile=number(values, "output_quantile"),
        use_hints=values["output_from"] != "learned",
        use_learned=values["output_from"] != "hint",
        estimates=context.outputs,
    )


def _representative(partition: Partition, index: int) -> int:
    """A length that routes to queue `index`."""
    return partition.cuts[index] if index < len(partition.cuts) else _last_length(partition)


def _last_length(partition: Partition) -> int:
    low = partition.cuts[-1] + 1 if partition.cuts else 1
    return max(low, round(partition.means[-1]))


def _power(values: Values) -> Scorer:
    return PowerScore(
        wait_power=number(values, "lambda"),
        cost_power=number(values, "mu"),
        cost_weight=number(values, "k"),
        fairness_weight=number(values, "w_fair"),
        density_weight=number(values, "delta"),
    )


def _normalised(values: Values) -> Scorer:
    return NormalisedScore(
        urgency_base=number(values, "b_u"),
        urgency_slope=number(values, "a_u"),
        fairness_base=number(values, "b_f"),
        fairness_slope=number(values, "a_f"),
        length_power=number(values, "gamma"),
        density_power=number(values, "delta"),
    )


def _paper(values: Values) -> Scorer:
    return PaperScore(
        urgency_slope=number(values, "a_u"),
        urgency_base=number(values, "b_u"),
        fairness_slope=number(values, "a_f"),
        fairness_base=number(values, "b_f"),
    )


def _authors(values: Values, partition: Partition, context: OrderContext) -> Order:
    scorer = AuthorsScore(int(values["step_tokens"]), number(values, "length_weight"))
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
        Parameter("w_fair", 0.0, -1.0, 1.0, description="weight of ln(1 + b/b0)", minor=True),
        Parameter("delta", 0.0, -0.5, 0.5, description="weight of the queue's density", minor=True),
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
        Parameter("delta", 0.0, 0.0, 0.5, description="power of the queue's density", minor=True),
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

EWSJF_ORDERS: tuple[OrderSpec, ...] = (
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
        _scored(lambda v: ResponseRatioScore(number(v, "exponent"))),
        _HRRN_QUEUES_SPACE,
        True,
    ),
)
