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
    s.previous[i], s.following[i] = last, NOBODY
    if last == NOBODY:
        c.age_first = i
    else:
        s.following[last] = i
    c.age_last = i


@inner
def remove_by_age(s: State, i: int) -> None:
    """Take a request out of the list by age."""
    c = s.clock[0]
    before, after = s.previous[i], s.following[i]
    if before == NOBODY:
        c.age_first = after
    else:
        s.following[before] = after
    if after == NOBODY:
        c.age_last = before
    else:
        s.previous[after] = before


@inner
def prepend_recovery(s: State, i: int) -> None:
    """Return a request to the front of the recovery lane."""
    c = s.clock[0]
    first = c.recovery_first
    s.previous[i], s.following[i] = NOBODY, first
    if first == NOBODY:
        c.recovery_last = i
    else:
        s.previous[first] = i
    c.recovery_first = i


@inner
def remove_recovery(s: State, i: int) -> None:
    """Take a request out of the recovery lane."""
    c = s.clock[0]
    before, after = s.previous[i], s.following[i]
    if before == NOBODY:
        c.recovery_first = after
    else:
        s.following[before] = after
    if after == NOBODY:
        c.recovery_last = before
    else:
        s.previous[after] = before


@inner
def append_to_queue(s: State, q: int, i: int) -> None:
    """Add a request at the end of a queue; a queue that was empty becomes active."""
    last = s.queue_last[q]
    s.queue[i] = q
    s.queue_previous[i], s.queue_following[i] = last, NOBODY
    if last == NOBODY:
        s.queue_first[q] = i
        c = s.clock[0]
        s.active[c.active] = q
        s.active_place[q] = c.active
        c.active += 1
    else:
        s.queue_following[last] = i
    s.queue_last[q] = i


@inner
def remove_from_queue(s: State, i: int) -> None:
    """Take a request out of its queue, from wherever it stands."""
    q = s.queue[i]
    before, after = s.queue_previous[i], s.queue_following[i]
    if before == NOBODY:
        s.queue_first[q] = after
    else:
        s.queue_following[before] = after
    if after == NOBODY:
        s.queue_last[q] = before
    else:
        s.queue_previous[after] = before
    if s.queue_first[q] == NOBODY:
        c = s.clock[0]
        c.active -= 1
        last, place = s.active[c.active], s.active_place[q]
        s.active[place] = last
        s.active_place[last] = place
        s.active_place[q] = NOBODY
    s.queue[i] = NOBODY
