"""The waiting queue: the recovery lane, the overdue lane and the order, in this turn.

What `scheduling.waiting_queue` does, for one priority class.
"""

from __future__ import annotations

from typing import Any

from ewsjf_env.engine.compiled.kernel import codes
from ewsjf_env.engine.compiled.kernel.blocks import uncached_tokens
from ewsjf_env.engine.compiled.kernel.codes import NOBODY
from ewsjf_env.engine.compiled.kernel.compiler import entry, inner
from ewsjf_env.engine.compiled.kernel.views import (
    View,
    clock_of,
    limits_of,
    policy_of,
    queues_of,
    requests_of,
    waiting_tokens_of,
)
from ewsjf_env.engine.compiled.kernel.work import octave
from ewsjf_env.engine.compiled.orders.bubbles import drop_bubbles
from ewsjf_env.engine.compiled.orders.late import (
    await_lateness,
    best_in_lanes,
    leave_late,
    remove_in_lane,
)
from ewsjf_env.engine.compiled.orders.lists import prepend_recovery, remove_recovery
from ewsjf_env.engine.compiled.orders.order import (
    add_to_order,
    best,
    observe_arrival,
    ungated_best,
)
from ewsjf_env.engine.compiled.orders.overdue import (
    charge,
    earn,
    enter,
    oldest_overdue,
    unwatch,
    watch,
)
from ewsjf_env.engine.compiled.orders.tenants import (
    admit_to_account,
    begin_order,
    begin_tenant,
    forget_orders,
    join_tenant,
    leave_order,
    let_leave,
    next_tenant,
    turn_to,
)


@inner
def add(s: View, i: int) -> None:
    """A request arrives."""
    requests, waiting_tokens = requests_of(s), waiting_tokens_of(s)
    c = clock_of(s)
    c.waiting += 1
    waiting_tokens[octave(requests[i].prompt)] += requests[i].prompt
    if limits_of(s).tenants:
        admit_to_account(s, i)
        join_tenant(s, i)
    elif i == 0 and policy_of(s).bubbles:
        drop_bubbles(s)  # an order begins a step when it is made, for the first request
    add_to_order(s, i)
    await_lateness(s, i)
    watch(s, i)
    observe_arrival(s, i)
    if policy_of(s).logs:
        requests[i].noted = requests[i].routed
        c.fresh += 1
        c.kept += 1


@inner
def choose(s: View) -> tuple[int, bool]:
    """The next request, and whether the overdue lane says so."""
    requests = requests_of(s)
    c = clock_of(s)
    if c.recovery_first != NOBODY:
        return c.recovery_first, False
    shared = limits_of(s).tenants > 0
    if not c.ordered and not c.late and not shared:
        return NOBODY, False
    late = oldest_overdue(s)
    if late != NOBODY:
        p = policy_of(s)
        if shared:
            turn_to(s, requests[late].account)
        if p.kind != codes.SCORED or requests[late].where == codes.IN_LATE:
            return late, True
        if requests[late].arrival_s <= requests[c.age_first].arrival_s + p.overtake_s:
            return late, True
    return best_of_tenants(s) if shared else best_in_lanes(s), False


@inner
def best_of_tenants(s: View) -> int:
    """The next request of the tenant that is owed most; of the next where its order is closed."""
    account, c, p = NOBODY, clock_of(s), policy_of(s)
    c.tenant_passed = NOBODY
    while True:
        account = next_tenant(s, account)
        if account == NOBODY:
            return NOBODY
        begin_tenant(s, account)
        found = best(s)
        if found != NOBODY or not (p.closes or p.gated):
            return found
        if p.gated and c.tenant_passed == NOBODY:
            c.tenant_passed = ungated_best(s)


