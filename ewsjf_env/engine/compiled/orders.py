"""The orders: who of those that wait is next, as `scheduling.order` and `promotion` say it."""

from __future__ import annotations

import math

import numpy as np

from ewsjf_env.engine.compiled import codes
from ewsjf_env.engine.compiled.blocks import uncached_tokens
from ewsjf_env.engine.compiled.codes import NOBODY
from ewsjf_env.engine.compiled.compiler import inner
from ewsjf_env.engine.compiled.heap import pop, push, sift_down
from ewsjf_env.engine.compiled.lists import (
    append_by_age,
    append_to_queue,
    remove_by_age,
    remove_from_queue,
)
from ewsjf_env.engine.compiled.scores import cost_s, key, score
from ewsjf_env.engine.compiled.state import WAITS_REMEMBERED, State
from ewsjf_env.engine.compiled.work import effective_tokens

ALL_AGE, LONG_AGE = 1, 2  # whom a keyed order promotes


@inner
def _ages(s: State, i: int) -> bool:
    p = s.policy[0]
    return p.promotes == ALL_AGE or (p.promotes == LONG_AGE and s.prompt[i] > p.short_tokens)


@inner
def route(s: State, tokens: int) -> int:
    """The queue of a length: by cuts, or by a width where there is one."""
    width = s.policy[0].width_tokens
    return tokens // width if width else np.searchsorted(s.cuts, tokens)


@inner
def add_to_order(s: State, i: int) -> None:
    """Add the youngest request to the order."""
    c, p = s.clock[0], s.policy[0]
    s.where[i] = codes.IN_ORDER
    c.ordered += 1
    if p.kind == codes.OLDEST:
        append_by_age(s, i)
    elif p.kind == codes.KEYED:
        s.key[i] = key(s, i, uncached_tokens(s, i))
        c.heap = push(s.heap, s.key, c.heap, i)
        if _ages(s, i):
            append_by_age(s, i)
    else:
        s.routed[i] = s.prompt[i]
        if p.route_by_work:
            s.routed[i] = effective_tokens(s, i)
        append_to_queue(s, route(s, s.routed[i]), i)
        append_by_age(s, i)


@inner
def observe_arrival(s: State, i: int) -> None:
    """Let the scales of the traffic see a new request."""
    c, p = s.clock[0], s.policy[0]
    if p.kind != codes.SCORED:
        return
    c.traffic_count = min(c.traffic_count + 1, 500)
    work = effective_tokens(s, i)
    c.mean_cost_s += (cost_s(s, float(work)) - c.mean_cost_s) / c.traffic_count
    if not p.partitioned:
        return  # nobody asks for means and shares
    q, tokens = s.queue[i], s.routed[i]
    s.queue_weight[q] = min(s.queue_weight[q] + 1.0, 200.0)
    if s.queue_weight[q] == 1.0 and s.queue_mean[q] == 0.0:
        s.queue_mean[q] = float(tokens)
    s.queue_mean[q] += (tokens - s.queue_mean[q]) / max(20.0, s.queue_weight[q])
    arrived_s = s.arrival_s[i]
    elapsed_s = max(0.0, arrived_s - c.share_stamp_s)
    c.share_stamp_s = max(c.share_stamp_s, arrived_s)
    c.share_arrivals = c.share_arrivals * p.half ** (elapsed_s / p.half_life_s) + 1.0
    weight = 1.0 / max(20.0, c.share_arrivals)
    c.share_scale *= 1.0 - weight
    s.queue_share[q] += weight / c.share_scale
    if c.share_scale < 1e-100:
        s.queue_share[:] *= c.share_scale
        c.share_scale = 1.0


