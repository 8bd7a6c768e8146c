"""Step times for the cost model: which steps it learns from, as `serving.scheduler` decides.

A sample is noted when its step is scheduled and met with its time at a later step: the next one,
or with look-ahead the one after.  Junk is sorted out here, so that the model's batches fill in step.
"""

from __future__ import annotations

import math

from ewsjf_env.engine.compiled.compiler import inner
from ewsjf_env.engine.compiled.state import LEARNT_STEPS, State

DENSE_SAMPLES = 500
DECODE_SAMPLE_STEPS = 16
LONGEST_STEP_S = 60.0
LARGEST = 1e12


@inner
def begin_timing(s: State) -> bool:
    """Meet the oldest sample with its time; whether a batch is complete for the model."""
    c = s.clock[0]
    if not s.limits[0].learns:
        return False
    now_s, place = c.now_s, c.sample
    if s.steps[place].wanted and c.running > 0 and now_s > c.last_step_s:
        row = s.batch[c.batch]
        row[:5] = s.sample[place, :5]
        row[5] = now_s - c.last_step_s
        total, least = 0.0, math.inf
        for value in row:
            total += value
            least = min(least, value)
        if 0.0 < row[5] <= LONGEST_STEP_S and total <= LARGEST and least >= 0.0:
            c.batch += 1
        c.learnt += 1
    s.steps[place].wanted = False
    c.last_step_s = now_s
    return c.batch == LEARNT_STEPS


@inner
def end_timing(
    s: State, requests: int, tokens: int, prefill: int, attention: float, decodes: int, context: int
) -> None:
    """Note what the step that was just scheduled computes, if it is to be learnt from."""
    c = s.clock[0]
    if not s.limits[0].learns:
        return
    c.timed_steps += 1
    if tokens == 0:
        wanted = False
    elif tokens == requests:
        wanted = c.timed_steps % DECODE_SAMPLE_STEPS == 0
    else:
        wanted = c.learnt < DENSE_SAMPLES or c.timed_steps % 4 == 0
    place = c.sample
    s.steps[place].wanted = wanted
    if wanted:
        row = s.sample[place]
        row[0], row[1], row[2], row[3], row[4] = 1.0, prefill, attention, decodes, context
    c.sample = (place + 1) % len(s.steps)
