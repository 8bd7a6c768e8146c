"""The memory gate: whom the KV cache lets in.  Beyond the paper.

vLLM admits who is next while the cache has room for its prompt, and waits where it has none: a
long prompt at the head keeps short ones out that would fit, and one that just fits leaves nothing
for the requests that run, which are preempted.  The gate lets a request pass where

    blocks(uncached prompt) + reserve <= free blocks now
    reserve = ceil(kv_reserve * blocks of the cache)     for prompts above `reserve_above_tokens`
            = 0                                          for others, and where nobody runs

and passes a head over that does not fit, where the order has queues (in others the step closes).
So it does with a tenant whose next request does not fit, and with a late request.  Each is passed
over by at most `PASS_LIMIT` requests while it would be next: after these it stays next, whatever it
needs, and everybody waits until it fits.

Preempted and overdue requests go first as ever, and the gate does not ask them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from ewsjf_env.parameters import Value, linear, log
from ewsjf_env.scheduling.entry import Entry

PASS_LIMIT = 64
MEMORY_PARAMETERS = (
    linear(
        "kv_reserve",
        0.0,
        low=0.0,
        high=0.5,
        named=True,
        generation=4,
        description="share of the KV cache that long prompts leave free; 0: no memory gate",
    ),
    log(
        "reserve_above_tokens",
        512.0,
        low=1.0,
        high=65536.0,
        unit="tokens",
        named=True,
        generation=4,
        description="prompts above it leave the reserve free",
    ),
)


class Cache(Protocol):
    """The KV cache as the gate sees it."""

    @property
    def total_blocks(self) -> int:
        """Blocks of the cache."""

    def free_blocks(self) -> int:
        """Blocks that nobody uses now; O(1)."""

    def running(self) -> int:
        """Requests that run now; O(1)."""


@dataclass(frozen=True)
class MemoryGate:
    """A gate that is on.

    Attributes:
        cache: whose blocks are asked for.
        block_tokens: size of a block.
        reserve_blocks: that long prompts leave free.
        above_tokens: prompts above it are long.
    """

    cache: Cache
    block_tokens: int
    reserve_blocks: int
    above_tokens: float

    @classmethod
    def of(
        cls, values: Mapping[str, Value], cache: Cache | None, block_tokens: int
    ) -> MemoryGate | None:
        """The gate of a policy's parameters; None where it is off, or where there is no cache."""
        share = float(values.get("kv_reserve", 0.0))
        if cache is None or share <= 0.0:
            return None
        reserve = math.ceil(share * cache.total_blocks)
        return cls(cache, block_tokens, reserve, float(values["reserve_above_tokens"]))

    def lets_in(self, entry: Entry) -> bool:
        """Whether an entry may be next, at this moment."""
        if entry.passed >= PASS_LIMIT:
            return True
        needed = -(-entry.uncached_tokens // self.block_tokens)
        if entry.prompt_tokens > self.above_tokens and self.cache.running():
            needed += self.reserve_blocks
        return needed <= self.cache.free_blocks()
