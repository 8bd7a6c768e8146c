"""The HTTP routes of the scheduler on vLLM's own API server."""
