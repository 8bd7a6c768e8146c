"""The partition of prompt lengths into queues: Refine-and-Prune, and its renewal."""
