"""The configurations that ship: found by name in a checkout and in an installed package.

In a checkout (and in an editable installation) they lie in `configs/` beside the packages, to which
`ewsjf_env/configs` is a link; in a wheel that is the folder itself.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from ewsjf_env.config import ConfigError, nearest, refuse_irregular

Kind = Literal["env", "agents", "workloads", "latency", ""]
"""A folder of `configs`; "": the folder itself."""

SUFFIXES = (".yaml", ".yml", ".json")
_TOP = "configs"


def configs_folder() -> Path:
    """The folder of all configurations that ship."""
    return (Path(__file__).parent / _TOP).resolve()


def config_names(kind: Kind) -> list[str]:
    """Names of the configurations of a kind."""
    return sorted(p.stem for p in (configs_folder() / kind).glob("*") if p.suffix in SUFFIXES)


def find_config(given: str | Path, kind: Kind, where: str = "config") -> Path:
    """The file of a configuration that is given by its name or path.

    Args:
        given: a path; or a name, such as `tuning` of kind `env`.  A path that begins with
            `configs/` is found from any working directory.
        kind: of what is looked for.
        where: what the name was given for, in an error.

    Raises:
        ConfigError: no name, or a name, and not one of ours.  Whether a path exists is for the
            reader to say.
    """
    if not str(given):
        raise ConfigError(f"{where}: the name is empty{nearest('', config_names(kind))}")
    path = Path(given)
    try:
        if path.is_file():
            return path
    except OSError as error:  # a name that is too long, for example
        raise ConfigError(f"{where}: {str(given)[:80]!r}: {error.strerror}") from None
    if path.suffix in SUFFIXES:
        ours = configs_folder() / Path(*path.parts[1:])
        return ours if path.parts[:1] == (_TOP,) and ours.is_file() else path
    if len(path.parts) == 1:
        for suffix in SUFFIXES:
            ours = configs_folder() / kind / f"{given}{suffix}"
            if ours.is_file():
                return ours
    elif path.exists() or path.suffix:
        return path
    refuse_irregular(path)
    raise ConfigError(
        f"{where}: {str(given)!r} is neither a file nor the name of one of ours"
        f"{nearest(str(given), config_names(kind))}"
    )
