"""The scheduler inside vLLM and what an operator may configure."""
