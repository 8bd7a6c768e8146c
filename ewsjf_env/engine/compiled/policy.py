"""A policy as numbers: which order, key and score, with which values.

`ORDER_CODES` says for every order of the registry how it picks and which parameters its key or
score reads, in the order of p0, p1, ...  A new order is one function in `scores.py` and one row.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ewsjf_env.config import ConfigError
from ewsjf_env.engine.compiled.kernel import codes
from ewsjf_env.engine.compiled.kernel.state import POLICY, Floats, Integers, new_queues, new_record
from ewsjf_env.engine.compiled.orders.order import ALL_AGE, LONG_AGE
from ewsjf_env.policy.policy import Policy
from ewsjf_env.scheduling.cost import LEAST_COST_S
from ewsjf_env.scheduling.orders.ewsjf import known_queues
from ewsjf_env.scheduling.orders.fcfs import SHARE_HALF_LIFE_S
from ewsjf_env.scheduling.orders.routing import (
    BUBBLE_TOKENS,
    BUBBLES,
    PATIENCE_STEPS,
    BubbleRouter,
)
from ewsjf_env.scheduling.orders.scoring import REFERENCE_TOKENS
from ewsjf_env.scheduling.partition.partition import Partition


@dataclass(frozen=True)
class OrderCode:
    """How compiled code runs an order.

    Attributes:
        kind: `OLDEST`, `KEYED` or `SCORED`.
        key, score: code of the function in `scores.py`.
        parameters: names of p0, p1, ...
        promotes: whom a wait promotes, and `promote`, the parameter that says from when on.
        refreshes: keys are computed anew at the head.
        adapts: the parameter is fitted to the waits.
        lengths: a queue for every length, instead of the partition's.
    """

    kind: int
    key: int = 0
    score: int = 0
    parameters: tuple[str, ...] = ()
    promotes: int = 0
    promote: str = ""
    refreshes: bool = False
    adapts: bool = False
    lengths: bool = False


def _keyed(key: int, *parameters: str, **more: Any) -> OrderCode:
    return OrderCode(codes.KEYED, key=key, parameters=parameters, **more)


def _scored(score: int, *parameters: str, **more: Any) -> OrderCode:
    return OrderCode(codes.SCORED, score=score, parameters=parameters, **more)


ORDER_CODES: dict[str, OrderCode] = {
    "fcfs": OrderCode(codes.OLDEST),
    "priority": _keyed(codes.BY_PRIORITY),
    "random": _keyed(codes.BY_HASH),
    "sjf": _keyed(codes.BY_LENGTH),
    "spf": _keyed(codes.BY_UNCACHED, refreshes=True),
    "sjf_total": _keyed(codes.BY_TOTAL, "beta"),
    "linear_aging": _keyed(codes.BY_AGED_LENGTH, "r"),
    "boost": _keyed(codes.BY_BOOST, "gamma"),
    "boost_ada": _keyed(codes.BY_BOOST, "gamma", adapts=True),
    "residual_sjf": _keyed(
        codes.BY_UNCACHED, refreshes=True, promotes=ALL_AGE, promote="max_wait_s"
    ),
    "srf": _keyed(codes.BY_SHORT_FIRST, promotes=LONG_AGE, promote="long_max_wait_s"),
    "hrrn": _scored(codes.RESPONSE_RATIO, "exponent", lengths=True),
    "sigmoid": _scored(codes.SIGMOID, "median_tokens", "median_wait_s", lengths=True),
    "ewsjf": _scored(codes.POWER, "lambda", "mu", "k", "w_fair", "delta"),
    "ewsjf_normalised": _scored(codes.NORMALISED, "b_u", "a_u", "b_f", "a_f", "gamma", "delta"),
    "ewsjf_paper": _scored(codes.PAPER, "a_u", "b_u", "a_f", "b_f"),
    "ewsjf_authors": _scored(codes.AUTHORS, "step_tokens", "length_weight"),
    "ewsjf_hrrn": _scored(codes.RESPONSE_RATIO, "exponent"),
}


def check_policy(policy: Policy) -> None:
    """Raise ConfigError, naming the field, for what only `engine: simulated` can serve."""
    if policy.order not in ORDER_CODES:
        raise ConfigError(
            f"policy {policy.name!r}: order: {policy.order!r} is not compiled, expected one of "
            f"{', '.join(sorted(ORDER_CODES))}; use engine: simulated"
        )


def policy_record(policy: Policy, limits: Any) -> Any:
    """The part of `state.POLICY` that the policy alone decides, for an engine's record `limits`."""
    code, values = ORDER_CODES[policy.order], policy.parameters
    record = new_record(POLICY)
    partitioned = policy.spec.partitioned
    backfill = str(values.get("backfill", "score"))
    promote_s = float(values.get(code.promote, 0.0)) if code.promote else 0.0
    given: dict[str, float] = {
        "kind": code.kind,
        "key": code.key,
        "score": code.score,
        "partitioned": partitioned,
        "backfill": codes.BACKFILL[backfill],
        "closes": backfill == "none",
        "promotes": code.promotes,
        "promote_s": promote_s or math.inf,
        "refreshes": code.refreshes,
        "adapts": code.adapts,
        "overtake_s": _number(values, "overtake_window_s", 0.0) or math.inf,
        "overdue_share": _number(values, "overdue_share", 0.0),
        "overdue_floor_s": _number(values, "overdue_floor_s", 10.0),
        "overdue_kappa": _number(values, "overdue_kappa", 60.0),
        "prefill_share": _number(values, "prefill_share", 1.0),
        "yield_share": _number(values, "yield_share", 0.0),
        "w_cached": _number(values, "w_cached", 0.0),
        "w_output": _number(values, "w_output", 0.0),
        "output_quantile": _number(values, "output_quantile", 0.5),
        "use_hints": values.get("output_from") != "learned",
        "use_learned": values.get("output_from") != "hint",
        "route_by_work": partitioned and values.get("route_by") == "work",
        "bubbles": BUBBLES if policy.parameters.get("routing") == "bubble" else 0,
        "bubble_tokens": BUBBLE_TOKENS,
        "bubble_patience": PATIENCE_STEPS,
        "width_tokens": _number(values, "width_tokens", 0.0),
        "short_tokens": _number(values, "short_tokens", 0.0),
        "least_cost_s": LEAST_COST_S,
        "block_tokens": limits["block_tokens"],
        "longest_tokens": limits["longest_tokens"],
        # Not a constant: a compiler may turn a power of one half into another function.
        "half": 0.5,
        "half_life_s": SHARE_HALF_LIFE_S,
        "reference_tokens": REFERENCE_TOKENS,
    }
    for position, name in enumerate(code.parameters):
        given[f"p{position}"] = float(values[name])
    for name, value in given.items():
        record[name] = value
    return record


