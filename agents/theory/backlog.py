"""The work that waits for a place in the batch, and how it spreads over time.

The work in an engine, in seconds of its capacity, is taken for a diffusion: it drifts by the load
less what is served, and spreads with the variance of what arrives.  A batch that is not full
serves in proportion to what it holds, so

    drift = load - min(1, work / batch),    variance a second = rate (Var s + c2 (E s)^2)

with c2 the burst index of the arrivals (1 for Poisson).  What exceeds the full batch waits.
Below capacity that is the heavy-traffic limit of a queue with as many servers as requests run;
above it, the waiting work grows by load - 1 a second.  The distribution is followed on a grid, a
Markov chain of small steps up and down, once for a traffic: no order changes it.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_CELLS = 240


def waiting_work(
    load: float, batch_s: float, variance: float, moments_s: Floats, levels: Floats
) -> Floats:
    """Quantiles of the waiting work over time, from an empty engine on.

    Args:
        load: work that arrives a second, > 0; 1 is the capacity.
        batch_s: seconds of work in a full batch, > 0.
        variance: of the work that arrives in a second, seconds^2, > 0.
        moments_s: evenly spaced from 0 on, shape (t,), t >= 2.
        levels: of the quantiles, shape (u,), in (0, 1).

    Returns:
        Seconds of waiting work, shape (u, t).
    """
    end_s = float(moments_s[-1])
    highest = 2 * batch_s + max(0.0, load - 1) * end_s + 5 * math.sqrt(variance * end_s)
    width = highest / _CELLS
    work = np.arange(_CELLS) * width
    drift = load - np.minimum(1.0, work / batch_s)
    # Where the drift outruns the spread within a cell, it alone moves the work.
    up = variance / width**2 / 2 + np.maximum(drift, 0.0) / width
    down = variance / width**2 / 2 + np.maximum(-drift, 0.0) / width
    up[-1] = down[0] = 0.0
    gap_s = float(moments_s[1] - moments_s[0])
    substeps = 1 << math.ceil(math.log2(max(1.0, 2 * gap_s * float((up + down).max()))))
    up, down = up * gap_s / substeps, down * gap_s / substeps
    chain = np.diag(1 - up - down) + np.diag(up[:-1], -1) + np.diag(down[1:], 1)
    over_gap = np.linalg.matrix_power(chain, substeps)
    share = np.zeros(_CELLS)
    share[0] = 1.0
    found = np.zeros((len(levels), len(moments_s)))
    for index in range(len(moments_s)):
        found[:, index] = work[np.searchsorted(np.cumsum(share), levels).clip(max=_CELLS - 1)]
        share = over_gap @ share
    return np.maximum(0.0, found - batch_s)
