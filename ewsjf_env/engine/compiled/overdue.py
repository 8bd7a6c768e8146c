"""The overdue lane: requests that have waited too long, oldest first, while there is credit.

Two heaps: of deadlines still ahead, and of the overdue by age.  See `scheduling.fairness`.
"""

from __future__ import annotations

from ewsjf_env.engine.compiled.codes import NOBODY
from ewsjf_env.engine.compiled.compiler import inner
from ewsjf_env.engine.compiled.heap import pop, push
from ewsjf_env.engine.compiled.scores import cost_s
from ewsjf_env.engine.compiled.state import State
from ewsjf_env.scheduling.fairness import CAP_BUDGETS


@inner
def watch(s: State, i: int) -> None:
    """Watch a request that waits in the order."""
    c, p = s.clock[0], s.policy[0]
    if p.overdue_share <= 0.0:
        return
    limit_s = max(p.overdue_floor_s, p.overdue_kappa * cost_s(p, float(s.requests[i].prompt)))
    s.requests[i].watched = 1
    c.watched += 1
    s.keys[1, i] = s.requests[i].arrival_s + limit_s
    c.deadlines = push(s.heaps[1], s.keys[1], c.deadlines, i)


@inner
def unwatch(s: State, i: int) -> None:
    """Stop watching a request."""
    c = s.clock[0]
    if s.requests[i].watched:
        s.requests[i].watched = 0
        c.watched -= 1
        if not c.watched:
            c.deadlines = c.overdue = 0


@inner
def earn(s: State, now_s: float, budget: int) -> None:
    """Begin a step: credit for the lane, and who is overdue by now."""
    c, p = s.clock[0], s.policy[0]
    if p.overdue_share <= 0.0:
        return
    c.cap_tokens = CAP_BUDGETS * float(budget)
    c.credit_tokens = min(c.cap_tokens, c.credit_tokens + p.overdue_share * budget)
    enter(s, now_s)


@inner
def enter(s: State, now_s: float) -> None:
    """Let requests whose limit has passed enter the lane."""
    c = s.clock[0]
    while c.deadlines and s.keys[1, s.heaps[1, 0]] < now_s:
        i = s.heaps[1, 0]
        c.deadlines = pop(s.heaps[1], s.keys[1], c.deadlines)
        if s.requests[i].watched:
            c.overdue = push(s.heaps[2], s.keys[2], c.overdue, i)


@inner
def oldest_overdue(s: State) -> int:
    """The oldest overdue request when there is credit."""
    c = s.clock[0]
    while c.overdue and not s.requests[s.heaps[2, 0]].watched:
        c.overdue = pop(s.heaps[2], s.keys[2], c.overdue)
    if c.overdue and c.credit_tokens > 0.0:
        return s.heaps[2, 0]
    return NOBODY


@inner
def charge(s: State, i: int) -> None:
    """Pay for a request served from the lane."""
    c = s.clock[0]
    c.overdue_served += 1
    c.credit_tokens -= min(float(s.requests[i].prompt), c.cap_tokens)
