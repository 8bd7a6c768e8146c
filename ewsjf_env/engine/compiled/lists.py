"""Linked lists of request numbers: waiting by age, the recovery lane, and the FCFS queues.

A request is in at most one of the first two, so they share their links.
"""

from __future__ import annotations

from ewsjf_env.engine.compiled.codes import NOBODY
from ewsjf_env.engine.compiled.compiler import inner
from ewsjf_env.engine.compiled.state import State


@inner
def append_by_age(s: State, i: int) -> None:
    """Add the youngest request."""
    c = s.clock[0]
    last = c.age_last
    s.requests[i].previous, s.requests[i].following = last, NOBODY
    if last == NOBODY:
        c.age_first = i
    else:
        s.requests[last].following = i
    c.age_last = i


@inner
def remove_by_age(s: State, i: int) -> None:
    """Take a request out of the list by age."""
    c = s.clock[0]
    before, after = s.requests[i].previous, s.requests[i].following
    if before == NOBODY:
        c.age_first = after
    else:
        s.requests[before].following = after
    if after == NOBODY:
        c.age_last = before
    else:
        s.requests[after].previous = before


@inner
def prepend_recovery(s: State, i: int) -> None:
    """Return a request to the front of the recovery lane."""
    c = s.clock[0]
    first = c.recovery_first
    s.requests[i].previous, s.requests[i].following = NOBODY, first
    if first == NOBODY:
        c.recovery_last = i
    else:
        s.requests[first].previous = i
    c.recovery_first = i


@inner
def remove_recovery(s: State, i: int) -> None:
    """Take a request out of the recovery lane."""
    c = s.clock[0]
    before, after = s.requests[i].previous, s.requests[i].following
    if before == NOBODY:
        c.recovery_first = after
    else:
        s.requests[before].following = after
    if after == NOBODY:
        c.recovery_last = before
    else:
        s.requests[after].previous = before


@inner
def append_to_queue(s: State, q: int, i: int) -> None:
    """Add a request at the end of a queue; a queue that was empty becomes active."""
    last = s.queues[q].last
    s.requests[i].queue = q
    s.requests[i].queue_previous, s.requests[i].queue_following = last, NOBODY
    if last == NOBODY:
        s.queues[q].first = i
        c = s.clock[0]
        s.queues[c.active].active = q
        s.queues[q].place = c.active
        c.active += 1
    else:
        s.requests[last].queue_following = i
    s.queues[q].last = i


@inner
def remove_from_queue(s: State, i: int) -> None:
    """Take a request out of its queue, from wherever it stands."""
    q = s.requests[i].queue
    before, after = s.requests[i].queue_previous, s.requests[i].queue_following
    if before == NOBODY:
        s.queues[q].first = after
    else:
        s.requests[before].queue_following = after
    if after == NOBODY:
        s.queues[q].last = before
    else:
        s.requests[after].queue_previous = before
    if s.queues[q].first == NOBODY:
        c = s.clock[0]
        c.active -= 1
        last, place = s.queues[c.active].active, s.queues[q].place
        s.queues[place].active = last
        s.queues[last].place = place
        s.queues[q].place = NOBODY
    s.requests[i].queue = NOBODY
