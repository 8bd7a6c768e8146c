"""C(b) of many prompts at once."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ewsjf_env.engine.simulated.latency import LatencyModel

Floats = NDArray[np.float64]


def prefill_costs_s(latency: LatencyModel, tokens: Any, budget_tokens: int) -> Floats:
    """`LatencyModel.prefill_s` of many prompts.

    Args:
        latency: the model.
        tokens: of each prompt, shape (n,).
        budget_tokens: of a step.
    """
    c = latency.coefficients
    b = np.asarray(tokens, np.int64)
    whole, rest = np.divmod(b, budget_tokens)
    linear_s = np.maximum(c.linear_s_per_token * rest, c.weights_s)
    last_s = c.overhead_s + linear_s + 0.0 + 0.0
    last_s = np.where((rest > c.captured_tokens) & (last_s < c.launch_s), c.launch_s, last_s)
    seconds = whole * latency.step_s(budget_tokens, 0, 0, 0.0)
    seconds = np.where(rest > 0, seconds + last_s, seconds)
    found: Floats = seconds + c.attention_s_per_pair * b * b / 2.0
    return found
