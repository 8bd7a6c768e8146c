"""Bubble queues: the paper's routing, as `scheduling.orders.routing.BubbleRouter` does it.

The first rows of the queues are those of the partition.  Behind them are rows of bubbles: some
are known to the order from its beginning and keep their key, the others get one when a request
needs it.  A row exists for the order while it is known or has requests; `key` tells how long the
prompts of a row are.
"""

from __future__ import annotations

import numpy as np

from ewsjf_env.engine.compiled.kernel.codes import NOBODY
from ewsjf_env.engine.compiled.kernel.compiler import inner
from ewsjf_env.engine.compiled.kernel.views import (
    View,
    clock_of,
    cuts_of,
    policy_of,
    queues_of,
    requests_of,
)


@inner
def route_to_bubble(s: View, tokens: int) -> int:
    """The row for a length: of the partition where its data lie, else a bubble's if one is left."""
    cuts, queues = cuts_of(s), queues_of(s)
    c, p = clock_of(s), policy_of(s)
    home = int(np.searchsorted(cuts, tokens))
    if queues[home].low <= tokens <= queues[home].high:
        return home
    key, fresh = 2 * (tokens // p.bubble_tokens * p.bubble_tokens) + 1, NOBODY
    for q in range(len(cuts) + 1, p.queues):
        row = queues[q]
        same = row.key == key
        if row.bubble != 0:
            if same:
                return q
        elif same if row.known != 0 else fresh == NOBODY:
            fresh = q
    if c.bubbles >= p.bubbles:
        return home
    c.bubbles += 1
    queues[fresh].bubble, queues[fresh].idle, queues[fresh].key = 1, 0, key
    return fresh


@inner
def drop_bubbles(s: View) -> None:
    """End a step: drop bubbles that have been empty for long."""
    cuts, queues = cuts_of(s), queues_of(s)
    c, p = clock_of(s), policy_of(s)
    for q in range(len(cuts) + 1, p.queues):
        row = queues[q]
        if row.bubble != 0:
            row.idle = 0 if row.first != NOBODY else row.idle + 1
            if row.idle >= p.bubble_patience:
                row.bubble = 0
                c.bubbles -= 1


@inner
def make_queue(s: View, q: int, tokens: int) -> None:
    """Make a queue of a row that does not exist, for a request of so many tokens."""
    queues = queues_of(s)
    p, new = policy_of(s), queues[q]
    if new.known != 0 or new.first != NOBODY:
        return
    new.mean, new.share, new.weight, new.scored = float(tokens), 0.0, 0.0, NOBODY
    for each in range(p.queues):
        one = queues[each]
        if each != q and one.known == 0 and one.first == NOBODY:
            continue
        rank = 1
        for other in range(p.queues):
            row = queues[other]
            exists = other == q or row.known != 0 or row.first != NOBODY
            rank += exists and row.key > one.key
        one.rank = rank


@inner
def nearest_head(s: View) -> int:
    """The head of the queue nearest to that of the step's first pick, by position among keys."""
    requests, queues = requests_of(s), queues_of(s)
    c, p = clock_of(s), policy_of(s)
    latest_s = requests[c.age_first].arrival_s + p.overtake_s
    home = _position(s, c.first_queue)
    first = queues[c.first_queue]
    if first.known == 0 and first.first == NOBODY:
        home = -1  # it is gone
    chosen, least, smallest = NOBODY, 1 << 60, 0
    for q in range(p.queues):
        head = queues[q].first
        if head == NOBODY or requests[head].arrival_s > latest_s:
            continue
        position = _position(s, q)
        distance = abs(position - home)
        if distance < least or (distance == least and position < smallest):
            chosen, least, smallest = head, distance, position
    return chosen


@inner
def _position(s: View, q: int) -> int:
    """How many queues with requests, or the first pick's, come before a row."""
    queues = queues_of(s)
    c, before = clock_of(s), 0
    for other in range(policy_of(s).queues):
        row = queues[other]
        counts = row.first != NOBODY or (other == c.first_queue and row.known != 0)
        before += counts and row.key < queues[q].key
    return before