@inner
def remove_from_order(s: State, i: int, picked: bool) -> None:
    """Take a request out of the order."""
    c, p = s.clock[0], s.policy[0]
    c.ordered -= 1
    if p.kind == codes.OLDEST:
        remove_by_age(s, i)
    elif p.kind == codes.KEYED:  # the heap drops it when it surfaces
        if _ages(s, i):
            remove_by_age(s, i)
        if picked and p.key == codes.BY_BOOST:
            s.waits_s[c.wait_next] = c.step_s - s.arrival_s[i] + cost_s(s, float(s.prompt[i]))
            c.wait_next = (c.wait_next + 1) % WAITS_REMEMBERED
            c.waits = min(c.waits + 1, WAITS_REMEMBERED)
            c.served += 1
    else:
        q = s.queue[i]
        if s.queue_scored[q] == i:
            s.queue_scored[q] = NOBODY
        remove_from_queue(s, i)
        remove_by_age(s, i)
        if picked and c.first_queue == NOBODY:
            c.first_queue = q


@inner
def best(s: State) -> int:
    """The next request of the order; nobody where it is empty or closes the step."""
    c, p = s.clock[0], s.policy[0]
    if p.kind == codes.OLDEST:
        return c.age_first
    if p.kind == codes.KEYED:
        oldest = c.age_first
        if oldest != NOBODY and c.step_s - s.arrival_s[oldest] >= p.promote_s:
            return oldest
        return _smallest_key(s)
    if c.age_first == NOBODY or c.step_s <= s.arrival_s[c.age_first]:
        return c.age_first
    if c.first_queue != NOBODY and p.backfill != codes.BY_SCORE:
        return _neighbour(s)
    if c.fcfs_step != c.step:
        chosen = _best_score(s)
        if chosen != NOBODY:
            return chosen
        c.fcfs_step = c.step  # a score was no number: first come in this step
    return c.age_first


@inner
def _smallest_key(s: State) -> int:
    c, p = s.clock[0], s.policy[0]
    while c.heap:
        i = s.heap[0]
        if s.where[i] != codes.IN_ORDER:
            c.heap = pop(s.heap, s.key, c.heap)
        elif p.refreshes and s.fresh_step[i] != c.step:
            s.fresh_step[i] = c.step
            s.key[i] = key(s, i, uncached_tokens(s, i))
            sift_down(s.heap, s.key, 0, c.heap)
        else:
            return i
    return NOBODY


@inner
def _best_score(s: State) -> int:
    c, p = s.clock[0], s.policy[0]
    latest_s = s.arrival_s[c.age_first] + p.overtake_s
    chosen, most = NOBODY, -math.inf
    for place in range(c.active):
        q = s.active[place]
        head = s.queue_first[q]
        arrived_s = s.arrival_s[head]
        if arrived_s > latest_s:
            continue
        if s.queue_scored[q] == head and s.queue_scored_step[q] == c.step:
            value = s.queue_score[q]
        else:
            b = effective_tokens(s, head)
            value = score(s, b, c.step_s - arrived_s, cost_s(s, float(b)), q)
            if not math.isfinite(value):
                return NOBODY
            s.queue_score[q], s.queue_scored[q], s.queue_scored_step[q] = value, head, c.step
        if value > most or chosen == NOBODY or (value == most and head < chosen):
            chosen, most = head, value
    return chosen


@inner
def _neighbour(s: State) -> int:
    """The head of the queue nearest to that of the first pick; with backfill `none` its own."""
    c, p = s.clock[0], s.policy[0]
    latest_s = s.arrival_s[c.age_first] + p.overtake_s
    first = c.first_queue
    if p.backfill == codes.NO_BACKFILL:
        head = s.queue_first[first]
        return head if head != NOBODY and s.arrival_s[head] <= latest_s else NOBODY
    home = 0
    for q in range(first):
        home += s.queue_first[q] != NOBODY
    chosen, least, position = NOBODY, 1 << 60, 0
    for q in range(p.queues):
        head = s.queue_first[q]
        if head == NOBODY:
            position += q == first
            continue
        distance = abs(position - home)
        if s.arrival_s[head] <= latest_s and distance < least:
            chosen, least = head, distance
        position += 1
    return chosen
