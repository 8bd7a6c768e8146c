"""Settings of the stand-in executor, in `additional_config["ewsjf_simulated"]`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from ewsjf_env.config import ConfigError, Range, from_dict, settings

KEY = "ewsjf_simulated"
MAX_SPEED = 1000.0


@settings
class ExecutorSettings:
    """Settings of the simulated executor."""

    latency: str = "llama2-13b_a100-80g"
    """Preset name (`engine/presets`) or path of a latency JSON file."""
    speed: Annotated[float, Range(0.0, MAX_SPEED, low_open=True)] = 1.0
    """How many times as fast as the model the machine is. Step times are divided by it; nothing
    else is: a wait limit in seconds stays in real seconds.
    """

    @classmethod
    def from_additional_config(cls, additional_config: object) -> ExecutorSettings:
        """Read the `ewsjf_simulated` entry of vLLM's `additional_config`; absent is all defaults.

        Raises:
            ConfigError: unknown key or illegal value.
        """
        config = additional_config if isinstance(additional_config, Mapping) else {}
        data = config.get(KEY, {})
        where = f"additional_config[{KEY!r}]"
        if not isinstance(data, Mapping):
            raise ConfigError(f"{where}: expected a mapping, got {data!r}")
        return from_dict(cls, data, where)
