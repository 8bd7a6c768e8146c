"""The simulated engine: vLLM's own scheduler and KV-cache manager on a virtual clock."""
