"""Engines in real time: a vLLM in this process, or running servers."""
