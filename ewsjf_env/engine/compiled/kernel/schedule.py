"""A scheduling step: running requests first, then those that wait, as vLLM's `schedule` has it.

Running requests get their next tokens in turn; where no KV block is free the last one is
preempted.  If nobody was, waiting requests are admitted while the token budget, the number of
running requests and the KV blocks for the whole prompt allow it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ewsjf_env.engine.compiled.kernel import codes
from ewsjf_env.engine.compiled.kernel.blocks import (
    adopt_blocks,
    blocks_for,
    free_blocks,
    hit_blocks,
    idle_blocks,
    keep_blocks,
    take_blocks,
)
from ewsjf_env.engine.compiled.kernel.codes import NOBODY
from ewsjf_env.engine.compiled.kernel.compiler import inner
from ewsjf_env.engine.compiled.kernel.shaping import begin_step
from ewsjf_env.engine.compiled.kernel.timer import end_timing
from ewsjf_env.engine.compiled.kernel.views import (
    View,
    clock_of,
    limits_of,
    requests_of,
    running_of,
    skipped_of,
    slots_of,
    steps_of,
    work_of,
)
from ewsjf_env.engine.compiled.orders.waiting import choose, nobody_fits, pick, prepend


@inner
def schedule(s: View) -> int:
    """Schedule a step into the ring of steps in flight; its number of tokens."""
    steps = steps_of(s)
    c, limit, w = clock_of(s), limits_of(s), work_of(s)
    begin_step(s)
    slot = (c.first_step + c.queued_steps) % limit.depth
    w.prefill = w.decodes = w.context = 0
    w.attention = 0.0
    chunk = c.chunk if c.running + c.waiting > 1 else 0
    preempted = c.preemptions
    count, left = _schedule_running(s, slot, chunk)
    if c.preemptions == preempted:
        count, left = _schedule_waiting(s, slot, chunk, count, left)
    steps[slot].count, steps[slot].prefill = count, 0
    c.queued_steps += 1
    end_timing(s)
    return c.budget - left


@inner
def enter_step(w: Any, slot: Any, r: Any, i: int, tokens: int, ahead: int) -> None:
    """Enter tokens of a request into a step: what it computes, and whether it samples.

    Args:
        w: record of the step's work.
        slot: record of the request's place in the step.
        r: record of the request.
        i: its number.
        tokens: that it computes, >= 1.
        ahead: 1 with look-ahead: the next step is scheduled before the sampled token is there.
    """
    after = r.computed + tokens
    whole = after >= r.prompt + r.promised
    r.computed = after
    slot.request, slot.tokens = i, tokens
    if tokens == 1 and after > r.prompt:
        w.decodes += 1
        w.context += after
        slot.gives = codes.DECODED if whole else codes.NOTHING
    else:
        w.prefill += tokens
        w.attention += tokens * (after - 0.5 * tokens)
        slot.gives = codes.COMPLETED if whole else codes.NOTHING
    if whole:
        r.promised += ahead


@inner
def preempt_last(s: View) -> int:
    """Send the last running request back to the recovery lane; who it was."""
    requests, running = requests_of(s), running_of(s)
    c = clock_of(s)
    c.running -= 1
    c.preemptions += 1
    i = running[c.running]
    r = requests[i]
    free_blocks(s, i)
    r.computed = 0
    r.stale = _tokens_in_flight(s, i)
    r.promised = r.generated
    r.preempted += 1
    prepend(s, i)
    return i


@inner
def _tokens_in_flight(s: View, i: int) -> int:
    """Tokens of a request in steps that have not been taken in."""
    steps, slots = steps_of(s), slots_of(s)
    c, total = clock_of(s), 0
    for step in range(c.queued_steps):
        slot = (c.first_step + step) % limits_of(s).depth
        for position in range(steps[slot].count):
            if slots[slot, position].request == i:
                total += slots[slot, position].tokens
    return total


@inner
def _schedule_running(s: View, slot: int, chunk: int) -> tuple[int, int]:
    requests, slots, running = requests_of(s), slots_of(s), running_of(s)
    c, limit, w = clock_of(s), limits_of(s), work_of(s)
    block_tokens, caching, ahead = limit.block_tokens, limit.prefix_caching, limit.depth - 1
    left, count, position = c.budget, 0, 0
    while position < c.running and left > 0:
        if not caching:
            before = count
            position, count, context = _schedule_decoding(s, slot, position, count, left)
            w.decodes += count - before
            w.context += context
            left -= count - before
            if position >= c.running or left <= 0:
                break
        i = running[position]
        r = requests[i]
        computed, coming = r.computed, r.promised - r.generated
        position += 1
        # With look-ahead a step that is sure to come too late is left out.
        if coming > 0 and computed + 2 - coming >= r.prompt + r.output:
            continue
        tokens = r.prompt + r.promised - computed
        if 0 < chunk < tokens:
            tokens = chunk
        tokens = min(tokens, left)
        if tokens == 0:
            continue
        if computed + tokens > r.blocks * block_tokens:
            more = blocks_for(block_tokens, computed + tokens) - r.blocks
            gone = False
            while more > c.free_blocks:
                if preempt_last(s) == i:
                    gone = True
                    break
            if gone:
                break
            take_blocks(s, i, more)
        if caching:
            keep_blocks(s, i, min(computed + tokens, r.prompt + r.generated))
        enter_step(w, slots[slot, count], r, i, tokens, ahead)
        count += 1
        left -= tokens
    return count, left


@inner
def _schedule_decoding(
    s: View, slot: int, position: int, count: int, left: int
) -> tuple[int, int, int]:
    """Schedule running requests up to the first one that does not decode or finds no free block.

    By far the most do, so that nothing else is in this loop.  Only without a prefix cache.

    Args:
        s: the state.
        slot: of the step.
        position: of the first request among those that run.
        count: requests in the step so far.
        left: tokens that the step may have more, >= 1.

    Returns:
        The position behind the last one, how many are in the step now, and the tokens that they
        attend to.
    """
    requests, slots, running = requests_of(s), slots_of(s), running_of(s)
    c, limit = clock_of(s), limits_of(s)
    block_tokens, ahead, end, most = limit.block_tokens, limit.depth - 1, c.running, count + left
    context, free = 0, c.free_blocks
    while position < end and count < most:
        i = np.uint64(running[np.uint64(position)])  # unsigned: no index counts from the end
        r = requests[i]
        computed, promised, generated = r.computed, r.promised, r.generated
        if computed + 1 != r.prompt + promised or promised < 1:
            break
        if generated + 1 >= r.output and promised > generated:  # see `_schedule_running`
            position += 1
            continue
        if computed >= r.blocks * block_tokens:
            if free < 1:
                break
            free -= 1
            r.blocks += 1
        one = slots[np.uint64(slot), np.uint64(count)]
        one.request, one.tokens, one.gives = i, 1, codes.DECODED
        r.computed = computed + 1
        r.promised = promised + ahead
        context += computed + 1
        position += 1
        count += 1
    c.free_blocks = free
    return position, count, context


@inner
def _schedule_waiting(s: View, slot: int, chunk: int, count: int, left: int) -> tuple[int, int]:
    requests, slots, running, skipped = requests_of(s), slots_of(s), running_of(s), skipped_of(s)
    c, limit, w = clock_of(s), limits_of(s), work_of(s)
    block_tokens, passed = limit.block_tokens, 0
    while left > 0 and c.waiting > 0 and c.running < limit.max_seqs:
        # To score those that wait takes longer than all else of a step.
        if not limit.prefix_caching and nobody_fits(s, c.free_blocks * block_tokens):
            break
        i, from_overdue = choose(s)
        if i == NOBODY:
            break
        r = requests[i]
        if c.shorter_than and r.prompt >= c.shorter_than:
            break
        if r.stale > 0:  # tokens of a step before its preemption are still to come
            pick(s, i, from_overdue)
            r.where = codes.SKIPPED
            skipped[passed] = i
            passed += 1
            continue
        total = r.prompt + r.generated
        hit = hit_blocks(s, i, total)
        computed = hit * block_tokens
        tokens = total - computed
        if 0 < chunk < tokens:
            tokens = chunk
        if not limit.chunked and tokens > left:
            break
        tokens = min(tokens, left)
        if blocks_for(block_tokens, total) - hit + idle_blocks(s, i, hit) > c.free_blocks:
            break
        adopt_blocks(s, i, hit)
        take_blocks(s, i, blocks_for(block_tokens, computed + tokens) - hit)
        keep_blocks(s, i, min(computed + tokens, total))
        pick(s, i, from_overdue)
        r.where = codes.RUNNING
        running[c.running] = i
        c.running += 1
        r.computed = computed
        if r.cached < 0:
            r.cached = computed
            c.admitted_cached += computed
            c.admitted_prompt += r.prompt
        enter_step(w, slots[slot, count], r, i, tokens, limit.depth - 1)
        count += 1
        left -= tokens
    for place in range(passed - 1, -1, -1):
        prepend(s, skipped[place])
    return count, left
