"""Accounts of tenants, and an order for each: what `scheduling.tenants` does.

Every account has queues, a heap and waits of its own; those of one tenant are in use, and `turn_to`
exchanges them: addresses in the view, and what the clock and the policy say of an order.
"""

from __future__ import annotations

import math

from ewsjf_env.engine.compiled.kernel.codes import NOBODY
from ewsjf_env.engine.compiled.kernel.compiler import inner
from ewsjf_env.engine.compiled.kernel.state import QUEUE, WAITS_REMEMBERED
from ewsjf_env.engine.compiled.kernel.views import (
    View,
    clock_of,
    limits_of,
    policy_of,
    queues_of,
    requests_of,
    tenants_of,
)
from ewsjf_env.engine.compiled.orders.boost import refit_when_due
from ewsjf_env.engine.compiled.orders.bubbles import drop_bubbles

QUEUE_BYTES = QUEUE.itemsize


# -- orders ----------------------------------------------------------------------------------------


@inner
def begin_order(s: View) -> None:
    """Begin a step of the order in use."""
    clock_of(s).first_queue = clock_of(s).passed_over = NOBODY
    if policy_of(s).bubbles:
        drop_bubbles(s)
    refit_when_due(s)


@inner
def turn_to(s: View, account: int) -> None:
    """Use the order of an account; arrays that were taken from the view before are another's."""
    c, p, tenants = clock_of(s), policy_of(s), tenants_of(s)
    if c.tenant == account:
        return
    old, new = tenants[c.tenant], tenants[account]
    old.age_first, old.age_last, old.ordered, old.heap = (
        c.age_first,
        c.age_last,
        c.ordered,
        c.heap,
    )
    old.first_queue, old.fcfs_step, old.active, old.bubbles = (
        c.first_queue,
        c.fcfs_step,
        c.active,
        c.bubbles,
    )
    old.waits, old.wait_next, old.served, old.p0 = c.waits, c.wait_next, c.served, p.p0
    old.passed_over = c.passed_over
    old.share_scale, old.share_arrivals, old.share_stamp_s = (
        c.share_scale,
        c.share_arrivals,
        c.share_stamp_s,
    )
    c.age_first, c.age_last, c.ordered, c.heap = (
        new.age_first,
        new.age_last,
        new.ordered,
        new.heap,
    )
    c.first_queue, c.fcfs_step, c.active, c.bubbles = (
        new.first_queue,
        new.fcfs_step,
        new.active,
        new.bubbles,
    )
    c.waits, c.wait_next, c.served, p.p0 = new.waits, new.wait_next, new.served, new.p0
    c.passed_over = new.passed_over
    c.share_scale, c.share_arrivals, c.share_stamp_s = (
        new.share_scale,
        new.share_arrivals,
        new.share_stamp_s,
    )
    places = account - c.tenant
    s.queues += places * s.queues_rows * QUEUE_BYTES
    s.waits_s += places * WAITS_REMEMBERED * 8
    s.order_heap += (new.heap_start - old.heap_start) * 8
    c.tenant = account


@inner
def begin_tenant(s: View, account: int) -> None:
    """Use the order of an account, which begins a step when it is first asked in the step."""
    turn_to(s, account)
    one, c = tenants_of(s)[account], clock_of(s)
    if one.begun != c.step:
        one.begun = c.step
        begin_order(s)


@inner
def join_tenant(s: View, i: int) -> None:
    """Use the order that a request is added to, made where its tenant has none."""
    account, limit, c = requests_of(s)[i].account, limits_of(s), clock_of(s)
    tenants = tenants_of(s)
    one = tenants[account]
    if one.made == 0:
        for each in range(limit.tenants):
            if tenants[each].made and not tenants[each].there:
                _renew(s, each)
        turn_to(s, account)
        one.made, one.begun = 1, c.step
        begin_order(s)
    else:
        turn_to(s, account)
    if one.entries == 0:
        c.turns += 1
        one.turn = c.turns
    one.entries += 1


@inner
def _renew(s: View, account: int) -> None:
    """Put the order of an account back to its beginning: the row behind the accounts."""
    limit, p = limits_of(s), policy_of(s)
    turn_to(s, limit.tenants)
    fresh = queues_of(s)
    turn_to(s, account)
    queues = queues_of(s)
    for q in range(p.queues):
        queues[q] = fresh[q]
    c, tenants = clock_of(s), tenants_of(s)
    one, new = tenants[account], tenants[limit.tenants]
    one.made = 0
    c.age_first = c.age_last = c.first_queue = c.fcfs_step = c.passed_over = NOBODY
    c.ordered = c.heap = c.active = c.waits = c.wait_next = c.served = 0
    c.share_scale, c.share_arrivals, c.share_stamp_s = 1.0, 0.0, 0.0
    c.bubbles, p.p0 = new.bubbles, new.p0


