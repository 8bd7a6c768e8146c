"""Scores of the heads of queues, and keys of requests: one function an order.

The arithmetic is that of `scheduling.scoring`, `boost` and `rivals`, operation by operation, so
that both engines see the same numbers.  Notation as there: b tokens, W wait, c cost, m the mean
length and D the share of the queue, t0 the running mean cost, b0 the reference length.
"""

from __future__ import annotations

import math

from ewsjf_env.engine.compiled import codes
from ewsjf_env.engine.compiled.compiler import inner
from ewsjf_env.engine.compiled.state import State
from ewsjf_env.scheduling.scoring import MINIMUM_SHARE, TAU_S


@inner
def cost_s(s: State, tokens: float) -> float:
    """C(b) by the cost model, seconds."""
    p = s.policy[0]
    cost = p.c0 + tokens * (p.c1 + tokens * p.c2)
    return cost if cost > p.least_cost_s else p.least_cost_s


@inner
def queue_share(s: State, q: int) -> float:
    """D, at least what a logarithm can bear."""
    share = s.queues[q].share * s.clock[0].share_scale
    return share if share > MINIMUM_SHARE else MINIMUM_SHARE


@inner
def power(s: State, b: int, wait_s: float, c: float, q: int) -> float:
    """`PowerScore`: lambda, mu, k, w_fair, delta are p0 to p4."""
    p = s.policy[0]
    t0, lam, mu = s.clock[0].mean_cost_s, p.p0, p.p1
    wait = ((wait_s if wait_s > 0.0 else 0.0) + TAU_S) / t0
    cost = c / t0
    value = (wait**lam - 1.0) / lam if lam != 0.0 else math.log(wait)
    value -= p.p2 * ((cost**mu - 1.0) / mu if mu != 0.0 else math.log(cost))
    if p.p3 != 0.0:
        value += p.p3 * math.log1p(b / p.reference_tokens)
    if p.p4 != 0.0:
        value += p.p4 * math.log(queue_share(s, q))
    return value


@inner
def normalised(s: State, b: int, wait_s: float, c: float, q: int) -> float:
    """`NormalisedScore`: b_u, a_u, b_f, a_f, gamma, delta are p0 to p5."""
    p = s.policy[0]
    b0 = p.reference_tokens
    z = math.log1p(s.queues[q].mean / b0) / math.log1p(s.limits[0].longest_tokens / b0)
    urgency = min(10.0, max(0.05, p.p0 + p.p1 * z))
    fairness = min(5.0, max(0.0, p.p2 + p.p3 * z))
    value = 1.0 + urgency * max(0.0, wait_s) / c + fairness * math.log1p(b / b0)
    density = queue_share(s, q) ** p.p5
    return density * (b0 / (b + b0)) ** p.p4 * value


@inner
def paper(s: State, b: int, wait_s: float, c: float, q: int) -> float:
    """`PaperScore`: a_u, b_u, a_f, b_f are p0 to p3."""
    p = s.policy[0]
    m = s.queues[q].mean
    urgency = max(0.0, p.p0 * m + p.p1)
    fairness = max(0.0, p.p2 * m + p.p3)
    inner_value = 1.0 + urgency * max(0.0, wait_s) / c + fairness * math.log(b + 1.0)
    return s.queues[q].rank / (b + 1) * inner_value


@inner
def authors(s: State, b: int, wait_s: float, c: float, q: int) -> float:
    """`AuthorsScore`: step_tokens and length_weight are p0 and p1."""
    p = s.policy[0]
    step = int(p.p0)
    index = b // step + 1
    growth = 1.0 + p.p1 * math.log(b + 1.0)
    return max(0.0, wait_s) * step / index * growth


@inner
def response_ratio(s: State, b: int, wait_s: float, c: float, q: int) -> float:
    """`ResponseRatioScore`: exponent is p0."""
    return max(0.0, wait_s) / c ** s.policy[0].p0


@inner
def sigmoid(s: State, b: int, wait_s: float, c: float, q: int) -> float:
    """`SigmoidScore`: median_tokens and median_wait_s are p0 and p1."""
    p = s.policy[0]
    wait = _sigmoid((wait_s - p.p1) / p.p1)
    return 0.5 * wait + 0.5 * (1.0 - _sigmoid((b - p.p0) / p.p0))


@inner
def _sigmoid(x: float) -> float:
    return 1.0 / (1.0 + math.exp(-min(60.0, max(-60.0, x))))


@inner
def score(s: State, b: int, wait_s: float, c: float, q: int) -> float:
    """Urgency of a head under the policy in force."""
    which = s.policy[0].score
    if which == codes.POWER:
        return power(s, b, wait_s, c, q)
    if which == codes.RESPONSE_RATIO:
        return response_ratio(s, b, wait_s, c, q)
    if which == codes.NORMALISED:
        return normalised(s, b, wait_s, c, q)
    if which == codes.PAPER:
        return paper(s, b, wait_s, c, q)
    if which == codes.AUTHORS:
        return authors(s, b, wait_s, c, q)
    return sigmoid(s, b, wait_s, c, q)


@inner
def boosted_arrival_s(arrival_s: float, work_s: float, gamma: float) -> float:
    """The key of the boost orders."""
    return arrival_s + math.log(-math.expm1(-gamma * work_s)) / gamma


@inner
def key(s: State, i: int, uncached: int) -> float:
    """The key of a request under the policy in force; smallest first, ties by arrival."""
    p = s.policy[0]
    which, b = p.key, s.requests[i].prompt
    if which == codes.BY_UNCACHED:
        return float(-(-uncached // s.limits[0].block_tokens))
    if which == codes.BY_TOTAL:
        return b + p.p0 * s.requests[i].output
    if which == codes.BY_PRIORITY:
        return float(s.requests[i].priority)
    if which == codes.BY_HASH:
        return s.requests[i].key_given
    if which == codes.BY_AGED_LENGTH:
        return b + p.p0 * s.requests[i].arrival_s
    if which == codes.BY_BOOST:
        return boosted_arrival_s(s.requests[i].arrival_s, cost_s(s, float(b)), p.p0)
    if which == codes.BY_SHORT_FIRST:
        return 1.0 if b > p.short_tokens else 0.0
    return float(b)
