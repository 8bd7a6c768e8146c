"""The order boost_ada: its parameter follows the tail of the waits, as `scheduling.boost` does."""

from __future__ import annotations

from typing import Any

import numpy as np

from ewsjf_env.engine.compiled.kernel import codes
from ewsjf_env.engine.compiled.kernel.compiler import inner
from ewsjf_env.engine.compiled.kernel.views import (
    View,
    clock_of,
    order_heap_of,
    order_keys_of,
    policy_of,
    requests_of,
    waits_s_of,
)
from ewsjf_env.engine.compiled.orders.heap import push
from ewsjf_env.engine.compiled.orders.scores import key
from ewsjf_env.scheduling.orders.boost import GAMMA_RANGE, REFIT_EVERY, TAIL_RATIO

LEAST_GAMMA, MOST_GAMMA = GAMMA_RANGE


@inner
def refit_when_due(s: View) -> None:
    """Fit gamma to the waits of the order in use, and key its requests anew."""
    c, p = clock_of(s), policy_of(s)
    if p.adapts == 0 or c.served < REFIT_EVERY:
        return
    c.served = 0
    ordered_s = np.sort(waits_s_of(s)[: c.waits])
    t95_s, t99_s = percentile(ordered_s, 0.95), percentile(ordered_s, 0.99)
    if t99_s > t95_s:
        p.p0 = min(MOST_GAMMA, max(LEAST_GAMMA, TAIL_RATIO / (t99_s - t95_s)))
        _rekey(s)


@inner
def percentile(ordered: Any, share: float) -> float:
    """The value below which a share of ascending values lies, interpolated as NumPy does."""
    place = (len(ordered) - 1) * share
    low = int(place)
    if low + 1 >= len(ordered):
        return ordered[len(ordered) - 1]
    t, step = place - low, ordered[low + 1] - ordered[low]
    return ordered[low] + step * t if t < 0.5 else ordered[low + 1] - step * (1.0 - t)


@inner
def _rekey(s: View) -> None:
    """Compute every key of the order anew, after its parameter has changed."""
    requests, heap, keys = requests_of(s), order_heap_of(s), order_keys_of(s)
    c, p = clock_of(s), policy_of(s)
    c.heap = 0
    for i in range(c.next):
        if requests[i].where == codes.IN_ORDER and requests[i].account == c.tenant:
            keys[i] = key(p, requests[i], requests[i].prompt)
            c.heap = push(heap, keys, c.heap, i)