@inner
def nobody_fits(s: View, tokens: int) -> bool:
    """Whether whoever `choose` would name has a prompt above `tokens`; scores nobody."""
    requests, queues = requests_of(s), queues_of(s)
    c, p = clock_of(s), policy_of(s)
    if p.kind != codes.SCORED or p.overdue_share > 0.0 or c.recovery_first != NOBODY:
        return False  # not one of the heads, or no score decides
    if limits_of(s).tenants or p.gated or c.late:
        return False  # there are other orders, or not only heads decide
    for place in range(c.active):
        if requests[queues[queues[place].active].first].prompt <= tokens:
            return False
    return True


@inner
def take_out(s: View, i: int, picked: bool) -> None:
    """Remove a request that waits; the caller says where it is now."""
    requests, waiting_tokens = requests_of(s), waiting_tokens_of(s)
    c = clock_of(s)
    c.waiting -= 1
    waiting_tokens[octave(requests[i].prompt)] -= requests[i].prompt
    if requests[i].where == codes.IN_RECOVERY:
        remove_recovery(s, i)
    else:
        unwatch(s, i)
        shared = limits_of(s).tenants > 0
        if shared:
            if c.tenant_passed != NOBODY:
                requests[c.tenant_passed].passed += picked
                c.tenant_passed = NOBODY
            begin_tenant(s, requests[i].account)
        remove_in_lane(s, i, picked)
        if shared:
            leave_order(s, i, uncached_tokens(s, i) if picked else 0)


@inner
def pick(s: View, i: int, from_overdue: bool) -> None:
    """Remove the request that `choose` has named."""
    if from_overdue:
        charge(s, i)
    take_out(s, i, True)


@inner
def prepend(s: View, i: int) -> None:
    """Return a request to the front: preempted, or skipped in this step."""
    requests, waiting_tokens = requests_of(s), waiting_tokens_of(s)
    clock_of(s).waiting += 1
    waiting_tokens[octave(requests[i].prompt)] += requests[i].prompt
    requests[i].where = codes.IN_RECOVERY
    prepend_recovery(s, i)


@inner
def begin_waiting_step(s: View, budget: int) -> None:
    """Fix the clock of the step and what follows from it."""
    c = clock_of(s)
    c.step_s = max(c.step_s, c.now_s)
    c.step += 1
    c.shorter_than = 0
    if limits_of(s).tenants:
        if c.finished:
            let_leave(s)
    else:
        begin_order(s)
        if policy_of(s).late_last:
            leave_late(s)
    earn(s, c.step_s, budget)


@inner
def tokens_below(s: View, limit: int) -> int:
    """Tokens of waiting prompts that are shorter than a power of two."""
    waiting_tokens = waiting_tokens_of(s)
    total = 0
    for bits in range(octave(limit)):
        total += waiting_tokens[bits]
    return total


@entry
def replace_order(table: Any) -> None:
    """Put those that wait, the recovery lane apart, into the order of a new policy."""
    s = table[0]
    requests = requests_of(s)
    c, shared = clock_of(s), limits_of(s).tenants > 0
    c.age_first = c.age_last = c.first_queue = c.passed_over = NOBODY
    c.ordered = c.heap = c.active = c.deadlines = c.overdue = c.watched = 0
    c.late_passed = c.tenant_passed = NOBODY
    c.waits = c.wait_next = c.served = c.late = c.moments = c.oldest_late = 0
    c.late_credit = 0.0
    c.share_scale, c.share_arrivals, c.share_stamp_s = 1.0, 0.0, 0.0
    c.fcfs_step = -1
    if shared:
        forget_orders(s)
    for i in range(c.next):
        requests[i].watched = 0
        requests[i].fresh_step = -1
        if requests[i].where == codes.IN_ORDER or requests[i].where == codes.IN_LATE:
            if shared:
                join_tenant(s, i)
            add_to_order(s, i)
            await_lateness(s, i)
            watch(s, i)
    if policy_of(s).bubbles and c.next > 0 and not shared:
        drop_bubbles(s)
    if policy_of(s).late_last:
        leave_late(s)
    enter(s, c.step_s)
