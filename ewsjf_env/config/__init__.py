"""Settings: how they are declared, read from files and command lines, and refused in one line."""

from ewsjf_env.config.declared import from_dict, settings, to_dict
from ewsjf_env.config.errors import (
    ConfigError,
    check_range,
    closest,
    nearest,
    refuse_unknown,
    shown,
)
from ewsjf_env.config.fields import (
    Among,
    Count,
    Distinct,
    Instance,
    Names,
    Natural,
    NotNegative,
    Positive,
    PositiveShare,
    Range,
    Share,
)
from ewsjf_env.config.files import read_text, refuse_irregular
from ewsjf_env.config.overrides import overridden
from ewsjf_env.config.yaml_file import load_yaml, parse_yaml

__all__ = [
    "Among",
    "ConfigError",
    "Count",
    "Distinct",
    "Instance",
    "Names",
    "Natural",
    "NotNegative",
    "Positive",
    "PositiveShare",
    "Range",
    "Share",
    "check_range",
    "closest",
    "from_dict",
    "load_yaml",
    "nearest",
    "overridden",
    "parse_yaml",
    "read_text",
    "refuse_irregular",
    "refuse_unknown",
    "settings",
    "shown",
    "to_dict",
]
