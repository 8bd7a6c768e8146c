"""What the compiled engine can do of what may be configured; the rest is refused by name."""

from __future__ import annotations

from ewsjf_env.config import ConfigError
from ewsjf_env.engine.simulated.config import SimulatedConfig

_USE = "use engine: simulated"


def check_settings(config: SimulatedConfig) -> None:
    """Raise ConfigError for the first setting that only `engine: simulated` can follow."""
    if config.measure_overhead:
        raise ConfigError(f"measure_overhead: True is not compiled; {_USE}")
