"""What the end of a step changes: tokens arrive, requests finish (`update_from_output`)."""

from __future__ import annotations

from ewsjf_env.engine.compiled import codes
from ewsjf_env.engine.compiled.blocks import free_blocks, keep_blocks
from ewsjf_env.engine.compiled.compiler import inner
from ewsjf_env.engine.compiled.state import State
from ewsjf_env.engine.compiled.waiting import take_out
from ewsjf_env.engine.compiled.work import learn_output


@inner
def update(s: State, slot: int) -> None:
    """Take in the tokens of a step that has run."""
    c, limit = s.clock[0], s.limits[0]
    if s.steps[slot].count:
        c.steps += 1
    stopped = False
    for position in range(s.steps[slot].count):
        i = s.slots[slot, position].request
        if s.requests[i].where == codes.FINISHED:  # in an earlier step
            s.slots[slot, position].completes = False
            continue
        tokens = s.slots[slot, position].tokens
        s.requests[i].in_flight -= tokens
        stale = s.requests[i].stale > 0
        if stale:
            s.requests[i].stale -= tokens
        if not s.slots[slot, position].samples:
            continue
        s.requests[i].generated += 1
        c.output_tokens += 1
        if not stale and limit.depth > 1:
            s.requests[i].placeholders -= 1
        if s.requests[i].where == codes.RUNNING and limit.depth > 1:
            keep_blocks(s, i, s.requests[i].computed - s.requests[i].placeholders)
        if s.requests[i].generated >= s.requests[i].output:
            stopped = True
            _finish(s, i)
    c.prefill_tokens += s.steps[slot].prefill
    for position in range(s.steps[slot].count):
        i = s.slots[slot, position].request
        if not s.slots[slot, position].completes:
            continue
        first_s = s.requests[i].first_token_s
        if first_s != first_s and s.requests[i].generated > 0:
            s.requests[i].first_token_s = c.now_s
    if stopped:
        _close_ranks(s)


@inner
def _finish(s: State, i: int) -> None:
    c = s.clock[0]
    if s.requests[i].where != codes.RUNNING:  # preempted meanwhile
        take_out(s, i, False)
    s.requests[i].where = codes.FINISHED
    s.requests[i].finish_s = c.now_s
    free_blocks(s, i)
    c.live -= 1
    c.finished += 1
    if s.policy[0].w_output != 0.0:
        learn_output(s, i)


@inner
def _close_ranks(s: State) -> None:
    """Take those that have finished out of the running ones, in order."""
    c, kept = s.clock[0], 0
    for position in range(c.running):
        i = s.running[position]
        if s.requests[i].where == codes.RUNNING:
            s.running[kept] = i
            kept += 1
    c.running = kept
