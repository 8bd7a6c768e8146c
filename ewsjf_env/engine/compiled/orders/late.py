"""The lane of requests that are late anyway, as `scheduling.orders.late` has it."""

from __future__ import annotations

from ewsjf_env.engine.compiled.kernel import codes
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
from ewsjf_env.engine.compiled.orders.order import best, lets_in, remove_from_order
from ewsjf_env.engine.compiled.orders.scores import cost_s, deadline_s

MOMENTS, LATE = 2, 3  # rows of heaps and keys


@inner
def await_lateness(s: View, i: int) -> None:
    """Note when a request that has joined the order will be late."""
    r, c, p = requests_of(s)[i], clock_of(s), policy_of(s)
    if p.late_last:
        heaps, keys = heaps_of(s), keys_of(s)
        keys[MOMENTS, i] = deadline_s(p, r) - cost_s(p, float(r.prompt))
        c.moments = push(heaps[MOMENTS], keys[MOMENTS], c.moments, i)


@inner
def leave_late(s: View) -> None:
    """Begin a step: those that are late by now leave the order."""
    requests, heaps, keys, c = requests_of(s), heaps_of(s), keys_of(s), clock_of(s)
    while c.moments and keys[MOMENTS, heaps[MOMENTS, 0]] < c.step_s:
        i = heaps[MOMENTS, 0]
        c.moments = pop(heaps[MOMENTS], keys[MOMENTS], c.moments)
        if requests[i].where == codes.IN_ORDER:
            remove_from_order(s, i, False)
            requests[i].where = codes.IN_LATE
            c.late += 1
            c.oldest_late = push(heaps[LATE], keys[LATE], c.oldest_late, i)


@inner
def remove_in_lane(s: View, i: int, picked: bool) -> None:
    """Take a request out of the order, or out of the lane of late ones."""
    requests, c, p = requests_of(s), clock_of(s), policy_of(s)
    r = requests[i]
    if c.late_passed != NOBODY:
        requests[c.late_passed].passed += picked
        c.late_passed = NOBODY
    if r.where != codes.IN_LATE:
        remove_from_order(s, i, picked)
        if picked and c.late:
            c.late_credit += p.late_earns * r.prompt
        return
    c.late -= 1
    if picked and c.ordered:
        c.late_credit -= r.prompt
    if not c.late:
        c.late_credit = 0.0


@inner
def best_in_lanes(s: View) -> int:
    """The order's next request, or the oldest late one."""
    clock_of(s).late_passed = NOBODY
    if not clock_of(s).late:
        return best(s)
    requests, heaps, keys, c = requests_of(s), heaps_of(s), keys_of(s), clock_of(s)
    while requests[heaps[LATE, 0]].where != codes.IN_LATE:
        c.oldest_late = pop(heaps[LATE], keys[LATE], c.oldest_late)
    late, found = heaps[LATE, 0], best(s)
    if policy_of(s).gated and not lets_in(s, late):
        if c.late_credit >= requests[late].prompt:
            c.late_passed = late
        return found
    if found == NOBODY:
        return NOBODY if c.ordered else late  # the order closes the step, or is empty
    return late if c.late_credit >= requests[late].prompt else found
