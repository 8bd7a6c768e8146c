"""A look at vLLM's prefix cache that leaves no trace: how much of a prompt is still to compute.

vLLM's own look-up counts hits and touches blocks when it admits a request.  This one does
neither: it asks which hashes are cached, as often as a policy likes.

A first look walks the blocks of the hit, as vLLM does once a request; the next ones cost O(1)
while the cache has not changed for this prompt.  With one group of full attention a cached block
implies that all before it are cached: blocks are freed from the end of a sequence and leave in
that order, and using a block uses those before it.  So if the last block of the hit is still
there and the one after is still not, nothing has changed; otherwise the hit grows block by
block, or is looked up anew.  Where that does not hold (sliding windows, several groups, EAGLE,
context parallelism) every look is a whole one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

_ONE_GROUP = [0]


class PrefixCache:
    """The prefix cache of one scheduler.

    Args:
        manager: vLLM's `KVCacheManager`.
    """

    def __init__(self, manager: Any) -> None:
        self.enabled = bool(manager.enable_caching)
        self._coordinator = manager.coordinator
        self.block_tokens = _simple_block_tokens(manager.coordinator) if self.enabled else 0

    def whole_look(self, request: Any) -> int:
        """Cached tokens at the start of a prompt, by vLLM's own search."""
        found = self._coordinator.find_longest_cache_hit(
            request.block_hashes, request.num_tokens - 1
        )
        return int(found[1])

    def has(self, block_hash: Any) -> bool:
        """Whether a block is cached; only where `block_tokens` > 0."""
        return self._coordinator.block_pool.get_cached_block(block_hash, _ONE_GROUP) is not None

    def probe(self, request: Any) -> Callable[[], int]:
        """A function that tells the uncached prompt tokens now."""
        if not self.enabled or request.skip_reading_prefix_cache:
            tokens = int(request.num_prompt_tokens)
            return lambda: tokens
        return PrefixProbe(self, request)


class PrefixProbe:
    """Uncached prompt tokens of one request; remembers the hit."""

    __slots__ = ("_cache", "_hit_blocks", "_request")

    def __init__(self, cache: PrefixCache, request: Any) -> None:
        self._cache = cache
        self._request = request
        self._hit_blocks: int | None = None

    def __call__(self) -> int:
        """Prompt tokens that are not cached now; touches neither statistics nor LRU order."""
        cache, request = self._cache, self._request
        if not cache.block_tokens:
            return int(request.num_prompt_tokens) - cache.whole_look(request)
        hit, hashes = self._hit_blocks, request.block_hashes
        if hit is None or (hit and not cache.has(hashes[hit - 1])):
            hit = cache.whole_look(request) // cache.block_tokens
        else:
            limit = min(len(hashes), (request.num_tokens - 1) // cache.block_tokens)
            while hit < limit and cache.has(hashes[hit]):
                hit += 1
        self._hit_blocks = hit
        return int(request.num_prompt_tokens) - hit * cache.block_tokens


def _simple_block_tokens(coordinator: Any) -> int:
    """Tokens of a block where a cached block implies those before it; 0 elsewhere.

    Read off names that have changed between releases before: what is not as expected is 0.
    """
    from vllm.v1.core.single_type_kv_cache_manager import FullAttentionManager

    managers: Any = getattr(coordinator, "single_type_managers", ())
    eagle = getattr(coordinator, "eagle_group_ids", None) or getattr(
        coordinator, "use_eagle", False
    )
    tokens = getattr(coordinator, "block_size", 0)
    pool = getattr(coordinator, "block_pool", None)
    simple = (
        type(coordinator).__name__ == "UnitaryKVCacheCoordinator"
        and len(managers) == 1
        and type(managers[0]) is FullAttentionManager
        and not eagle
        and getattr(pool, "hash_block_size", 0) == tokens
        and getattr(coordinator, "dcp_world_size", 1) == 1
        and getattr(coordinator, "pcp_world_size", 1) == 1
    )
    return int(tokens) if simple else 0
