"""The settings that `ewsjf serve` hands to the engine: a file that an environment variable names.

    EWSJF_SETTINGS=~/.local/state/ewsjf/serve/3f2a91c0d4be.json
    --additional-config {"ewsjf": {"settings": "EWSJF_SETTINGS"}}

vLLM's `VllmConfig.compute_hash`, the key of its compile cache, covers all of `additional_config`:
a policy in it means a cold compile for every policy.  This entry is the same for all.  Nor has a
command line or a variable room for a policy of more than 128 kB.

A file is named by its content and never changed, so that what was checked is what is served, also
when the policy file changes or disappears before the engine reads it, or when an engine is added
later.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ewsjf_env.config import ConfigError, refuse_irregular
from ewsjf_env.policy.policy import MAX_FILE_BYTES
from ewsjf_env.strict_json import read_json

VARIABLE = "EWSJF_SETTINGS"
KEY = "settings"
ENTRY: Mapping[str, str] = {KEY: VARIABLE}
_MOST_BYTES = 2 * MAX_FILE_BYTES  # a policy, and tenants by name


def hand_over(settings: Mapping[str, Any], environment: Mapping[str, str]) -> Path:
    """Write settings for an engine that starts later.

    Args:
        settings: the `ewsjf` entry of `additional_config`, as it would be given by hand.
        environment: of this process; XDG_STATE_HOME and HOME say where files of state go.

    Returns:
        The absolute path, in a folder of the temporary ones where the state's cannot be written.

    Raises:
        ConfigError: neither can be written.
    """
    content = json.dumps(settings, allow_nan=False).encode()
    name = f"{hashlib.sha256(content).hexdigest()[:12]}.json"
    folder = _state_folder(environment)
    if folder is not None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            return _write(folder / name, content)
        except OSError:
            pass  # a home that is read-only, as in many containers
    try:
        return _write(Path(tempfile.mkdtemp(prefix="ewsjf-serve-")) / name, content)
    except OSError as error:
        raise ConfigError(
            f"XDG_STATE_HOME: {str(folder)!r} and the folder of temporary files: the settings "
            f"cannot be written: {error.strerror}"
        ) from None


def take_over(entry: Mapping[str, Any], environment: Mapping[str, str], where: str) -> Any:
    """The settings that the entry `{"settings": "EWSJF_SETTINGS"}` stands for.

    Args:
        entry: of `additional_config`, with the key `settings`.
        environment: of this process.
        where: what to call the entry in an error.

    Raises:
        ConfigError: another entry than that, or no file that can be read.
    """
    if dict(entry) != ENTRY:
        raise ConfigError(f"{where}: {KEY}: expected {dict(ENTRY)!r} and no other key")
    path = environment.get(VARIABLE)
    if not path:
        raise ConfigError(
            f"{where}: {KEY}: the environment variable {VARIABLE} is not set in this process; "
            "`ewsjf serve` sets it, and by hand a policy is given as policy_file"
        )
    refuse_irregular(path)
    try:
        with Path(path).open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"{VARIABLE}: {path!r} cannot be read: {reason}") from None
    return read_json(content, f"{VARIABLE}: {path!r}", _MOST_BYTES)


def _state_folder(environment: Mapping[str, str]) -> Path | None:
    root, home = environment.get("XDG_STATE_HOME"), environment.get("HOME")
    if root and Path(root).is_absolute():  # the rule for these folders: others are ignored
        return Path(root) / "ewsjf" / "serve"
    return Path(home) / ".local" / "state" / "ewsjf" / "serve" if home else None


def _write(path: Path, content: bytes) -> Path:
    """Whole or not at all; readable by this user alone, as the policies of a service should be."""
    path = path.absolute()
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        try:
            file.write(content)
            file.flush()
            Path(file.name).replace(path)
        except OSError:
            Path(file.name).unlink(missing_ok=True)
            raise
    return path
