"""The builders of EWSJF in its score modes.

Every mode shares the structure of ALGORITHM sections 3 to 5 (partition, backfill, fairness)
and differs in how the head of a queue is scored.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from ewsjf_env.scheduling.orders import ewsjf_parameters as tables
from ewsjf_env.scheduling.orders.effective_work import EffectiveWork, WorkFunction
from ewsjf_env.scheduling.orders.order import Order
from ewsjf_env.scheduling.orders.routing import BubbleRouter, CutRouter, Router, WidthRouter
from ewsjf_env.scheduling.orders.scored import ScoredOrder
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
        order.know_queues(known_queues(router, partition))
        return order

    return build


def known_queues(router: Router, partition: Partition) -> dict[int, tuple[float, float]]:
    """The queues that an order keeps when they are empty: key -> (mean tokens, share)."""
    keys = [router.route(_representative(partition, i)) for i in range(partition.queues)]
    stats = zip(partition.means, partition.masses, strict=True)
    return dict(zip(keys, stats, strict=True))


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


EWSJF_ORDERS: tuple[OrderSpec, ...] = (
    OrderSpec("ewsjf", "EWSJF, power score", _scored(_power), tables.POWER, partitioned=True),
    OrderSpec(
        "ewsjf_normalised",
        "EWSJF, the paper's form without units",
        _scored(_normalised),
        tables.NORMALISED,
        partitioned=True,
    ),
    OrderSpec(
        "ewsjf_paper", "EWSJF, published score", _scored(_paper), tables.PAPER, partitioned=True
    ),
    OrderSpec("ewsjf_authors", "EWSJF, the authors' code", _authors, tables.AUTHORS),
    OrderSpec(
        "ewsjf_hrrn",
        "EWSJF queues, response ratio score",
        _scored(lambda v: ResponseRatioScore(number(v, "exponent"))),
        tables.HRRN_QUEUES,
        partitioned=True,
    ),
)
