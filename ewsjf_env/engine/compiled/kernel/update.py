"""What the end of a step changes: tokens arrive, requests finish (`update_from_output`)."""

from __future__ import annotations

import numpy as np

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
    count, now_s = steps[slot].count, c.now_s
    behind = limit.depth == 1  # nobody has promised the token that comes now
    stopped, delivered, caching = False, 0, limit.prefix_caching
    for position in range(count):
        one = slots[slot, position]
        i = one.request
        r = requests[np.uint64(i)]  # unsigned: no index counts from the end
        if one.gives == codes.DECODED and r.where == codes.RUNNING and not caching:
            delivered += 1  # by far the most
            generated = r.generated + 1
            r.generated = generated
            if behind:
                r.promised = generated
            if generated >= r.output:
                stopped = True
                _finish(s, i)
            continue
        if r.where == codes.FINISHED:  # in an earlier step
            continue
        stale = r.stale > 0
        if stale:
            r.stale -= one.tokens
        if one.gives == codes.NOTHING:
            continue
        r.generated += 1
        delivered += 1
        if stale or behind:
            r.promised += 1
        elif caching and r.where == codes.RUNNING:
            keep_blocks(s, i, r.computed - (r.promised - r.generated))
        if one.gives == codes.COMPLETED and r.first_token_s != r.first_token_s:
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
