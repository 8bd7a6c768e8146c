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
    limits_of,
    policy_of,
    requests_of,
    running_of,
)
from ewsjf_env.engine.compiled.kernel.work import octave
from ewsjf_env.engine.compiled.orders.waiting import begin_waiting_step, choose, tokens_below
from ewsjf_env.scheduling.step_shape import CACHE_RESERVE


@inner
def begin_step(s: View) -> None:
    """Begin a step of the waiting queue, and cut it as the policy says."""
    requests, running = requests_of(s), running_of(s)
    c, p, limit = clock_of(s), policy_of(s), limits_of(s)
    c.budget, c.chunk = limit.budget_tokens, limit.chunk_tokens
    if (p.prefill_share >= 1.0 and p.yield_share <= 0.0) or not limit.chunked:
        begin_waiting_step(s, c.budget)
        return
    decoding = longest = total = 0
    for position in range(c.running):
        r = requests[running[position]]
        left = r.prompt + r.promised - r.computed
        if left > 1:
            total += left
            longest = max(longest, left)
        else:
            decoding += 1
    share = math.ceil(p.prefill_share * limit.budget_tokens)
    c.budget = min(limit.budget_tokens, decoding + share)
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
