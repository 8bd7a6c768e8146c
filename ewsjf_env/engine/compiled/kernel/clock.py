"""The loop of `engine/virtual_core.py`: admit, schedule, wait for the oldest step, update.

`advance` returns whenever Python is needed (`codes`) and goes on there when it is called again.
"""

from __future__ import annotations

from typing import Any

from ewsjf_env.engine.compiled.kernel import codes
from ewsjf_env.engine.compiled.kernel.compiler import entry, inner
from ewsjf_env.engine.compiled.kernel.drift import may_have_drifted
from ewsjf_env.engine.compiled.kernel.learn import learn
from ewsjf_env.engine.compiled.kernel.schedule import schedule
from ewsjf_env.engine.compiled.kernel.timer import begin_timing
from ewsjf_env.engine.compiled.kernel.update import update
from ewsjf_env.engine.compiled.kernel.views import (
    View,
    clock_of,
    limits_of,
    noise_of,
    policy_of,
    requests_of,
    steps_of,
    work_of,
)
from ewsjf_env.engine.compiled.orders.waiting import add
from ewsjf_env.scheduling.orders.boost import REFIT_EVERY

MAX_EMPTY_STEPS = 64


@entry
def advance(table: Any, end_s: float, until_idle: bool) -> int:
    """Serve until the clock shows `end_s`; events at exactly `end_s` stay ahead.

    Args:
        table: where the state is, see `views.py`.
        end_s: not before the clock's time.
        until_idle: stop the clock earlier when nothing is left to do.

    Returns:
        Why it has returned, see `codes`.
    """
    s = table[0]
    requests, steps, noise = requests_of(s), steps_of(s), noise_of(s)
    c, p, limit = clock_of(s), policy_of(s), limits_of(s)
    while True:
        if c.stage == codes.ADMIT:
            admit(s)
            if c.live > 0 or c.finished > 0:
                c.stage = codes.TIMED
                if begin_timing(s):
                    learn(s)
            elif c.queued_steps == 0:
                if c.next < c.last:
                    if requests[c.next].arrival_s < end_s:
                        c.now_s = requests[c.next].arrival_s
                        continue
                elif until_idle:
                    return codes.IDLE
                c.now_s = end_s
                return codes.REACHED
            else:
                c.stage = codes.WAIT
        if c.stage == codes.TIMED:
            if p.acts or c.now_s >= p.adapt_s:
                return codes.ADAPT
            c.stage = codes.SCHEDULE
            if partition_is_due(s):
                return codes.REPARTITION
            if refit_is_due(s):
                return codes.REFIT
        if c.stage == codes.SCHEDULE:
            if limit.noisy and c.noise_used >= len(noise):
                return codes.NOISE
            tokens = schedule(s)
            c.finished = 0
            use_blocks(s)
            set_kv_usage(s, c.used)
            if tokens == 0:
                c.empty_steps += 1
                if c.empty_steps > MAX_EMPTY_STEPS and c.live > 0:
                    return codes.STUCK
                steps[(c.first_step + c.queued_steps - 1) % limit.depth].end_s = c.now_s
            else:
                c.empty_steps = 0
                start(s)
            more = c.queued_steps < limit.depth and (tokens > 0 or c.live > 0)
            c.stage = codes.ADMIT if more else codes.WAIT
            if more:
                continue
        slot = c.first_step
        if steps[slot].end_s >= end_s:
            c.now_s = end_s
            return codes.REACHED
        c.now_s = max(c.now_s, steps[slot].end_s)
        if c.now_s >= p.adapt_s:
            return codes.ADAPT
        c.stage = codes.ADMIT
        c.first_step = (slot + 1) % limit.depth
        c.queued_steps -= 1
        update(s, slot)
        use_blocks(s)


@inner
def admit(s: View) -> None:
    """Take in what has arrived."""
    requests = requests_of(s)
    c = clock_of(s)
    while c.next < c.last and requests[c.next].arrival_s <= c.now_s:
        i = c.next
        c.next += 1
        c.live += 1
        add(s, i)


@inner
def start(s: View) -> None:
    """Put the step scheduled last on the device: when it ends."""
    steps, noise = steps_of(s), noise_of(s)
    c, limit = clock_of(s), limits_of(s)
    slot = (c.first_step + c.queued_steps - 1) % limit.depth
    w = work_of(s)
    tokens = w.prefill + w.decodes
    linear_s = limit.linear_s * tokens
    seconds = (
        limit.overhead_s
        + (linear_s if linear_s > limit.weights_s else limit.weights_s)
        + limit.attention_s * w.attention
        + limit.kv_read_s * w.context
    )
    if tokens > limit.captured_tokens and seconds < limit.launch_s:
        seconds = limit.launch_s
    if limit.noisy:
        seconds *= noise[c.noise_used]
        c.noise_used += 1
    c.gpu_free_s = max(c.now_s, c.gpu_free_s) + seconds
    steps[slot].end_s = c.gpu_free_s
    steps[slot].prefill = w.prefill


@inner
def set_kv_usage(s: View, usage: float) -> None:
    """Add the usage so far to its time integral and go on with `usage`."""
    c = clock_of(s)
    c.kv_usage_s += c.kv_usage * (c.now_s - c.kv_since_s)
    c.kv_since_s = c.now_s
    c.kv_usage = usage


@inner
def use_blocks(s: View) -> None:
    """Note that another share of the KV blocks is in use, for whoever reads the history."""
    c, limit = clock_of(s), limits_of(s)
    if c.used_since_s == c.used_since_s:
        c.used_s += c.used * (c.now_s - c.used_since_s)
    c.used_since_s = c.now_s
    c.used = 1.0 - c.free_blocks / (limit.kv_blocks - 1)


@inner
def partition_is_due(s: View) -> bool:
    """Whether the re-partition wants to be asked at this step, see `scheduling.repartition`."""
    c, p = clock_of(s), policy_of(s)
    if not p.logs:
        return False
    if p.pending == codes.EVALUATING or p.evaluated_s != p.evaluated_s:
        return True
    if p.pending == codes.COMPARED:  # it is picked up now: nothing has come of it
        p.pending = 0
        return False
    if c.kept >= p.least_lengths and (p.renew or c.now_s - p.evaluated_s >= p.interval_s):
        return True
    if c.fresh < p.drift_window or c.now_s - p.checked_s < p.check_interval_s:
        return False
    if may_have_drifted(s):
        return True
    p.checked_s, p.pending, c.fresh = c.now_s, codes.COMPARED, 0
    return False


@inner
def refit_is_due(s: View) -> bool:
    """Whether the order boost_ada fits its parameter anew at this step."""
    return policy_of(s).adapts > 0 and clock_of(s).served >= REFIT_EVERY
