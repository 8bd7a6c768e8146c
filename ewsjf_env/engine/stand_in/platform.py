"""A platform without a device, as vLLM asks about it.

Imported by vLLM itself, through the plug-in of `platform.py`.  No kernel ever runs here: the
class answers the questions asked while a configuration is made and leaves the rest to its base.
"""

from __future__ import annotations

from typing import Any

import torch
from vllm.platforms.interface import Platform, PlatformEnum

DEFAULT_BLOCK_TOKENS = 16


class SimulatedPlatform(Platform):
    """A device without kernels; tensors, where vLLM makes any, live on the CPU.

    `is_cpu()` is true, so that vLLM's shut-down does not ask torch for an accelerator, yet
    nothing of vLLM's own CPU platform applies: asynchronous scheduling stays possible.
    """

    _enum = PlatformEnum.CPU
    device_name = "simulated"
    device_type = "cpu"
    dispatch_key = "CPU"
    dist_backend = "gloo"
    device_control_env_var = "CUDA_VISIBLE_DEVICES"

    @classmethod
    def get_device_name(cls, device_id: int = 0) -> str:
        """Name shown in logs."""
        return "simulated"

    @classmethod
    def get_device_total_memory(cls, device_id: int = 0) -> int:
        """Bytes; only used by vLLM to guess defaults that we set ourselves."""
        return 80 << 30

    @classmethod
    def inference_mode(cls) -> Any:
        """Torch context without gradients."""
        return torch.no_grad()

    @classmethod
    def check_and_update_config(cls, vllm_config: Any) -> None:
        """Switch off what needs kernels; called by vLLM while it makes a configuration."""
        from vllm.config import CompilationMode, CUDAGraphMode

        if not vllm_config.cache_config.user_specified_block_size:
            vllm_config.cache_config.block_size = DEFAULT_BLOCK_TOKENS
        vllm_config.compilation_config.mode = CompilationMode.NONE
        vllm_config.compilation_config.cudagraph_mode = CUDAGraphMode.NONE

    @classmethod
    def update_block_size_for_backend(cls, vllm_config: Any) -> None:
        """Keep the block size: there is no attention backend to ask."""

    @classmethod
    def get_attn_backend_cls(cls, *args: Any, **kwargs: Any) -> str:
        """No attention backend."""
        return ""

    @classmethod
    def is_pin_memory_available(cls) -> bool:
        """No device memory to copy to."""
        return False
