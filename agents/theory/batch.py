"""The share of a saturated engine that a request takes, in closed form.

Notation, with units (coefficients as in `engine/latency.py`):

    b, o   prompt and output tokens of a request      n = o + ceil(b/B)  steps that it takes part in
    B      token budget of a step                     m    seconds that its own tokens add to steps
    K      tokens of the KV cache                     h0 = t_0 + t_w  a step's time without them
    N      most running requests                      x    rate at which requests are served, 1/s

In a steady batch steps take h0 and what their tokens add, so 1/h steps a second leave
h0/h = 1 - sum x m.  A request holds b + o/2 KV tokens for n h seconds, and the cache is full when
sum x (b + o/2) n h = K.  With h put in, h is gone and the limit is *linear* in the rates:

    sum x s = 1,   s = m + h0 max over limits of  (b + o/2) n / K,   n / N,   b / B

(one limit for the whole mix: the one that binds first).  So a saturated batch is a server that
owes every request s seconds, whatever the order; the fastest that it can serve is 1 / mean s.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ewsjf_env.engine.simulated.config import SimulatedConfig
from ewsjf_env.engine.simulated.latency import Coefficients
from ewsjf_env.engine.virtual import build_virtual

Floats = NDArray[np.float64]

# What the closed form leaves out (preempted requests are computed again, a long head waits for
# blocks while some lie idle): measured over calculated capacity is 0.93 and 0.95 for `paper_mix`,
# 0.90 for `mixed` and 0.94 for `training_mix`, same requests, default engine.
SATURATED_SHARE = 0.93


@dataclass(frozen=True)
class BatchMachine:
    """An engine as the closed form sees it.

    Attributes:
        coefficients: of a step's time.
        kv_tokens: tokens of the KV cache, > 0.
        block_tokens: of a KV block; the last one of a request is half empty on average.
        max_running: most running requests, >= 1.
        budget_tokens: token budget of a step, >= 1.
    """

    coefficients: Coefficients
    kv_tokens: int
    block_tokens: int
    max_running: int
    budget_tokens: int

    @classmethod
    def of(cls, config: SimulatedConfig) -> BatchMachine:
        """The machine of an engine's settings."""
        engine = build_virtual(config)
        return cls(
            engine.latency.coefficients,
            (engine.kv_blocks - 1) * config.block_tokens,
            config.block_tokens,
            config.max_num_seqs,
            config.max_num_batched_tokens,
        )

    @property
    def bare_step_s(self) -> float:
        """h0, seconds."""
        return self.coefficients.overhead_s + self.coefficients.weights_s


@dataclass(frozen=True)
class Work:
    """What the requests of a sample ask of a saturated engine.

    Attributes:
        seconds: s of every request, shape (n,).
        capacity_per_s: requests/s served in the sample's mix when saturated.
        batch_s: seconds of work left in a full batch.
    """

    seconds: Floats
    capacity_per_s: float
    batch_s: float


def effective_work(machine: BatchMachine, prompt: Floats, output: Floats) -> Work:
    """Work of a sample of requests; see the module.

    Args:
        machine: the engine.
        prompt: b, shape (n,), tokens, n >= 1.
        output: o, shape (n,), tokens.
    """
    c, h0 = machine.coefficients, machine.bare_step_s
    steps = output + np.ceil(prompt / machine.budget_tokens)
    own_s = (
        c.linear_s_per_token * prompt
        + c.attention_s_per_pair * prompt * prompt / 2
        + c.kv_read_s_per_token * output * (prompt + output / 2)
    )
    held = prompt + output / 2 + machine.block_tokens / 2
    limits = (
        held * steps / machine.kv_tokens,
        steps / machine.max_running,
        prompt / machine.budget_tokens,
    )
    binding = max(limits, key=lambda share: float(share.mean()))
    seconds = (own_s + h0 * binding) / SATURATED_SHARE
    capacity = 1.0 / float(seconds.mean())
    # Served evenly over its steps, a request in the batch has half of its work ahead.
    step_s = h0 / max(0.05, 1.0 - capacity * float(own_s.mean()))
    batch_s = capacity * float((seconds * steps).mean()) * step_s / 2
    return Work(seconds, capacity, batch_s)


def step_delays(machine: BatchMachine, prompt: Floats, rate_per_s: float, levels: Floats) -> Floats:
    """Quantiles of the time from a place in the batch to the first token, without own prefill.

    A request that nothing holds back waits for the rest of the step that runs, for the step that
    is scheduled already, and for its own, which prompts of others share.  Steps with prompts
    come in rows, so the second is drawn as the first is, by time, and the third half by number.

    Args:
        machine: the engine.
        prompt: sample of prompt tokens, shape (n,).
        rate_per_s: at which requests are served.
        levels: of the quantiles, shape (q,), in (0, 1).

    Returns:
        Seconds, shape (q,).
    """
    c, budget = machine.coefficients, machine.budget_tokens
    chunks = np.ceil(prompt / budget)
    last = np.quantile(prompt - (chunks - 1) * budget, (np.arange(8) + 0.5) / 8)
    tokens = np.concatenate([[budget], last])
    computed_s = c.overhead_s + np.maximum(c.weights_s, c.linear_s_per_token * tokens)
    bare_s = machine.bare_step_s
    step_s = np.concatenate([computed_s, [bare_s]])
    per_s = np.concatenate([[rate_per_s * float((chunks - 1).mean())], np.full(8, rate_per_s / 8)])
    busy = float(per_s @ computed_s)
    idle = max(0.05, 1.0 - busy)
    number = np.concatenate([per_s / max(1.0, busy + 0.05), [idle / bare_s]])
    by_time = number * step_s / float(number @ step_s)
    third = 0.5 * by_time + 0.5 * number / number.sum()
    part = np.array([0.125, 0.375, 0.625, 0.875])
    total = (
        (step_s[:, None] * part)[:, :, None, None]
        + step_s[:, None]
        + np.maximum(0.0, step_s - bare_s)
    )
    weight = (by_time[:, None] / len(part) * np.ones(len(part)))[:, :, None, None] * (
        by_time[:, None] * third
    )
    order = np.argsort(total, axis=None)
    reached = np.cumsum(weight.ravel()[order])
    places = np.searchsorted(reached, levels * reached[-1])
    return np.asarray(total.ravel()[order][places])
