"""Effective work of a request in prompt tokens, as `scheduling.work` defines it.

The expected output is the caller's hint, or a quantile of what finished requests of the same
octave generated (`scheduling.expected_output`, without tenants).
"""

from __future__ import annotations

import numpy as np

from ewsjf_env.engine.compiled.kernel.blocks import uncached_tokens
from ewsjf_env.engine.compiled.kernel.codes import NOBODY
from ewsjf_env.engine.compiled.kernel.compiler import inner
from ewsjf_env.engine.compiled.kernel.state import OUTPUT_BINS
from ewsjf_env.engine.compiled.kernel.views import (
    View,
    bin_tokens_of,
    output_bin_of,
    output_counts_of,
    policy_of,
    requests_of,
)
from ewsjf_env.scheduling.orders.expected_output import LEAST, MEMORY


@inner
def octave(tokens: int) -> int:
    """Bits of a length."""
    bits = 0
    while tokens > 0:
        bits += 1
        tokens >>= 1
    return bits


@inner
def effective_tokens(s: View, i: int) -> int:
    """The work of a request now, >= 1; its length where the policy asks for no more."""
    requests = requests_of(s)
    p, b = policy_of(s), requests[i].prompt
    if p.w_cached == 0.0 and p.w_output == 0.0:
        return b
    work = float(b)
    if p.w_cached != 0.0:
        work -= p.w_cached * (b - uncached_tokens(s, i))
    if p.w_output != 0.0:
        work += p.w_output * expected_output(s, i)
    return max(1, int(np.rint(work)))


@inner
def expected_output(s: View, i: int) -> int:
    """Output tokens of a request; 0 where nothing is known."""
    requests, output_counts, bin_tokens = requests_of(s), output_counts_of(s), bin_tokens_of(s)
    p = policy_of(s)
    if p.use_hints and requests[i].hint != NOBODY:
        return requests[i].hint
    if p.use_learned:
        bits = octave(requests[i].prompt)
        total = output_counts[bits, OUTPUT_BINS]
        if total >= LEAST:
            limit, below = p.output_quantile * total, 0
            for position in range(OUTPUT_BINS):
                below += output_counts[bits, position]
                if below >= limit:
                    return bin_tokens[position]
            return bin_tokens[OUTPUT_BINS - 1]
    return 0


@inner
def learn_output(s: View, i: int) -> None:
    """Learn from a request that has finished how much is generated."""
    requests, output_counts, output_bin = requests_of(s), output_counts_of(s), output_bin_of(s)
    bits = octave(requests[i].prompt)
    if output_counts[bits, OUTPUT_BINS] >= MEMORY:
        total = 0
        for position in range(OUTPUT_BINS):
            output_counts[bits, position] //= 2
            total += output_counts[bits, position]
        output_counts[bits, OUTPUT_BINS] = total
    output_counts[bits, output_bin[requests[i].generated]] += 1
    output_counts[bits, OUTPUT_BINS] += 1
