"""The orders: who of those that wait is next, as `scheduling.order` and `promotion` say it."""

from __future__ import annotations

import math

import numpy as np

from ewsjf_env.engine.compiled.kernel import codes
from ewsjf_env.engine.compiled.kernel.blocks import blocks_for, uncached_tokens
from ewsjf_env.engine.compiled.kernel.codes import NOBODY
from ewsjf_env.engine.compiled.kernel.compiler import inner
from ewsjf_env.engine.compiled.kernel.state import WAITS_REMEMBERED
from ewsjf_env.engine.compiled.kernel.views import (
    View,
    clock_of,
    cuts_of,
    limits_of,
    order_heap_of,
    order_keys_of,
    policy_of,
    queues_of,
    requests_of,
    waits_s_of,
)
from ewsjf_env.engine.compiled.kernel.work import effective_tokens
from ewsjf_env.engine.compiled.orders.bubbles import make_queue, nearest_head, route_to_bubble
from ewsjf_env.engine.compiled.orders.heap import pop, push, sift_down
from ewsjf_env.engine.compiled.orders.lists import (
    append_by_age,
    append_to_queue,
    remove_by_age,
    remove_from_queue,
)
from ewsjf_env.engine.compiled.orders.scores import cost_s, key, score
from ewsjf_env.scheduling.memory import PASS_LIMIT

FAILED = -2  # a score was no number
ALL_AGE, LONG_AGE = 1, 2  # whom a keyed order promotes


@inner
def _ages(s: View, i: int) -> bool:
    requests = requests_of(s)
    p = policy_of(s)
    return p.promotes == ALL_AGE or (p.promotes == LONG_AGE and requests[i].prompt > p.short_tokens)


@inner
def route(s: View, tokens: int) -> int:
    """The queue of a length: by cuts, or by a width where there is one, or with bubbles."""
    cuts = cuts_of(s)
    width = policy_of(s).width_tokens
    if policy_of(s).bubbles:
        return route_to_bubble(s, tokens)
    return tokens // width if width else int(np.searchsorted(cuts, tokens))


@inner
def add_to_order(s: View, i: int) -> None:
    """Add the youngest request to the order."""
    requests, heap, keys = requests_of(s), order_heap_of(s), order_keys_of(s)
    c, p = clock_of(s), policy_of(s)
    requests[i].where = codes.IN_ORDER
    c.ordered += 1
    if p.kind == codes.OLDEST:
        append_by_age(s, i)
    elif p.kind == codes.KEYED:
        keys[i] = key(p, requests[i], uncached_tokens(s, i))
        c.heap = push(heap, keys, c.heap, i)
        if _ages(s, i):
            append_by_age(s, i)
    else:
        requests[i].routed = requests[i].prompt
        if p.route_by_work:
            requests[i].routed = effective_tokens(s, i)
        q = route(s, requests[i].routed)
        if p.bubbles:
            make_queue(s, q, requests[i].routed)
        append_to_queue(s, q, i)
        append_by_age(s, i)


@inner
def observe_arrival(s: View, i: int) -> None:
    """Let the scales of the traffic see a new request."""
    requests, queues = requests_of(s), queues_of(s)
    c, p = clock_of(s), policy_of(s)
    if p.kind != codes.SCORED:
        return
    c.traffic_count = min(c.traffic_count + 1, 500)
    work = effective_tokens(s, i)
    c.mean_cost_s += (cost_s(p, float(work)) - c.mean_cost_s) / c.traffic_count
    if not p.partitioned:
        return  # nobody asks for means and shares
    q, tokens = requests[i].queue, requests[i].routed
    queues[q].weight = min(queues[q].weight + 1.0, 200.0)
    if queues[q].weight == 1.0 and queues[q].mean == 0.0:
        queues[q].mean = float(tokens)
    queues[q].mean += (tokens - queues[q].mean) / max(20.0, queues[q].weight)
    arrived_s = requests[i].arrival_s
    elapsed_s = max(0.0, arrived_s - c.share_stamp_s)
    c.share_stamp_s = max(c.share_stamp_s, arrived_s)
    c.share_arrivals = c.share_arrivals * p.half ** (elapsed_s / p.half_life_s) + 1.0
    weight = 1.0 / max(20.0, c.share_arrivals)
    c.share_scale *= 1.0 - weight
    queues[q].share += weight / c.share_scale
    if c.share_scale < 1e-100:
        for each in range(len(queues)):
            queues[each].share *= c.share_scale
        c.share_scale = 1.0


@inner
def remove_from_order(s: View, i: int, picked: bool) -> None:
    """Take a request out of the order."""
    requests, queues, waits_s = requests_of(s), queues_of(s), waits_s_of(s)
    c, p = clock_of(s), policy_of(s)
    c.ordered -= 1
    if p.kind == codes.OLDEST:
        remove_by_age(s, i)
    elif p.kind == codes.KEYED:  # the heap drops it when it surfaces
        if _ages(s, i):
            remove_by_age(s, i)
        if picked and p.key == codes.BY_BOOST:
            waits_s[c.wait_next] = (
                c.step_s - requests[i].arrival_s + cost_s(p, float(requests[i].prompt))
            )
            c.wait_next = (c.wait_next + 1) % WAITS_REMEMBERED
            c.waits = min(c.waits + 1, WAITS_REMEMBERED)
            c.served += 1
    else:
        q = requests[i].queue
        if queues[q].scored == i:
            queues[q].scored = NOBODY
        remove_from_queue(s, i)
        remove_by_age(s, i)
        if picked and c.passed_over != NOBODY:
            requests[c.passed_over].passed += 1
            c.passed_over = NOBODY
        if picked and c.first_queue == NOBODY:
            c.first_queue = q


