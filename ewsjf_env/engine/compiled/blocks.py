"""KV blocks: how many are free, and how many each request holds."""

from __future__ import annotations

from ewsjf_env.engine.compiled.compiler import inner
from ewsjf_env.engine.compiled.state import State


@inner
def blocks_for(s: State, tokens: int) -> int:
    """Blocks that so many tokens fill, the last one in part."""
    block_tokens = s.limits[0].block_tokens
    return (tokens + block_tokens - 1) // block_tokens


@inner
def uncached_tokens(s: State, i: int) -> int:
    """Prompt tokens that the prefix cache does not hold now, >= 1."""
    return s.requests[i].prompt


@inner
def take_blocks(s: State, i: int, blocks: int) -> None:
    """Give a request so many blocks more."""
    s.clock[0].free_blocks -= blocks
    s.requests[i].blocks += blocks


@inner
def free_blocks(s: State, i: int) -> None:
    """Take all blocks of a request back."""
    s.clock[0].free_blocks += s.requests[i].blocks
    s.requests[i].blocks = 0


@inner
def hit_blocks(s: State, i: int, tokens: int) -> int:
    """Cached blocks at the start of a request of so many tokens, but never all of it."""
    return 0


@inner
def idle_blocks(s: State, i: int, hit: int) -> int:
    """Those of the first `hit` cached blocks that nobody uses: taking them costs a free block."""
    return 0


@inner
def adopt_blocks(s: State, i: int, hit: int) -> None:
    """Use the cached blocks that were found."""


@inner
def keep_blocks(s: State, i: int, tokens: int) -> None:
    """Enter the full blocks of the first so many tokens into the prefix cache."""
