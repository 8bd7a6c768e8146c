"""The overdue lane: requests that have waited too long, oldest first, while there is credit.

Two heaps: of deadlines still ahead, and of the overdue by age.  See `scheduling.fairness`.
"""

from __future__ import annotations

from ewsjf_env.engine.compiled.kernel.codes import NOBODY
from ewsjf_env.engine.compiled.kernel.compiler import inner
from ewsjf_env.engine.compiled.kernel.views import (
    View,
    clock_of,
    heaps_of,
    keys_of,
    policy_of,
    requests_of,
)
from ewsjf_env.engine.compiled.orders.heap import pop, push
from ewsjf_env.engine.compiled.orders.scores import cost_s
from ewsjf_env.scheduling.overdue import CAP_BUDGETS


@inner
def watch(s: View, i: int) -> None:
    """Watch a request that waits in the order."""
    requests, heaps, keys = requests_of(s), heaps_of(s), keys_of(s)
    c, p = clock_of(s), policy_of(s)
    if p.overdue_share <= 0.0:
        return
    limit_s = max(p.overdue_floor_s, p.overdue_kappa * cost_s(p, float(requests[i].prompt)))
    requests[i].watched = 1
    c.watched += 1
    keys[0, i] = requests[i].arrival_s + limit_s
    c.deadlines = push(heaps[0], keys[0], c.deadlines, i)


@inner
def unwatch(s: View, i: int) -> None:
    """Stop watching a request."""
    requests = requests_of(s)
    c = clock_of(s)
    if requests[i].watched:
        requests[i].watched = 0
        c.watched -= 1
        if not c.watched:
            c.deadlines = c.overdue = 0


@inner
def earn(s: View, now_s: float, budget: int) -> None:
    """Begin a step: credit for the lane, and who is overdue by now."""
    c, p = clock_of(s), policy_of(s)
    if p.overdue_share <= 0.0:
        return
    c.cap_tokens = CAP_BUDGETS * float(budget)
    c.credit_tokens = min(c.cap_tokens, c.credit_tokens + p.overdue_share * budget)
    enter(s, now_s)


@inner
def enter(s: View, now_s: float) -> None:
    """Let requests whose limit has passed enter the lane."""
    requests, heaps, keys = requests_of(s), heaps_of(s), keys_of(s)
    c = clock_of(s)
    while c.deadlines and keys[0, heaps[0, 0]] < now_s:
        i = heaps[0, 0]
        c.deadlines = pop(heaps[0], keys[0], c.deadlines)
        if requests[i].watched:
            c.overdue = push(heaps[1], keys[1], c.overdue, i)


@inner
def oldest_overdue(s: View) -> int:
    """The oldest overdue request when there is credit."""
    requests, heaps, keys = requests_of(s), heaps_of(s), keys_of(s)
    c = clock_of(s)
    while c.overdue and not requests[heaps[1, 0]].watched:
        c.overdue = pop(heaps[1], keys[1], c.overdue)
    if c.overdue and c.credit_tokens > 0.0:
        return heaps[1, 0]
    return NOBODY


@inner
def charge(s: View, i: int) -> None:
    """Pay for a request served from the lane."""
    requests = requests_of(s)
    c = clock_of(s)
    c.overdue_served += 1
    c.credit_tokens -= min(float(requests[i].prompt), c.cap_tokens)
