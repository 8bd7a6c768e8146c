"""What is simulated: the machine, vLLM's settings and the spread of step times."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ewsjf_env.config import ConfigError, check_range, from_dict, load_yaml
from ewsjf_env.measure.records import MetricSettings
from ewsjf_env.scheduling.tenants import TenantSettings


@dataclass(frozen=True)
class SimulatedConfig:
    """What is simulated.

    Attributes:
        latency: preset name (`engine/presets`) or path of a latency JSON file.
        scheduler: `ewsjf` (our class) or `stock` (vLLM's own, first come first served).
        async_scheduling: schedule a step while the one before runs, as vLLM does by default.
        max_num_seqs: most running requests.
        max_num_batched_tokens: token budget of a step.
        long_prefill_token_threshold: most tokens of one prompt in a step while others are there
            (vLLM's option of that name); 0: no limit.
        max_model_len: most prompt plus output tokens of a request; longer ones are capped.
        block_tokens: tokens of a KV block.
        kv_blocks: blocks of the KV cache; None computes them from the GPU's memory.
        gpu_memory_utilization: share of GPU memory vLLM may use, in (0, 1].
        prefix_caching: share KV blocks of equal prefixes.
        chunked_prefill: a prompt may be computed in several steps.
        noise_sigma: spread of a lognormal factor of mean 1 on step times; 0 is none.
        noise_seed: of that factor, together with the trace.
        scheduler_seed: of what the scheduler draws at random (the order `random`, samples).
        tenants: how our scheduler shares service among tenants, see `TenantSettings`; of a trace
            the column `priority` is the tenant (`by: priority`); None: there are none.
        hint_correlation: requests bring their output length as a hint, right up to noise: its
            rank correlation with the truth, [0, 1]; None: they bring none.
        hint_seed: of that noise.
        measure_overhead: report wall time per scheduler step (not reproducible).
        metrics: class limits and service levels.
    """

    latency: str = "llama2-13b_a100-80g"
    scheduler: Literal["ewsjf", "stock"] = "ewsjf"
    async_scheduling: bool = True
    max_num_seqs: int = 256
    max_num_batched_tokens: int = 2048
    long_prefill_token_threshold: int = 0
    max_model_len: int = 16384
    block_tokens: int = 16
    kv_blocks: int | None = None
    gpu_memory_utilization: float = 0.9
    prefix_caching: bool = False
    chunked_prefill: bool = True
    noise_sigma: float = 0.0
    noise_seed: int = 0
    scheduler_seed: int = 0
    tenants: TenantSettings | None = None
    hint_correlation: float | None = None
    hint_seed: int = 0
    measure_overhead: bool = False
    metrics: MetricSettings = field(default_factory=MetricSettings)

    def __post_init__(self) -> None:
        check_range("max_num_seqs", self.max_num_seqs, 1)
        check_range("max_num_batched_tokens", self.max_num_batched_tokens, 1)
        check_range("max_model_len", self.max_model_len, 2)
        check_range(
            "long_prefill_token_threshold", self.long_prefill_token_threshold, 0, self.max_model_len
        )
        check_range("block_tokens", self.block_tokens, 1)
        if self.kv_blocks is not None:
            check_range("kv_blocks", self.kv_blocks, 2)
        check_range("gpu_memory_utilization", self.gpu_memory_utilization, 0.0, 1.0, low_open=True)
        check_range("noise_sigma", self.noise_sigma, 0.0, 2.0)
        check_range("noise_seed", self.noise_seed, 0)
        check_range("scheduler_seed", self.scheduler_seed, 0)
        check_range("hint_seed", self.hint_seed, 0)
        if self.hint_correlation is not None:
            check_range("hint_correlation", self.hint_correlation, 0.0, 1.0)
        if self.scheduler == "stock" and (self.tenants or self.hint_correlation is not None):
            raise ConfigError("tenants, hint_correlation: scheduler 'stock' has a use for neither")
        if self.max_num_batched_tokens < self.max_num_seqs:
            raise ConfigError(
                f"max_num_batched_tokens: {self.max_num_batched_tokens} is below max_num_seqs "
                f"({self.max_num_seqs}): not every running request could decode in a step"
            )
        if not self.chunked_prefill and self.max_num_batched_tokens < self.max_model_len:
            raise ConfigError(
                f"max_num_batched_tokens: {self.max_num_batched_tokens} is below max_model_len "
                f"({self.max_model_len}), which needs chunked_prefill: true"
            )

    @classmethod
    def load(cls, path: str | Path) -> SimulatedConfig:
        """Read a YAML file; keys that are not given keep their defaults."""
        return from_dict(cls, load_yaml(path), str(path))