def policy_queues(policy: Policy, prompt: Integers) -> dict[str, Any]:
    """Cuts and empty queues for the policy; `prompt` are the lengths that may come."""
    code = ORDER_CODES[policy.order]
    width = int(policy.parameters.get("width_tokens", 0))
    if policy.spec.partitioned:
        partition = policy.partition
        if policy.parameters["routing"] == "bubble":
            queues = _bubble_queues(partition)
        else:
            queues = new_queues(partition.queues)
            queues["mean"], queues["share"] = partition.means, partition.masses
            queues["rank"] = np.arange(partition.queues, 0, -1)
        masses = np.array(partition.masses)
        return {"cuts": np.array(partition.cuts, np.int64), "queues": queues, "masses": masses}
    if width:
        queues = new_queues(int(prompt.max()) // width + 1)
        return {"cuts": np.zeros(0, np.int64), "queues": queues}
    cuts = np.unique(prompt).astype(np.int64) if code.lengths else np.zeros(0, np.int64)
    return {"cuts": cuts, "queues": new_queues(max(1, len(cuts)))}


def _bubble_queues(partition: Partition) -> Any:
    """The rows of the partition's queues, then those of bubbles, see `bubbles.py`."""
    router = BubbleRouter(partition)
    known = known_queues(router, partition)
    keys = [router.queue_key(index) for index in range(partition.queues)]
    keys += [key for key in known if key not in keys]
    queues = new_queues(len(keys) + router.limit)
    queues["key"][: len(keys)] = keys
    ranges = np.array(router.ranges)
    queues["low"][: partition.queues], queues["high"][: partition.queues] = ranges.T
    ranks = {key: len(known) - place for place, key in enumerate(sorted(known))}
    for row, key in enumerate(keys):
        if key in known:
            queues["known"][row], queues["rank"][row] = 1, ranks[key]
            queues["mean"][row], queues["share"][row] = known[key]
        queues["bubble"][row] = router.is_bubble(key)
    return queues


def random_keys(seed: int, count: int) -> Floats:
    """Keys of the order `random`, as `scheduling.rivals` draws them from request ids."""
    texts = (f"{seed}:{index:08d}".encode() for index in range(count))
    digests = (hashlib.blake2b(text, digest_size=6).digest() for text in texts)
    return np.array([float(int.from_bytes(digest, "big")) for digest in digests])


def _number(values: Mapping[str, Any], name: str, default: float) -> float:
    return float(values.get(name, default))
