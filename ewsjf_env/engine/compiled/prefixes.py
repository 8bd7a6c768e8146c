"""Prefix numbers: two full KV blocks have the same one where all tokens up to their ends agree.

vLLM chains hashes of token ids; here the same classes are counted instead.  Token ids are those of
`engine/requests.py`: of a request's shared prefix blocks, of the request alone where nothing is
shared, and one and the same for everything generated.
"""

from __future__ import annotations

import numpy as np

from ewsjf_env.engine.compiled.kernel.state import Integers
from ewsjf_env.engine.simulated.trace_requests import SAMPLED_TOKEN
from ewsjf_env.workload.trace import BLOCK_TOKENS, BlockIds

Run = tuple[int, int]  # a token id and how often it stands in a row


def prefix_numbers(
    prompt: Integers, output: Integers, block_ids: BlockIds | None, block_tokens: int
) -> tuple[Integers, Integers, int]:
    """Numbers of all full blocks that requests may ever have.

    Args:
        prompt: tokens of each request, shape (n,).
        output: tokens that it will generate, shape (n,).
        block_ids: of the trace; None: no prompt shares anything.
        block_tokens: of a KV block.

    Returns:
        The numbers of all requests in a row; where each request's begin; how many there are.
    """
    counts = (prompt + output) // block_tokens
    starts = np.concatenate(([0], np.cumsum(counts)))
    total = int(starts[-1])
    if block_ids is None:
        return np.arange(total), starts[:-1], max(1, total)
    numbers = np.empty(total, np.int64)
    known: dict[tuple[int, tuple[Run, ...]], int] = {}
    for index, ids in enumerate(block_ids):
        parent, place = -1, int(starts[index])
        for content in _blocks(ids, int(prompt[index]), int(output[index]), block_tokens):
            parent = known.setdefault((parent, content), len(known))
            numbers[place] = parent
            place += 1
    return numbers, starts[:-1], max(1, len(known))


def _blocks(
    ids: tuple[int, ...], prompt: int, output: int, block_tokens: int
) -> list[tuple[Run, ...]]:
    """The contents of the full blocks of a request, as runs of equal token ids."""
    runs: list[list[int]] = []
    left = prompt
    for token in ids:
        length = min(BLOCK_TOKENS, left)
        left -= length
        _extend(runs, token, length)
    _extend(runs, SAMPLED_TOKEN, output)
    blocks, block, room = [], [], block_tokens
    for token, length in runs:
        if room < block_tokens:
            step = min(room, length)
            block.append((token, step))
            length, room = length - step, room - step
            if not room:
                blocks.append(tuple(block))
                block, room = [], block_tokens
        whole, rest = divmod(length, block_tokens)
        blocks += [((token, block_tokens),)] * whole
        if rest:
            block, room = [(token, rest)], block_tokens - rest
    return blocks


def _extend(runs: list[list[int]], token: int, length: int) -> None:
    if length <= 0:
        return
    if runs and runs[-1][0] == token:
        runs[-1][1] += length
    else:
        runs.append([token, length])
