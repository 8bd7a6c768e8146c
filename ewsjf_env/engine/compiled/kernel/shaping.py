"""The limits of a step: its token budget, its longest chunk and whom it admits.

What `serving.shaping` and `scheduling.step_shape` do at the beginning of each step.
"""

from __future__ import annotations

import math

from ewsjf_env.engine.compiled.kernel.codes import NOBODY
from ewsjf_env.engine.compiled.kernel.compiler import inner
from ewsjf_env.engine.compiled.kernel.views import (
    View,
    clock_of,
    fit_of,
    limits_of,
    model_of,
    policy_of,
    requests_of,
    running_of,
)
from ewsjf_env.engine.compiled.kernel.work import octave
from ewsjf_env.engine.compiled.orders.waiting import begin_waiting_step, choose, tokens_below
from ewsjf_env.scheduling.cost import SCALES
from ewsjf_env.scheduling.step_shape import (
    CACHE_RESERVE,
    LEAST_PREFILL_TOKENS,
    NO_STEP_LIMIT_S,
    PREFILL_GRAIN_TOKENS,
)


@inner
def begin_step(s: View) -> None:
    """Begin a step of the waiting queue, and cut it as the policy says."""
    requests, running = requests_of(s), running_of(s)
    c, p, limit = clock_of(s), policy_of(s), limits_of(s)
    c.budget, c.chunk = limit.budget_tokens, limit.chunk_tokens
    timed = p.most_step_s < NO_STEP_LIMIT_S
    if (p.prefill_share >= 1.0 and p.yield_share <= 0.0 and not timed) or not limit.chunked:
        begin_waiting_step(s, c.budget)
        return
    decoding = longest = total = context = 0
    begun = -1
    for position in range(c.running):
        r = requests[running[position]]
        left = r.prompt + r.promised - r.computed
        if left > 1:
            total += left
            longest = max(longest, left)
            if begun < 0:
                begun = r.computed
        else:
            decoding += 1
            context += r.computed
    prefill = math.ceil(p.prefill_share * limit.budget_tokens)
    if timed and model_of(s).known:
        prefill = min(prefill, _prefill_by_time(s, decoding, context, max(0, begun)))
    c.budget = min(limit.budget_tokens, decoding + prefill)
    begin_waiting_step(s, c.budget)
    if not c.waiting or c.running >= limit.max_seqs or p.yield_share <= 0.0 or longest < 2:
        return
    below = 1 << (octave(longest) - 1)
    room = c.budget - decoding
    spare = (c.free_blocks - decoding) * limit.block_tokens - total
    spare -= int(CACHE_RESERVE * (limit.kv_blocks * limit.block_tokens))
    lent = min(tokens_below(s, below), spare, int(p.yield_share * room))
    if lent <= 0:
        return
    head = choose(s)[0]
    if head == NOBODY or requests[head].prompt >= below:
        return
    c.shorter_than = below
    chunk = max(1, room - lent)
    c.chunk = min(limit.chunk_tokens, chunk) if limit.chunk_tokens else chunk


@inner
def _prefill_by_time(s: View, decode_tokens: int, context_tokens: int, begun_tokens: int) -> int:
    """Prompt tokens of a step that is limited by time, see `scheduling.cost.StepLaw`."""
    theta, p, limit = fit_of(s)[0], policy_of(s), limits_of(s)
    left_s = p.most_step_s - (
        theta[0] / SCALES[0]
        + theta[3] / SCALES[3] * decode_tokens
        + theta[4] / SCALES[4] * context_tokens
    )
    pair_s = theta[2] / SCALES[2]
    slope, half = theta[1] / SCALES[1] + pair_s * begun_tokens, 0.5 * pair_s
    found = float(limit.budget_tokens)
    if left_s <= 0.0:
        found = 0.0
    else:
        root = slope + math.sqrt(slope * slope + 4.0 * half * left_s)
        if root > 0.0:
            found = min(found, 2.0 * left_s / root)
    grains = int(found / PREFILL_GRAIN_TOKENS)
    return max(LEAST_PREFILL_TOKENS, grains * PREFILL_GRAIN_TOKENS)