@inner
def lets_in(s: View, i: int) -> bool:
    """Whether the memory gate lets a request be next, see `scheduling.memory`."""
    r, c, p, limit = requests_of(s)[i], clock_of(s), policy_of(s), limits_of(s)
    if r.passed >= PASS_LIMIT:
        return True
    needed = blocks_for(limit.block_tokens, uncached_tokens(s, i))
    if r.prompt > p.reserve_above and c.running > 0:
        needed += p.reserve_blocks
    return needed <= c.free_blocks


@inner
def best(s: View) -> int:
    """The next request of the order; nobody where it is empty, closes the step or lets none in."""
    return _best(s, policy_of(s).gated != 0)


@inner
def ungated_best(s: View) -> int:
    """The next request of the order, whatever the memory gate says."""
    return _best(s, False)


@inner
def _best(s: View, gated: bool) -> int:
    requests = requests_of(s)
    c, p = clock_of(s), policy_of(s)
    oldest = c.age_first
    if p.kind == codes.OLDEST:
        found = oldest
    elif p.kind == codes.KEYED:
        if oldest != NOBODY and c.step_s - requests[oldest].arrival_s >= p.promote_s:
            found = oldest
        else:
            found = _smallest_key(s)
    else:
        if gated:
            c.passed_over = NOBODY
        if oldest == NOBODY or c.step_s <= requests[oldest].arrival_s:
            found = oldest
        elif c.first_queue != NOBODY and p.backfill != codes.BY_SCORE:
            found = _neighbour(s)
        else:
            if c.fcfs_step != c.step:
                chosen = _best_score(s, gated)
                if chosen != FAILED:
                    return chosen
                c.fcfs_step = c.step  # a score was no number: first come in this step
            found = oldest
    return NOBODY if gated and found != NOBODY and not lets_in(s, found) else found


@inner
def _smallest_key(s: View) -> int:
    requests, heap, keys = requests_of(s), order_heap_of(s), order_keys_of(s)
    c, p = clock_of(s), policy_of(s)
    while c.heap:
        i = heap[0]
        if requests[i].where != codes.IN_ORDER:
            c.heap = pop(heap, keys, c.heap)
        elif p.refreshes and requests[i].fresh_step != c.step:
            requests[i].fresh_step = c.step
            keys[i] = key(p, requests[i], uncached_tokens(s, i))
            sift_down(heap, keys, 0, c.heap)
        else:
            return i
    return NOBODY


@inner
def _best_score(s: View, gated: bool) -> int:
    """The head that scores best of those that the memory gate lets in; `FAILED` without a number.

    With a gate, a better head that it does not let in is noted.
    """
    requests, queues = requests_of(s), queues_of(s)
    c, p = clock_of(s), policy_of(s)
    latest_s = requests[c.age_first].arrival_s + p.overtake_s
    chosen, most, outside, most_outside = NOBODY, -math.inf, NOBODY, -math.inf
    for place in range(c.active):
        q = queues[place].active
        head = queues[q].first
        arrived_s = requests[head].arrival_s
        if arrived_s > latest_s:
            continue
        if queues[q].scored == head and queues[q].scored_step == c.step:
            value = queues[q].score
        else:
            b = effective_tokens(s, head)
            value = score(p, c.mean_cost_s, c.share_scale, queues[q], b, c.step_s - arrived_s)
            if not math.isfinite(value):
                return FAILED
            queues[q].score, queues[q].scored, queues[q].scored_step = value, head, c.step
        if gated and not lets_in(s, head):
            if _goes_before(value, head, most_outside, outside):
                outside, most_outside = head, value
        elif _goes_before(value, head, most, chosen):
            chosen, most = head, value
    if chosen != NOBODY and outside != NOBODY and _goes_before(most_outside, outside, most, chosen):
        c.passed_over = outside
    return chosen


@inner
def _goes_before(value: float, i: int, most: float, chosen: int) -> bool:
    """Whether a head goes before the best so far: the higher score, then the older request."""
    return value > most or chosen == NOBODY or (value == most and i < chosen)


@inner
def _neighbour(s: View) -> int:
    """The head of the queue nearest to that of the first pick; with backfill `none` its own."""
    requests, queues = requests_of(s), queues_of(s)
    c, p = clock_of(s), policy_of(s)
    latest_s = requests[c.age_first].arrival_s + p.overtake_s
    first = c.first_queue
    if p.backfill == codes.NO_BACKFILL:
        head = queues[first].first
        return head if head != NOBODY and requests[head].arrival_s <= latest_s else NOBODY
    if p.bubbles:
        return nearest_head(s)
    home = 0
    for q in range(first):
        home += queues[q].first != NOBODY
    chosen, least, position = NOBODY, 1 << 60, 0
    for q in range(p.queues):
        head = queues[q].first
        if head == NOBODY:
            position += q == first
            continue
        distance = abs(position - home)
        if requests[head].arrival_s <= latest_s and distance < least:
            chosen, least = head, distance
        position += 1
    return chosen
