"""Machines: the numbers of a model on a GPU, as JSON presets, each with its source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ewsjf_env.config import ConfigError, check_range

PRESET_DIRECTORY = Path(__file__).parent / "presets"
MODEL_DIRECTORY = Path(__file__).parents[1] / "stand_in" / "models"


@dataclass(frozen=True)
class ModelShape:
    """What a decoder-only transformer costs.

    Attributes:
        name: a folder of `engine/models` that holds the model's config.json.
        parameters: all weights; they are read once a step.
        linear_parameters: weights that every token is multiplied with (2 FLOPs each).
        layers, attention_heads, kv_heads, head_size: shape of the attention.
        weight_bytes_per_parameter, kv_bytes_per_value: number format (2 for 16 bit).
    """

    name: str
    parameters: float
    linear_parameters: float
    layers: int
    attention_heads: int
    kv_heads: int
    head_size: int
    weight_bytes_per_parameter: float = 2.0
    kv_bytes_per_value: int = 2

    def __post_init__(self) -> None:
        for name in ("parameters", "linear_parameters", "weight_bytes_per_parameter"):
            check_range(f"model: {name}", getattr(self, name), 0.0, low_open=True)
        for name in ("layers", "attention_heads", "kv_heads", "head_size", "kv_bytes_per_value"):
            check_range(f"model: {name}", getattr(self, name), 1)

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


@dataclass(frozen=True)
class Gpu:
    """Data-sheet limits of the device (all devices together, when there are several)."""

    name: str
    memory_bandwidth_bytes_per_s: float
    peak_flops_per_s: float
    memory_bytes: float

    def __post_init__(self) -> None:
        for name in ("memory_bandwidth_bytes_per_s", "peak_flops_per_s", "memory_bytes"):
            check_range(f"gpu: {name}", getattr(self, name), 0.0, low_open=True)


@dataclass(frozen=True)
class Efficiency:
    """Share of the data-sheet limits that kernels reach, each in (0, 1]."""

    bandwidth: float
    linear_compute: float
    attention_compute: float

    def __post_init__(self) -> None:
        for name in ("bandwidth", "linear_compute", "attention_compute"):
            check_range(f"efficiency: {name}", getattr(self, name), 0.0, 1.0, low_open=True)


@dataclass(frozen=True)
class Machine:
    """One model on one device.

    Attributes:
        name: of the preset.
        step_overhead_s: time of a step that is neither memory nor compute (launches, sampling).
        activation_reserve_bytes: memory kept free for activations and graphs.
        sources: for every number above, by its dotted key, where it comes from.
    """

    name: str
    model: ModelShape
    gpu: Gpu
    efficiency: Efficiency
    step_overhead_s: float
    activation_reserve_bytes: float
    sources: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_range("step_overhead_s", self.step_overhead_s, 0.0)
        check_range("activation_reserve_bytes", self.activation_reserve_bytes, 0.0)

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
