"""Scores of the heads of queues, and keys of requests: one function an order.

The arithmetic is that of `scheduling.scoring`, `boost` and `rivals`, operation by operation, so
that both engines see the same numbers.  Notation as there: b tokens, W wait, c cost, m the mean
length and D the share of the queue, t0 the running mean cost, b0 the reference length.
"""

from __future__ import annotations

import math
from typing import Any

from ewsjf_env.engine.compiled.kernel import codes
from ewsjf_env.engine.compiled.kernel.compiler import inner
from ewsjf_env.scheduling.orders.scoring import MINIMUM_SHARE, TAU_S


@inner
def cost_s(p: Any, tokens: float) -> float:
    """C(b) by the cost model, seconds."""
    cost = p.c0 + tokens * (p.c1 + tokens * p.c2)
    return cost if cost > p.least_cost_s else p.least_cost_s


@inner
def power(p: Any, t0: float, queue: Any, b: int, wait_s: float, c: float, share: float) -> float:
    """`PowerScore`: lambda, mu, k, w_fair, delta are p0 to p4."""
    lam, mu = p.p0, p.p1
    wait = ((wait_s if wait_s > 0.0 else 0.0) + TAU_S) / t0
    cost = c / t0
    value = (wait**lam - 1.0) / lam if lam != 0.0 else math.log(wait)
    if queue.priced != cost:
        queue.priced = cost
        queue.price = p.p2 * ((cost**mu - 1.0) / mu if mu != 0.0 else math.log(cost))
    value -= queue.price
    if p.p3 != 0.0:
        value += p.p3 * math.log1p(b / p.reference_tokens)
    if p.p4 != 0.0:
        value += p.p4 * math.log(share)
    return value


@inner
def normalised(p: Any, b: int, wait_s: float, c: float, mean: float, share: float) -> float:
    """`NormalisedScore`: b_u, a_u, b_f, a_f, gamma, delta are p0 to p5."""
    b0 = p.reference_tokens
    z = math.log1p(mean / b0) / math.log1p(p.longest_tokens / b0)
    urgency = min(10.0, max(0.05, p.p0 + p.p1 * z))
    fairness = min(5.0, max(0.0, p.p2 + p.p3 * z))
    value = 1.0 + urgency * max(0.0, wait_s) / c + fairness * math.log1p(b / b0)
    return share**p.p5 * (b0 / (b + b0)) ** p.p4 * value


@inner
def paper(p: Any, b: int, wait_s: float, c: float, mean: float, rank: int) -> float:
    """`PaperScore`: a_u, b_u, a_f, b_f are p0 to p3."""
    urgency = max(0.0, p.p0 * mean + p.p1)
    fairness = max(0.0, p.p2 * mean + p.p3)
    terms = 1.0 + urgency * max(0.0, wait_s) / c + fairness * math.log(b + 1.0)
    return rank / (b + 1) * terms


@inner
def authors(p: Any, b: int, wait_s: float) -> float:
    """`AuthorsScore`: step_tokens and length_weight are p0 and p1."""
    step = int(p.p0)
    index = b // step + 1
    growth = 1.0 + p.p1 * math.log(b + 1.0)
    return max(0.0, wait_s) * step / index * growth


@inner
def response_ratio(p: Any, queue: Any, wait_s: float, c: float) -> float:
    """`ResponseRatioScore`: exponent is p0."""
    if queue.priced != c:
        queue.priced, queue.price = c, c**p.p0
    return max(0.0, wait_s) / queue.price


@inner
def sigmoid(p: Any, b: int, wait_s: float) -> float:
    """`SigmoidScore`: median_tokens and median_wait_s are p0 and p1."""
    wait = _sigmoid((wait_s - p.p1) / p.p1)
    return 0.5 * wait + 0.5 * (1.0 - _sigmoid((b - p.p0) / p.p0))


@inner
def _sigmoid(x: float) -> float:
    return 1.0 / (1.0 + math.exp(-min(60.0, max(-60.0, x))))


@inner
def score(p: Any, t0: float, share_scale: float, queue: Any, b: int, wait_s: float) -> float:
    """Urgency of the head of a queue under the policy in force.

    Args:
        p: record of the policy.
        t0: running mean cost.
        share_scale: of the queues' shares.
        queue: record of its queue.
        b: its tokens, or its effective work.
        wait_s: how long it has waited.
    """
    c = cost_s(p, float(b))
    share = max(queue.share * share_scale, MINIMUM_SHARE)
    if p.score == codes.POWER:
        return power(p, t0, queue, b, wait_s, c, share)
    if p.score == codes.RESPONSE_RATIO:
        return response_ratio(p, queue, wait_s, c)
    if p.score == codes.NORMALISED:
        return normalised(p, b, wait_s, c, queue.mean, share)
    if p.score == codes.PAPER:
        return paper(p, b, wait_s, c, queue.mean, queue.rank)
    if p.score == codes.AUTHORS:
        return authors(p, b, wait_s)
    return sigmoid(p, b, wait_s)


@inner
def boosted_arrival_s(arrival_s: float, work_s: float, gamma: float) -> float:
    """The key of the boost orders."""
    return arrival_s + math.log(-math.expm1(-gamma * work_s)) / gamma


@inner
def key(p: Any, request: Any, uncached: int) -> float:
    """The key of a request under the policy in force; smallest first, ties by arrival.

    Args:
        p: record of the policy.
        request: record of the request.
        uncached: its prompt tokens that the prefix cache does not hold.
    """
    which, b = p.key, request.prompt
    if which == codes.BY_UNCACHED:
        return float(-(-uncached // p.block_tokens))
    if which == codes.BY_TOTAL:
        return b + p.p0 * request.output
    if which == codes.BY_PRIORITY:
        return float(request.priority)
    if which == codes.BY_HASH:
        return request.key_given
    if which == codes.BY_AGED_LENGTH:
        return b + p.p0 * request.arrival_s
    if which == codes.BY_BOOST:
        return boosted_arrival_s(request.arrival_s, cost_s(p, float(b)), p.p0)
    if which == codes.BY_SHORT_FIRST:
        return 1.0 if b > p.short_tokens else 0.0
    return float(b)
