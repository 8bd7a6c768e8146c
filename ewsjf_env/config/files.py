"""The files that commands read: regular ones, since reading a pipe or a device need not end."""

from __future__ import annotations

import stat
from pathlib import Path

from ewsjf_env.config.errors import ConfigError

MAX_TEXT_BYTES = 16 * 2**20
"""Of settings and models; traces have no limit, policies one of their own."""

_KINDS = (
    (stat.S_ISDIR, "directory"),
    (stat.S_ISFIFO, "named pipe"),
    (stat.S_ISSOCK, "socket"),
    (stat.S_ISCHR, "device"),
    (stat.S_ISBLK, "device"),
)


def refuse_irregular(path: str | Path) -> None:
    """Raise ConfigError where something is there that is not a regular file; links are followed.

    A file that is missing, or whose folder may not be searched, is left to whoever opens it.
    """
    try:
        mode = Path(path).stat().st_mode
    except (OSError, ValueError):  # ValueError: a NUL in the name
        return
    if not stat.S_ISREG(mode):
        kind = next((name for matches, name in _KINDS if matches(mode)), "special file")
        raise ConfigError(f"{path}: is a {kind}, not a regular file")


def read_text(path: str | Path, most_bytes: int = MAX_TEXT_BYTES) -> str:
    """The UTF-8 text of a regular file.

    Raises:
        ConfigError: naming the file: it is missing, no regular file, larger than `most_bytes`,
            may not be read, or is not UTF-8.
    """
    refuse_irregular(path)
    try:
        with Path(path).open("rb") as file:
            content = file.read(most_bytes + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"{path}: cannot be read: {reason}") from None
    if len(content) > most_bytes:
        raise ConfigError(f"{path}: is larger than {most_bytes} bytes")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{path}: is not UTF-8 text: byte {error.start} is {content[error.start]:#04x}"
        ) from None