@inner
def forget_orders(s: View) -> None:
    """Begin with the orders of a new policy: none is made; the first one is in use.

    The rows of all queues are fresh and those of the first account are in use; so is what the clock
    and the policy say of an order.
    """
    c, p, tenants = clock_of(s), policy_of(s), tenants_of(s)
    s.waits_s -= c.tenant * WAITS_REMEMBERED * 8
    s.order_heap -= tenants[c.tenant].heap_start * 8
    c.tenant = 0
    for each in range(len(tenants)):
        one = tenants[each]
        one.made = one.entries = 0
        one.age_first = one.age_last = one.first_queue = one.fcfs_step = NOBODY
        one.passed_over = NOBODY
        one.ordered = one.heap = one.active = one.waits = one.wait_next = one.served = 0
        one.share_scale, one.share_arrivals, one.share_stamp_s = 1.0, 0.0, 0.0
        one.bubbles, one.p0 = c.bubbles, p.p0


@inner
def next_tenant(s: View, passed: int) -> int:
    """Who is owed most of those with requests in an order, after the one that is passed over.

    Args:
        s: the state.
        passed: an account; nobody: none is passed over.
    """
    tenants, found, least = tenants_of(s), NOBODY, math.inf
    for each in range(limits_of(s).tenants):
        one = tenants[each]
        if one.entries == 0:
            continue
        if passed != NOBODY:
            last = tenants[passed]
            if one.counter < last.counter or (
                one.counter == last.counter and one.turn <= last.turn
            ):
                continue
        if (
            found == NOBODY
            or one.counter < least
            or (one.counter == least and one.turn < tenants[found].turn)
        ):
            found, least = each, one.counter
    return found


# -- accounts --------------------------------------------------------------------------------------


@inner
def admit_to_account(s: View, i: int) -> None:
    """Enter a request that arrives, and open an account for its tenant where there is none."""
    r, tenants, limit, c = requests_of(s)[i], tenants_of(s), limits_of(s), clock_of(s)
    account = r.name
    if tenants[account].there == 0:
        if limit.listed_only or (c.own >= limit.max_tenants and not _forget_one(s)):
            account = limit.tenants - 1  # of all others
            tenants[account].there = 1
        else:
            one = tenants[account]
            c.own += 1
            c.opened += 1
            one.there, one.opened = 1, c.opened
            one.counter = one.counted = 0.0
            one.waiting = one.here = one.leaving = 0
    one = tenants[account]
    r.account = account
    one.here += 1
    if one.waiting == 0:
        one.counter = max(one.counter, _floor(s))
    one.waiting += 1


@inner
def _forget_one(s: View) -> bool:
    """Close the idle account that was opened first of those whose counters would be lifted."""
    tenants, limit, floor = tenants_of(s), limits_of(s), _floor(s)
    found = NOBODY
    for each in range(limit.tenants - 1):
        one = tenants[each]
        if one.there == 0 or one.listed or one.here or one.counter > floor:
            continue
        if found == NOBODY or one.opened < tenants[found].opened:
            found = each
    if found == NOBODY:
        return False
    tenants[found].there = 0
    clock_of(s).own -= 1
    return True


@inner
def _floor(s: View) -> float:
    """What the counter of a tenant that joins is lifted to."""
    tenants, least, some = tenants_of(s), math.inf, False
    for each in range(limits_of(s).tenants):
        if tenants[each].waiting:
            least, some = min(least, tenants[each].counter), True
    return least if some else clock_of(s).last_counter


@inner
def leave_order(s: View, i: int, uncached: int) -> None:
    """A request has left the order of its tenant.

    Args:
        s: the state.
        i: the request.
        uncached: its prompt tokens to pay for, where it was picked; else 0.
    """
    one = tenants_of(s)[requests_of(s)[i].account]
    one.entries -= 1
    one.waiting -= 1
    if one.waiting == 0:
        clock_of(s).last_counter = one.counter
    if uncached and limits_of(s).prompt_weight != 0.0:
        charge_account(s, i, limits_of(s).prompt_weight * uncached)


@inner
def charge_account(s: View, i: int, service: float) -> None:
    """Charge service to the tenant of a request."""
    one = tenants_of(s)[requests_of(s)[i].account]
    one.counter += service / one.weight
    one.counted += service / one.weight


@inner
def let_leave(s: View) -> None:
    """Begin a step: requests that have finished are nobody's any more."""
    tenants = tenants_of(s)
    for each in range(limits_of(s).tenants):
        tenants[each].here -= tenants[each].leaving
        tenants[each].leaving = 0
