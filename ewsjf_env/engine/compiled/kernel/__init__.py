"""The kernel: compiled functions of a step, from the clock down to KV blocks."""
