"""What the compiled engine can do of what may be configured; the rest is refused by name."""

from __future__ import annotations

from ewsjf_env.config import ConfigError
from ewsjf_env.engine.simulated.config import SimulatedConfig

_USE = "use engine: simulated"


def check_settings(config: SimulatedConfig) -> None:
    """Raise ConfigError for the first setting that only `engine: simulated` can follow."""
    refused = {
        "tenants": config.tenants,
        "measure_overhead": config.measure_overhead,
    }
    for name, value in refused.items():
        if value:
            raise ConfigError(f"{name}: {value!r} is not compiled; {_USE}")
