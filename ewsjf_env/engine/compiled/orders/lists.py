"""Linked lists of request numbers: waiting by age, the recovery lane, and the FCFS queues.

A request is in at most one of the first two, so they share their links.
"""

from __future__ import annotations

from ewsjf_env.engine.compiled.kernel.codes import NOBODY
from ewsjf_env.engine.compiled.kernel.compiler import inner
from ewsjf_env.engine.compiled.kernel.views import View, clock_of, queues_of, requests_of


@inner
def append_by_age(s: View, i: int) -> None:
    """Add the youngest request."""
    requests = requests_of(s)
    c = clock_of(s)
    last = c.age_last
    requests[i].previous, requests[i].following = last, NOBODY
    if last == NOBODY:
        c.age_first = i
    else:
        requests[last].following = i
    c.age_last = i


@inner
def remove_by_age(s: View, i: int) -> None:
    """Take a request out of the list by age."""
    requests = requests_of(s)
    c = clock_of(s)
    before, after = requests[i].previous, requests[i].following
    if before == NOBODY:
        c.age_first = after
    else:
        requests[before].following = after
    if after == NOBODY:
        c.age_last = before
    else:
        requests[after].previous = before


@inner
def prepend_recovery(s: View, i: int) -> None:
    """Return a request to the front of the recovery lane."""
    requests = requests_of(s)
    c = clock_of(s)
    first = c.recovery_first
    requests[i].previous, requests[i].following = NOBODY, first
    if first == NOBODY:
        c.recovery_last = i
    else:
        requests[first].previous = i
    c.recovery_first = i


@inner
def remove_recovery(s: View, i: int) -> None:
    """Take a request out of the recovery lane."""
    requests = requests_of(s)
    c = clock_of(s)
    before, after = requests[i].previous, requests[i].following
    if before == NOBODY:
        c.recovery_first = after
    else:
        requests[before].following = after
    if after == NOBODY:
        c.recovery_last = before
    else:
        requests[after].previous = before


@inner
def append_to_queue(s: View, q: int, i: int) -> None:
    """Add a request at the end of a queue; a queue that was empty becomes active."""
    requests, queues = requests_of(s), queues_of(s)
    last = queues[q].last
    requests[i].queue = q
    requests[i].queue_previous, requests[i].queue_following = last, NOBODY
    if last == NOBODY:
        queues[q].first = i
        c = clock_of(s)
        queues[c.active].active = q
        queues[q].place = c.active
        c.active += 1
    else:
        requests[last].queue_following = i
    queues[q].last = i


@inner
def remove_from_queue(s: View, i: int) -> None:
    """Take a request out of its queue, from wherever it stands."""
    requests, queues = requests_of(s), queues_of(s)
    q = requests[i].queue
    before, after = requests[i].queue_previous, requests[i].queue_following
    if before == NOBODY:
        queues[q].first = after
    else:
        requests[before].queue_following = after
    if after == NOBODY:
        queues[q].last = before
    else:
        requests[after].queue_previous = before
    if queues[q].first == NOBODY:
        c = clock_of(s)
        c.active -= 1
        last, place = queues[c.active].active, queues[q].place
        queues[place].active = last
        queues[last].place = place
        queues[q].place = NOBODY
    requests[i].queue = NOBODY
