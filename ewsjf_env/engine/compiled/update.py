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
    if s.step_count[slot]:
        c.steps += 1
    stopped = False
    for position in range(s.step_count[slot]):
        i = s.step_request[slot, position]
        if s.where[i] == codes.FINISHED:  # in an earlier step
            s.step_completes[slot, position] = False
            continue
        tokens = s.step_tokens[slot, position]
        s.in_flight[i] -= tokens
        stale = s.stale[i] > 0
        if stale:
            s.stale[i] -= tokens
        if not s.step_samples[slot, position]:
            continue
        s.generated[i] += 1
        c.output_tokens += 1
        if not stale and limit.depth > 1:
            s.placeholders[i] -= 1
        if s.where[i] == codes.RUNNING and limit.depth > 1:
            keep_blocks(s, i, s.computed[i] - s.placeholders[i])
        if s.generated[i] >= s.output[i]:
            stopped = True
            _finish(s, i)
    c.prefill_tokens += s.step_prefill[slot]
    for position in range(s.step_count[slot]):
        i = s.step_request[slot, position]
        if not s.step_completes[slot, position]:
            continue
        first_s = s.first_token_s[i]
        if first_s != first_s and s.generated[i] > 0:
            s.first_token_s[i] = c.now_s
    if stopped:
        _close_ranks(s)


@inner
def _finish(s: State, i: int) -> None:
    c = s.clock[0]
    if s.where[i] != codes.RUNNING:  # preempted meanwhile
        take_out(s, i, False)
    s.where[i] = codes.FINISHED
    s.finish_s[i] = c.now_s
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
        if s.where[i] == codes.RUNNING:
            s.running[kept] = i
            kept += 1
    c.running = kept
