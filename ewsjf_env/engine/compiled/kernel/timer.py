"""Step times for the cost model: which steps it learns from, as `serving.scheduler` decides.

A sample is noted when its step is scheduled and met with its time at a later step: the next one,
or with look-ahead the one after.  Junk is sorted out here.
"""

from __future__ import annotations

from ewsjf_env.engine.compiled.kernel.compiler import inner
from ewsjf_env.engine.compiled.kernel.state import LEARNT_STEPS, STEP_FEATURES
from ewsjf_env.engine.compiled.kernel.views import (
    View,
    batch_of,
    clock_of,
    limits_of,
    sample_of,
    steps_of,
    work_of,
)
from ewsjf_env.scheduling.cost import LARGEST, LONGEST_STEP_S
from ewsjf_env.serving.step_timer import DECODE_SAMPLE_STEPS, DENSE_SAMPLES


@inner
def begin_timing(s: View) -> bool:
    """Meet the oldest sample with its time; whether a batch is complete for the model."""
    steps, sample, batch = steps_of(s), sample_of(s), batch_of(s)
    c = clock_of(s)
    if not limits_of(s).learns:
        return False
    now_s, place = c.now_s, c.sample
    if steps[place].wanted and c.running > 0 and now_s > c.last_step_s:
        step_s = now_s - c.last_step_s
        sample[place, STEP_FEATURES - 1] = step_s
        total, sane = 0.0, step_s <= LONGEST_STEP_S
        for j in range(STEP_FEATURES):
            value = sample[place, j]
            batch[c.batch, j] = value
            total += value
            sane = sane and value >= 0.0
        if sane and total <= LARGEST:
            c.batch += 1
        c.learnt += 1
    steps[place].wanted = False
    c.last_step_s = now_s
    return c.batch == LEARNT_STEPS


@inner
def end_timing(s: View) -> None:
    """Note what the step that was just scheduled computes, if it is to be learnt from."""
    steps, sample = steps_of(s), sample_of(s)
    c, w = clock_of(s), work_of(s)
    if not limits_of(s).learns:
        return
    c.timed_steps += 1
    if w.prefill > 0:
        wanted = c.learnt < DENSE_SAMPLES or c.timed_steps % 4 == 0
    else:
        wanted = w.decodes > 0 and c.timed_steps % DECODE_SAMPLE_STEPS == 0
    place = c.sample
    steps[place].wanted = wanted
    if wanted:
        sample[place, 0] = 1.0
        sample[place, 1] = w.prefill
        sample[place, 2] = w.attention
        sample[place, 3] = w.decodes
        sample[place, 4] = w.context - w.decodes
    c.sample = place + 1 if place + 1 < len(steps) else 0
