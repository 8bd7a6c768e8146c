"""A model class without weights, for vLLM to inspect where nothing is computed.

vLLM asks the class named in config.json for its abilities.  For a class of its own it starts a
process that imports the model's whole code, tens of seconds on a cold machine; a class that is
registered as an object is asked in place.  The stand-in has the abilities of a plain
decoder-only text model and no weights.
"""

from __future__ import annotations

from typing import Any

import torch


class EwsjfSimulatedModel(torch.nn.Module):
    """A text-generation model by signature only; running it is an error."""

    def __init__(self, vllm_config: Any, prefix: str = "") -> None:
        """Take what vLLM passes to every model."""
        super().__init__()

    def embed_input_ids(self, input_ids: Any) -> Any:
        """Not available: nothing is computed."""
        raise NotImplementedError("the simulated model computes nothing")

    def forward(self, input_ids: Any, positions: Any) -> Any:
        """Not available: nothing is computed."""
        raise NotImplementedError("the simulated model computes nothing")

    def compute_logits(self, hidden_states: Any) -> Any:
        """Not available: nothing is computed."""
        raise NotImplementedError("the simulated model computes nothing")
