"""The waiting queue: the recovery lane, the overdue lane and the order, in this turn.

What `scheduling.waiting_queue` does, for one priority class.
"""

from __future__ import annotations

from typing import Any

from ewsjf_env.engine.compiled.kernel import codes
from ewsjf_env.engine.compiled.kernel.codes import NOBODY
from ewsjf_env.engine.compiled.kernel.compiler import entry, inner
from ewsjf_env.engine.compiled.kernel.views import (
    View,
    clock_of,
    heaps_of,
    keys_of,
    policy_of,
    queues_of,
    requests_of,
    waiting_tokens_of,
)
from ewsjf_env.engine.compiled.kernel.work import octave
from ewsjf_env.engine.compiled.orders.bubbles import drop_bubbles
from ewsjf_env.engine.compiled.orders.heap import push
from ewsjf_env.engine.compiled.orders.lists import prepend_recovery, remove_recovery
from ewsjf_env.engine.compiled.orders.order import (
    add_to_order,
    best,
    observe_arrival,
    remove_from_order,
)
from ewsjf_env.engine.compiled.orders.overdue import (
    charge,
    earn,
    enter,
    oldest_overdue,
    unwatch,
    watch,
)
from ewsjf_env.engine.compiled.orders.scores import key


@inner
def add(s: View, i: int) -> None:
    """A request arrives."""
    requests, waiting_tokens = requests_of(s), waiting_tokens_of(s)
    c = clock_of(s)
    c.waiting += 1
    waiting_tokens[octave(requests[i].prompt)] += requests[i].prompt
    if i == 0 and policy_of(s).bubbles:
        drop_bubbles(s)  # an order begins a step when it is made, for the first request
    add_to_order(s, i)
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
    if not c.ordered:
        return NOBODY, False
    late = oldest_overdue(s)
    if late != NOBODY:
        p = policy_of(s)
        if p.kind != codes.SCORED:
            return late, True
        if requests[late].arrival_s <= requests[c.age_first].arrival_s + p.overtake_s:
            return late, True
    return best(s), False


@inner
def nobody_fits(s: View, tokens: int) -> bool:
    """Whether whoever `choose` would name has a prompt above `tokens`; scores nobody."""
    requests, queues = requests_of(s), queues_of(s)
    c, p = clock_of(s), policy_of(s)
    if p.kind != codes.SCORED or p.overdue_share > 0.0 or c.recovery_first != NOBODY:
        return False  # not one of the heads, or no score decides
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
        remove_from_order(s, i, picked)


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
    c.first_queue = NOBODY
    c.shorter_than = 0
    if policy_of(s).bubbles:
        drop_bubbles(s)
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
    c = clock_of(s)
    c.age_first = c.age_last = c.first_queue = NOBODY
    c.ordered = c.heap = c.active = c.deadlines = c.overdue = c.watched = 0
    c.waits = c.wait_next = c.served = 0
    c.share_scale, c.share_arrivals, c.share_stamp_s = 1.0, 0.0, 0.0
    c.fcfs_step = -1
    for i in range(c.next):
        requests[i].watched = 0
        requests[i].fresh_step = -1
        if requests[i].where == codes.IN_ORDER:
            add_to_order(s, i)
            watch(s, i)
    if policy_of(s).bubbles and c.next > 0:
        drop_bubbles(s)
    enter(s, c.step_s)


@entry
def rekey(table: Any) -> None:
    """Compute every key of the order anew, after its parameters have changed."""
    s = table[0]
    requests, heaps, keys = requests_of(s), heaps_of(s), keys_of(s)
    c, p = clock_of(s), policy_of(s)
    c.heap = 0
    for i in range(c.next):
        if requests[i].where == codes.IN_ORDER:
            keys[0, i] = key(p, requests[i], requests[i].prompt)
            c.heap = push(heaps[0], keys[0], c.heap, i)
