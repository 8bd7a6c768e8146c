"""The KV cache of vLLM's scheduler, as the memory gate asks for it."""

from __future__ import annotations

from typing import Any


class SchedulerCache:
    """A `scheduling.memory.Cache`; reads vLLM's own block accounting at the moment.

    Args:
        scheduler: vLLM's, complete.
    """

    def __init__(self, scheduler: Any) -> None:
        self._scheduler = scheduler
        self._pool = scheduler.kv_cache_manager.block_pool

    @property
    def total_blocks(self) -> int:
        """See `Cache`."""
        return int(self._pool.num_gpu_blocks)

    def free_blocks(self) -> int:
        """See `Cache`."""
        return int(self._pool.get_num_free_blocks())

    def running(self) -> int:
        """See `Cache`."""
        return len(self._scheduler.running)
