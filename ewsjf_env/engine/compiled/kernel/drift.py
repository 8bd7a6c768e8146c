"""The comparison of late lengths with those before, as `scheduling.partition.length_drift` has it.

Compiled code only says that nothing has moved: where it is close, Python decides.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ewsjf_env.engine.compiled.kernel.compiler import inner
from ewsjf_env.engine.compiled.kernel.views import (
    View,
    clock_of,
    cuts_of,
    masses_of,
    policy_of,
    reference_of,
    requests_of,
)

CLOSE = 1.0 - 1e-9  # sums in another order differ by less


@inner
def may_have_drifted(s: View) -> bool:
    """Whether one of the two signs of a drift is near or above its limit."""
    requests, cuts, masses, reference = requests_of(s), cuts_of(s), masses_of(s), reference_of(s)
    c, p = clock_of(s), policy_of(s)
    first, late = c.next - p.drift_window, p.drift_window
    counts = np.zeros(len(cuts) + 1, np.int64)
    for i in range(first, c.next):
        counts[int(np.searchsorted(cuts, requests[i].noted))] += 1
    shift = 0.0
    for q in range(len(counts)):
        shift += abs(counts[q] / late - masses[q])
    if shift / 2.0 >= CLOSE * p.share_shift:
        return True
    size = reference.shape[1]
    if p.reference_size == 0.0:
        return False
    # How many of the late lengths are at most, and below, each length of the reference.
    upto, below = np.zeros(size + 1, np.int64), np.zeros(size + 1, np.int64)
    for i in range(first, c.next):
        length = float(requests[i].noted)
        upto[_count(reference, length, False)] += 1
        below[_count(reference, length, True)] += 1
    limit = CLOSE * p.ks_least
    at_most, under, share = 0, 0, 0.0
    for j in range(size):
        under += below[j]
        # The share of late lengths has grown up to here, and that of the reference has not.
        if abs(under / late - share) >= limit:
            return True
        at_most += upto[j]
        share = reference[1, j]
        last = j + 1 == size or reference[0, j + 1] != reference[0, j]
        if last and abs(at_most / late - share) >= limit:
            return True
    return False


@inner
def _count(reference: Any, length: float, equal: bool) -> int:
    """How many lengths of the reference are below a length, or equal to it."""
    low, high = 0, reference.shape[1]
    while low < high:
        middle = (low + high) >> 1
        value = reference[0, middle]
        if value < length or (equal and value == length):
            low = middle + 1
        else:
            high = middle
    return low
