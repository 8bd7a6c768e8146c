"""KV blocks: how many are free and who holds them, with or without a prefix cache.

Without one, counts are enough.  With one, each block has a number, a count of users and, when it
is full, the number of its prefix (`prefixes.py`).  Free blocks form a list: the first is taken
next.  Blocks without a prefix return to its front, cached ones to its end, the last block of a
request first; a cached block is forgotten when it is taken.
"""

from __future__ import annotations

from ewsjf_env.engine.compiled.kernel.codes import NOBODY
from ewsjf_env.engine.compiled.kernel.compiler import inner
from ewsjf_env.engine.compiled.kernel.views import (
    View,
    blocks_of,
    cached_of,
    clock_of,
    free_rows_of,
    held_of,
    limits_of,
    prefixes_of,
    requests_of,
)


@inner
def blocks_for(block_tokens: int, tokens: int) -> int:
    """Blocks that so many tokens fill, the last one in part."""
    return (tokens + block_tokens - 1) // block_tokens


@inner
def hit_blocks(s: View, i: int, tokens: int) -> int:
    """Cached blocks at the start of a request of so many tokens, but never all of it."""
    requests, prefixes, cached = requests_of(s), prefixes_of(s), cached_of(s)
    limit = limits_of(s)
    if not limit.prefix_caching:
        return 0
    first, most, hit = requests[i].prefix, (tokens - 1) // limit.block_tokens, 0
    while hit < most and cached[0, prefixes[first + hit]] != NOBODY:
        hit += 1
    return hit


@inner
def uncached_tokens(s: View, i: int) -> int:
    """Prompt tokens that the prefix cache does not hold now, >= 1 (`serving/prefix.py`)."""
    requests, prefixes, cached = requests_of(s), prefixes_of(s), cached_of(s)
    limit, r = limits_of(s), requests[i]
    if not limit.prefix_caching:
        return r.prompt
    first, hit = r.prefix, r.probed
    if hit < 0 or (hit > 0 and cached[0, prefixes[first + hit - 1]] == NOBODY):
        hit = hit_blocks(s, i, r.prompt)
    else:
        most = (r.prompt - 1) // limit.block_tokens
        while hit < most and cached[0, prefixes[first + hit]] != NOBODY:
            hit += 1
    r.probed = hit
    return max(1, r.prompt - hit * limit.block_tokens)


@inner
def idle_blocks(s: View, i: int, hit: int) -> int:
    """Those of the first `hit` cached blocks that nobody uses: taking one costs a free block."""
    requests, blocks, prefixes, cached = requests_of(s), blocks_of(s), prefixes_of(s), cached_of(s)
    first, idle = requests[i].prefix, 0
    for j in range(hit):
        idle += blocks[cached[0, prefixes[first + j]]].users == 0
    return idle


@inner
def adopt_blocks(s: View, i: int, hit: int) -> None:
    """Begin to hold blocks: the cached ones that were found."""
    requests, blocks, held, free_rows, prefixes, cached = (
        requests_of(s),
        blocks_of(s),
        held_of(s),
        free_rows_of(s),
        prefixes_of(s),
        cached_of(s),
    )
    r, c = requests[i], clock_of(s)
    r.blocks = hit
    if not limits_of(s).prefix_caching:
        return
    c.free_rows -= 1
    r.row, r.kept = free_rows[c.free_rows], hit
    for j in range(hit):
        b = cached[0, prefixes[r.prefix + j]]
        if blocks[b].users == 0:
            _unlink_free(s, b)
        blocks[b].users += 1
        held[r.row, j] = b


@inner
def take_blocks(s: View, i: int, count: int) -> None:
    """Give a request so many free blocks more."""
    requests, blocks, held = requests_of(s), blocks_of(s), held_of(s)
    r, c = requests[i], clock_of(s)
    if not limits_of(s).prefix_caching:
        c.free_blocks -= count
        r.blocks += count
        return
    for _ in range(count):
        b = c.free_first
        _unlink_free(s, b)
        _forget(s, b)
        blocks[b].users = 1
        held[r.row, r.blocks] = b
        r.blocks += 1


@inner
def free_blocks(s: View, i: int) -> None:
    """Take all blocks of a request back."""
    requests, blocks, held, free_rows = requests_of(s), blocks_of(s), held_of(s), free_rows_of(s)
    r, c = requests[i], clock_of(s)
    if not limits_of(s).prefix_caching:
        c.free_blocks += r.blocks
        r.blocks = 0
        return
    if r.blocks == 0:
        return
    for j in range(r.blocks):
        b = held[r.row, j]
        blocks[b].users -= 1
        if blocks[b].users == 0 and blocks[b].prefix == NOBODY:
            _link_first(s, b)
    for j in range(r.blocks - 1, -1, -1):
        b = held[r.row, j]
        if blocks[b].users == 0 and blocks[b].prefix != NOBODY:
            _link_last(s, b)
    r.blocks = 0
    free_rows[c.free_rows] = r.row
    c.free_rows += 1


@inner
def keep_blocks(s: View, i: int, tokens: int) -> None:
    """Enter the full blocks of the first so many tokens into the prefix cache."""
    requests, blocks, held, prefixes, cached = (
        requests_of(s),
        blocks_of(s),
        held_of(s),
        prefixes_of(s),
        cached_of(s),
    )
    limit = limits_of(s)
    if not limit.prefix_caching:
        return
    r = requests[i]
    full = tokens // limit.block_tokens
    while r.kept < full:
        b, prefix = held[r.row, r.kept], prefixes[r.prefix + r.kept]
        last = cached[1, prefix]
        blocks[b].prefix, blocks[b].older, blocks[b].newer = prefix, last, NOBODY
        if last == NOBODY:
            cached[0, prefix] = b
        else:
            blocks[last].newer = b
        cached[1, prefix] = b
        r.kept += 1


@inner
def _forget(s: View, b: int) -> None:
    """Take a block out of the prefix cache."""
    blocks, cached = blocks_of(s), cached_of(s)
    block = blocks[b]
    if block.prefix == NOBODY:
        return
    if block.older == NOBODY:
        cached[0, block.prefix] = block.newer
    else:
        blocks[block.older].newer = block.newer
    if block.newer == NOBODY:
        cached[1, block.prefix] = block.older
    else:
        blocks[block.newer].older = block.older
    block.prefix = NOBODY


@inner
def _unlink_free(s: View, b: int) -> None:
    blocks = blocks_of(s)
    c, block = clock_of(s), blocks[b]
    if block.previous == NOBODY:
        c.free_first = block.following
    else:
        blocks[block.previous].following = block.following
    if block.following == NOBODY:
        c.free_last = block.previous
    else:
        blocks[block.following].previous = block.previous
    c.free_blocks -= 1


@inner
def _link_first(s: View, b: int) -> None:
    blocks = blocks_of(s)
    c, block = clock_of(s), blocks[b]
    block.previous, block.following = NOBODY, c.free_first
    if c.free_first == NOBODY:
        c.free_last = b
    else:
        blocks[c.free_first].previous = b
    c.free_first = b
    c.free_blocks += 1


@inner
def _link_last(s: View, b: int) -> None:
    blocks = blocks_of(s)
    c, block = clock_of(s), blocks[b]
    block.previous, block.following = c.free_last, NOBODY
    if c.free_last == NOBODY:
        c.free_first = b
    else:
        blocks[c.free_last].following = b
    c.free_last = b
    c.free_blocks += 1
