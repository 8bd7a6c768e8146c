"""The compiled engine: vLLM's scheduling request for request, in machine code by Numba.

Behaviour followed: vLLM 0.32 (text requests, one KV cache group of full attention) under the
scheduler class of this package, on the virtual clock of the simulated engine.
"""
