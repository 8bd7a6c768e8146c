"""What is simulated: the machine, vLLM's settings and the spread of step times.

The same settings serve both engines in virtual time, `compiled` and `simulated`.
"""

from __future__ import annotations

from dataclasses import field
from pathlib import Path
from typing import Annotated, Literal

from ewsjf_env.config import (
    ConfigError,
    Count,
    Natural,
    PositiveShare,
    Range,
    Share,
    check_range,
    from_dict,
    load_yaml,
    settings,
)
from ewsjf_env.measure.records import MetricSettings
from ewsjf_env.measure.service import ServiceLevel
from ewsjf_env.scheduling.tenants import TenantSettings

VIRTUAL = ("compiled", "simulated")
"""The engines that these are the settings of."""


@settings
class SimulatedConfig:
    """What is simulated."""

    latency: str = "llama2-13b_a100-80g"
    """Preset name (`engine/presets`) or path of a latency JSON file."""
    scheduler: Literal["ewsjf", "stock"] = "ewsjf"
    """`ewsjf` (our class) or `stock` (vLLM's own, first come first served)."""
    async_scheduling: bool = True
    """Schedule a step while the one before runs, as vLLM does by default."""
    max_num_seqs: Count = 256
    """Most running requests."""
    max_num_batched_tokens: Count = 2048
    """Token budget of a step."""
    long_prefill_token_threshold: Natural = 0
    """Most tokens of one prompt in a step while others are there (vLLM's option of that name);
    0: no limit.
    """
    max_model_len: Annotated[int, Range(2)] = 16384
    """Most prompt plus output tokens of a request; longer ones are capped."""
    block_tokens: Count = 16
    """Tokens of a KV block."""
    kv_blocks: Annotated[int, Range(2)] | None = None
    """Blocks of the KV cache; null computes them from the GPU's memory."""
    gpu_memory_utilization: PositiveShare = 0.9
    """Share of GPU memory vLLM may use."""
    prefix_caching: bool = False
    """Share KV blocks of equal prefixes."""
    chunked_prefill: bool = True
    """A prompt may be computed in several steps."""
    noise_sigma: Annotated[float, Range(0.0, 2.0)] = 0.0
    """Spread of a lognormal factor of mean 1 on step times; 0 is none."""
    noise_seed: Natural = 0
    """Seed of that factor, together with the trace."""
    scheduler_seed: Natural = 0
    """Seed of what the scheduler draws at random (the order `random`, samples)."""
    tenants: TenantSettings | None = None
    """How our scheduler shares service among tenants, see `TenantSettings`; of a trace the
    column `priority` is the tenant (`by: priority`); null: there are none.
    """
    service_levels: ServiceLevel | None = None
    """What requests are promised, for orders and lanes that know it; null: nothing."""
    hint_correlation: Share | None = None
    """Requests bring their output length as a hint, right up to noise: its rank correlation with
    the truth; null: they bring none.
    """
    hint_seed: Natural = 0
    """Seed of the noise on hints."""
    measure_overhead: bool = False
    """Report wall time per scheduler step (not reproducible)."""
    metrics: MetricSettings = field(default_factory=MetricSettings)
    """Class limits and service levels."""
    engine: Literal["compiled", "simulated"] = "compiled"
    """Who schedules: `compiled` (machine code, exact to the other and a thousand times faster) or
    `simulated` (vLLM's own scheduler and KV-cache manager).
    """

    def __post_init__(self) -> None:
        check_range(
            "long_prefill_token_threshold", self.long_prefill_token_threshold, 0, self.max_model_len
        )
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
