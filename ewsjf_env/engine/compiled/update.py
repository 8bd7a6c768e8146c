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
    requests, steps, slots = s.requests, s.steps, s.slots
    c, limit = s.clock[0], s.limits[0]
    count, now_s, ahead = steps[slot].count, c.now_s, limit.depth > 1
    stopped, delivered = False, 0
    for position in range(count):
        one = slots[slot, position]
        i = one.request
        r = requests[i]
        if r.where == codes.FINISHED:  # in an earlier step
            continue
        r.in_flight -= one.tokens
        stale = r.stale > 0
        if stale:
            r.stale -= one.tokens
        if not one.samples:
            continue
        r.generated += 1
        delivered += 1
        if ahead:
            if not stale:
                r.placeholders -= 1
            if limit.prefix_caching and r.where == codes.RUNNING:
                keep_blocks(s, i, r.computed - r.placeholders)
        if one.completes and r.first_token_s != r.first_token_s:
            r.first_token_s = now_s
        if r.generated >= r.output:
            stopped = True
            _finish(s, i)
    if count:
        c.steps += 1
        c.output_tokens += delivered
        c.prefill_tokens += steps[slot].prefill
    if stopped:
        _close_ranks(s)


@inner
def _finish(s: State, i: int) -> None:
    requests = s.requests
    c = s.clock[0]
    if requests[i].where != codes.RUNNING:  # preempted meanwhile
        take_out(s, i, False)
    requests[i].where = codes.FINISHED
    requests[i].finish_s = c.now_s
    free_blocks(s, i)
    c.live -= 1
    c.finished += 1
    if s.policy[0].w_output != 0.0:
        learn_output(s, i)


@inner
def _close_ranks(s: State) -> None:
    """Take those that have finished out of the running ones, in order."""
    requests, running = s.requests, s.running
    c, kept = s.clock[0], 0
    for position in range(c.running):
        i = running[position]
        if requests[i].where == codes.RUNNING:
            running[kept] = i
            kept += 1
    c.running = kept
