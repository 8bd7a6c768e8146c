"""A scheduling step: running requests first, then those that wait, as vLLM's `schedule` has it.

Running requests get their next tokens in turn; where no KV block is free the last one is
preempted.  If nobody was, waiting requests are admitted while the token budget, the number of
running requests and the KV blocks for the whole prompt allow it.
"""

from __future__ import annotations

from ewsjf_env.engine.compiled import codes
from ewsjf_env.engine.compiled.blocks import (
    adopt_blocks,
    blocks_for,
    free_blocks,
    hit_blocks,
    idle_blocks,
    keep_blocks,
    take_blocks,
)
from ewsjf_env.engine.compiled.codes import NOBODY
from ewsjf_env.engine.compiled.compiler import inner
from ewsjf_env.engine.compiled.shaping import begin_step
from ewsjf_env.engine.compiled.state import State
from ewsjf_env.engine.compiled.timer import end_timing
from ewsjf_env.engine.compiled.waiting import choose, pick, prepend


@inner
def preempt_last(s: State) -> int:
    """Send the last running request back to the recovery lane; who it was."""
    c = s.clock[0]
    c.running -= 1
    i = s.running[c.running]
    free_blocks(s, i)
    s.requests[i].computed = 0
    s.requests[i].stale = s.requests[i].in_flight
    s.requests[i].placeholders = 0
    s.requests[i].preempted += 1
    prepend(s, i)
    return i


@inner
def schedule(s: State) -> int:
    """Schedule a step into the ring of steps in flight; its number of tokens."""
    c, limit = s.clock[0], s.limits[0]
    begin_step(s)
    slot = (c.first_step + c.queued_steps) % limit.depth
    left, chunk = c.budget, c.chunk
    if c.running + c.waiting <= 1:
        chunk = 0
    count = preemptions = 0
    # What the cost model is told of the step; the clock counts by another rule, see `started`.
    prefill = decodes = context = 0
    attention = 0.0

    position = 0
    while position < c.running and left > 0:
        i = s.running[position]
        known = s.requests[i].prompt + s.requests[i].generated + s.requests[i].placeholders
        # With look-ahead a step that is sure to come too late is left out.
        ahead = s.requests[i].placeholders
        if ahead > 0 and s.requests[i].computed + 2 - ahead >= s.requests[i].prompt + s.requests[i].output:
            position += 1
            continue
        tokens = known - s.requests[i].computed
        if 0 < chunk < tokens:
            tokens = chunk
        tokens = min(tokens, left)
        if tokens == 0:
            position += 1
            continue
        gone = False
        while blocks_for(s, s.requests[i].computed + tokens) - s.requests[i].blocks > c.free_blocks:
            preemptions += 1
            if preempt_last(s) == i:
                gone = True
                break
        if gone:
            break
        more = blocks_for(s, s.requests[i].computed + tokens) - s.requests[i].blocks
        if more > 0:
            take_blocks(s, i, more)
        keep_blocks(s, i, min(s.requests[i].computed + tokens, s.requests[i].prompt + s.requests[i].generated))
        if tokens == 1:
            decodes += 1
            context += s.requests[i].computed
        else:
            prefill += tokens
            attention += tokens * (s.requests[i].computed + 0.5 * tokens)
        s.slots[slot, count].request, s.slots[slot, count].tokens = i, tokens
        count += 1
        left -= tokens
        position += 1

    skipped = 0
    # Requests that are resumed are the last that vLLM tells the cost model of; sums do not mind.
    while preemptions == 0 and left > 0 and c.waiting > 0:
        i, from_overdue = NOBODY, False
        if s.policy[0].closes or c.shorter_than:
            i, from_overdue = choose(s)
            if i == NOBODY or (c.shorter_than and s.requests[i].prompt >= c.shorter_than):
                break
        if c.running >= limit.max_seqs:
            break
        if i == NOBODY:
            i, from_overdue = choose(s)
        if s.requests[i].stale > 0:  # tokens of a step before its preemption are still to come
            pick(s, i, from_overdue)
            s.requests[i].where = codes.SKIPPED
            s.skipped[skipped] = i
            skipped += 1
            continue
        total = s.requests[i].prompt + s.requests[i].generated
        hit = hit_blocks(s, i, total)
        computed = hit * limit.block_tokens
        tokens = total - computed
        if 0 < chunk < tokens:
            tokens = chunk
        if not limit.chunked and tokens > left:
            break
        tokens = min(tokens, left)
        if blocks_for(s, total) - hit + idle_blocks(s, i, hit) > c.free_blocks:
            break
        adopt_blocks(s, i, hit)
        take_blocks(s, i, blocks_for(s, computed + tokens) - hit)
        keep_blocks(s, i, min(computed + tokens, total))
        pick(s, i, from_overdue)
        s.requests[i].where = codes.RUNNING
        s.running[c.running] = i
        c.running += 1
        s.requests[i].computed = computed
        if s.requests[i].cached < 0:
            s.requests[i].cached = computed
            c.admitted_cached += computed
            c.admitted_prompt += s.requests[i].prompt
        if tokens == 1 and s.requests[i].preempted > 0:
            decodes += 1
            context += computed
        else:
            prefill += tokens
            attention += tokens * (computed + 0.5 * tokens)
        s.slots[slot, count].request, s.slots[slot, count].tokens = i, tokens
        count += 1
        left -= tokens
    for place in range(skipped - 1, -1, -1):
        prepend(s, s.skipped[place])

    c.preemptions += preemptions
    s.steps[slot].count, s.steps[slot].prefill = count, 0
    c.queued_steps += 1
    end_timing(s, count, c.budget - left, prefill, attention, decodes, context)
    return c.budget - left
