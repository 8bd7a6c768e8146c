"""What the end of a step changes: tokens arrive, requests finish (`update_from_output`)."""

from __future__ import annotations

from ewsjf_env.engine.compiled.kernel import codes
from ewsjf_env.engine.compiled.kernel.blocks import free_blocks, keep_blocks
from ewsjf_env.engine.compiled.kernel.compiler import inner
from ewsjf_env.engine.compiled.kernel.views import (
    View,
    clock_of,
    limits_of,
    policy_of,
    requests_of,
    running_of,
    slots_of,
    steps_of,
)
from ewsjf_env.engine.compiled.kernel.work import learn_output
from ewsjf_env.engine.compiled.orders.waiting import take_out


@inner
def update(s: View, slot: int) -> None:
    """Take in the tokens of a step that has run."""
    requests, steps, slots = requests_of(s), steps_of(s), slots_of(s)
    c, limit = clock_of(s), limits_of(s)
    count, now_s, ahead = steps[slot].count, c.now_s, limit.depth > 1
    stopped, delivered, caching = False, 0, limit.prefix_caching
    for position in range(count):
        one = slots[slot, position]
        i = one.request
        r = requests[i]
        decoding = one.tokens == 1 and one.samples and not one.completes
        if decoding and r.where == codes.RUNNING and r.stale == 0 and not caching:
            # by far the most
            r.in_flight -= 1
            r.placeholders -= ahead
            delivered += 1
            generated = r.generated + 1
            r.generated = generated
            if generated >= r.output:
                stopped = True
                _finish(s, i)
            continue
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
def _finish(s: View, i: int) -> None:
    requests = requests_of(s)
    c = clock_of(s)
    if requests[i].where != codes.RUNNING:  # preempted meanwhile
        take_out(s, i, False)
    requests[i].where = codes.FINISHED
    requests[i].finish_s = c.now_s
    free_blocks(s, i)
    c.live -= 1
    c.finished += 1
    if policy_of(s).w_output != 0.0:
        learn_output(s, i)


@inner
def _close_ranks(s: View) -> None:
    """Take those that have finished out of the running ones, in order."""
    requests, running = requests_of(s), running_of(s)
    c, kept = clock_of(s), 0
    for position in range(c.running):
        i = running[position]
        if requests[i].where == codes.RUNNING:
            running[kept] = i
            kept += 1
    c.running = kept
