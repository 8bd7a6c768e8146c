"""Effective work of a request in prompt tokens, as `scheduling.work` defines it.

The expected output is the caller's hint, or a quantile of what finished requests of the same
octave generated (`scheduling.expected_output`, without tenants).
"""

from __future__ import annotations

import numpy as np

from ewsjf_env.engine.compiled.blocks import uncached_tokens
from ewsjf_env.engine.compiled.codes import NOBODY
from ewsjf_env.engine.compiled.compiler import inner
from ewsjf_env.engine.compiled.state import OUTPUT_BINS, State
from ewsjf_env.scheduling.expected_output import LEAST, MEMORY


@inner
def octave(tokens: int) -> int:
    """Bits of a length."""
    bits = 0
    while tokens > 0:
        bits += 1
        tokens >>= 1
    return bits


@inner
def effective_tokens(s: State, i: int) -> int:
    """The work of a request now, >= 1; its length where the policy asks for no more."""
    p, b = s.policy[0], s.requests[i].prompt
    if p.w_cached == 0.0 and p.w_output == 0.0:
        return b
    work = float(b)
    if p.w_cached != 0.0:
        work -= p.w_cached * (b - uncached_tokens(s, i))
    if p.w_output != 0.0:
        work += p.w_output * expected_output(s, i)
    return max(1, int(np.rint(work)))


@inner
def expected_output(s: State, i: int) -> int:
    """Output tokens of a request; 0 where nothing is known."""
    p = s.policy[0]
    if p.use_hints and s.requests[i].hint != NOBODY:
        return s.requests[i].hint
    if p.use_learned:
        bits = octave(s.requests[i].prompt)
        total = s.output_counts[bits, OUTPUT_BINS]
        if total >= LEAST:
            limit, below = p.output_quantile * total, 0
            for position in range(OUTPUT_BINS):
                below += s.output_counts[bits, position]
                if below >= limit:
                    return s.bin_tokens[position]
            return s.bin_tokens[OUTPUT_BINS - 1]
    return 0


@inner
def learn_output(s: State, i: int) -> None:
    """Learn from a request that has finished how much is generated."""
    bits = octave(s.requests[i].prompt)
    if s.output_counts[bits, OUTPUT_BINS] >= MEMORY:
        total = 0
        for position in range(OUTPUT_BINS):
            s.output_counts[bits, position] //= 2
            total += s.output_counts[bits, position]
        s.output_counts[bits, OUTPUT_BINS] = total
    s.output_counts[bits, s.output_bin[s.requests[i].generated]] += 1
    s.output_counts[bits, OUTPUT_BINS] += 1
