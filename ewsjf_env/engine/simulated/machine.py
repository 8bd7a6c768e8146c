"""Machines: the numbers of a model on a GPU, as JSON presets, each with its source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from pathlib import Path

from ewsjf_env.config import ConfigError, Count, NotNegative, Positive, PositiveShare, settings

PRESET_DIRECTORY = Path(__file__).parent / "presets"
MODEL_DIRECTORY = Path(__file__).parents[1] / "stand_in" / "models"


@settings
class ModelShape:
    """What a decoder-only transformer costs."""

    name: str
    """A folder of `engine/models` that holds the model's config.json."""
    parameters: Positive
    """All weights; they are read once a step."""
    linear_parameters: Positive
    """Weights that every token is multiplied with (2 FLOPs each)."""
    layers: Count
    """Layers of the transformer."""
    attention_heads: Count
    """Query heads of a layer."""
    kv_heads: Count
    """Key and value heads of a layer."""
    head_size: Count
    """Width of a head."""
    weight_bytes_per_parameter: Positive = 2.0
    """Bytes of a weight (2 for 16 bit)."""
    kv_bytes_per_value: Count = 2
    """Bytes of a key or value (2 for 16 bit)."""

    @property
    def weight_bytes(self) -> float:
        """Bytes of all weights."""
        return self.parameters * self.weight_bytes_per_parameter

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of keys and values of one token over all layers."""
        return 2 * self.layers * self.kv_heads * self.head_size * self.kv_bytes_per_value

    @property
    def attention_flops_per_pair(self) -> int:
        """FLOPs of one token attending to one position: Q K^T and P V, all layers."""
        return 4 * self.layers * self.attention_heads * self.head_size


@settings
class Gpu:
    """Data-sheet limits of the device (all devices together, when there are several)."""

    name: str
    """Name of the device."""
    memory_bandwidth_bytes_per_s: Positive
    """Memory bandwidth, bytes per second."""
    peak_flops_per_s: Positive
    """Dense floating-point operations per second in the model's number format."""
    memory_bytes: Positive
    """Memory, bytes."""


@settings
class Efficiency:
    """Share of the data-sheet limits that kernels reach."""

    bandwidth: PositiveShare
    """Share of the memory bandwidth."""
    linear_compute: PositiveShare
    """Share of the peak operations that matrix products with weights reach."""
    attention_compute: PositiveShare
    """Share of the peak operations that attention reaches."""


@settings
class Machine:
    """One model on one device."""

    name: str
    """Name of the preset."""
    model: ModelShape
    """Shape of the model."""
    gpu: Gpu
    """Limits of the device."""
    efficiency: Efficiency
    """Share of these limits that kernels reach."""
    step_overhead_s: NotNegative
    """Seconds of a step that are neither memory nor compute (launches, sampling)."""
    activation_reserve_bytes: NotNegative
    """Memory kept free for activations and graphs."""
    sources: Mapping[str, str] = field(default_factory=dict)
    """Where a number comes from, by its dotted key."""

    def kv_blocks(self, block_tokens: int, gpu_memory_utilization: float) -> int:
        """Blocks of `block_tokens` tokens that fit beside weights and activations.

        Raises:
            ConfigError: when not one block fits.
        """
        usable = self.gpu.memory_bytes * gpu_memory_utilization
        free = usable - self.model.weight_bytes - self.activation_reserve_bytes
        blocks = int(free // (self.model.kv_bytes_per_token * block_tokens))
        if blocks < 1:
            raise ConfigError(
                f"gpu_memory_utilization: {gpu_memory_utilization:g} of "
                f"{self.gpu.memory_bytes:.4g} bytes leaves no room for a KV block beside "
                f"{self.model.weight_bytes:.4g} bytes of weights"
            )
        return blocks


def preset_names() -> list[str]:
    """Names of the shipped presets."""
    return sorted(path.stem for path in PRESET_DIRECTORY.glob("*.json"))
