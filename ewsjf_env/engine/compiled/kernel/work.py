"""Effective work of a request in prompt tokens, as `scheduling.work` defines it.

The expected output is the caller's hint, or a quantile of what finished requests of the same
octave generated, of the same tenant or of all (`scheduling.expected_output`).
"""

from __future__ import annotations

import numpy as np

from ewsjf_env.engine.compiled.kernel.blocks import uncached_tokens
from ewsjf_env.engine.compiled.kernel.codes import NOBODY
from ewsjf_env.engine.compiled.kernel.compiler import inner
from ewsjf_env.engine.compiled.kernel.state import OCTAVES, OUTPUT_BINS
from ewsjf_env.engine.compiled.kernel.views import (
    View,
    bin_tokens_of,
    limits_of,
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
        everybody = octave(requests[i].prompt)
        row = everybody
        if limits_of(s).tenants:
            row += (requests[i].account + 1) * OCTAVES
            if output_counts[row, OUTPUT_BINS] < LEAST:
                row = everybody
        total = output_counts[row, OUTPUT_BINS]
        if total >= LEAST:
            limit, below = p.output_quantile * total, 0
            for position in range(OUTPUT_BINS):
                below += output_counts[row, position]
                if below >= limit:
                    return bin_tokens[position]
            return bin_tokens[OUTPUT_BINS - 1]
    return 0


@inner
def learn_output(s: View, i: int, ran: bool) -> None:
    """Learn from a request that has finished how much is generated.

    Args:
        s: the state.
        i: the request.
        ran: at the end; of one that waited nobody knows the tenant.
    """
    row = octave(requests_of(s)[i].prompt)
    _count_output(s, row, i)
    if limits_of(s).tenants and ran:
        _count_output(s, row + (requests_of(s)[i].account + 1) * OCTAVES, i)


@inner
def _count_output(s: View, row: int, i: int) -> None:
    requests, output_counts, output_bin = requests_of(s), output_counts_of(s), output_bin_of(s)
    if output_counts[row, OUTPUT_BINS] >= MEMORY:
        total = 0
        for position in range(OUTPUT_BINS):
            output_counts[row, position] //= 2
            total += output_counts[row, position]
        output_counts[row, OUTPUT_BINS] = total
    output_counts[row, output_bin[requests[i].generated]] += 1
    output_counts[row, OUTPUT_BINS] += 1
