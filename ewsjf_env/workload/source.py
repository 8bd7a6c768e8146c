"""The bytes of a trace file as lines of text; every damage is one clear error.

Compression is recognised by content, not by name: a `.gz` file that is not gzip is refused,
and a gzip file with another name is read.
"""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, cast

from ewsjf_env.config import ConfigError, nearest, refuse_irregular

GZIP_MAGIC = b"\x1f\x8b"
MAX_LINE_CHARACTERS = 16 * 1024 * 1024


class MissingTrace(ConfigError):
    """A trace file that is not there; raised by `read_lines`."""


def read_lines(path: Path) -> Iterator[str]:
    """Yield the lines of a text file, plain or gzip, with their line ends.

    Raises:
        ConfigError: the file is missing, no regular file, unreadable, empty, binary, not gzip in
            spite of its name, or gzip that is cut off or damaged.
    """
    _refuse_missing(path)
    refuse_irregular(path)
    line_number = 0
    try:
        with path.open("rb") as raw:
            for line_number, line in enumerate(_decode(path, raw), start=1):
                if "\0" in line:
                    raise ConfigError(f"{path}: row {line_number}: binary data, not text")
                if len(line) >= MAX_LINE_CHARACTERS:
                    raise ConfigError(
                        f"{path}: row {line_number}: longer than {MAX_LINE_CHARACTERS} "
                        "characters: not a trace"
                    )
                yield line
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{path}: after row {line_number}: binary data, not UTF-8 text ({error.reason})"
        ) from None
    except EOFError:
        raise ConfigError(
            f"{path}: after row {line_number}: truncated gzip file (ends before its end mark)"
        ) from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise ConfigError(f"{path}: after row {line_number}: damaged gzip file ({error})") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from None
    if line_number == 0:
        raise ConfigError(f"{path}: the file is empty; expected a header and at least one row")


def _decode(path: Path, raw: IO[bytes]) -> Iterator[str]:
    is_gzip = cast(io.BufferedReader, raw).peek(2)[:2] == GZIP_MAGIC
    if path.suffix == ".gz" and not is_gzip:
        if not cast(io.BufferedReader, raw).peek(1):
            raise ConfigError(f"{path}: the file is empty; expected gzip data")
        raise ConfigError(f"{path}: not a gzip file in spite of its name '.gz'")
    data = cast(IO[bytes], gzip.GzipFile(fileobj=raw)) if is_gzip else raw
    # newline="" keeps line ends inside quoted CSV fields; utf-8-sig drops a byte order mark
    with io.TextIOWrapper(data, encoding="utf-8-sig", newline="") as text:
        while line := text.readline(MAX_LINE_CHARACTERS):
            yield line


def _refuse_missing(path: Path) -> None:
    try:
        is_folder = path.is_dir()
        if path.exists() and not is_folder:
            return
        siblings = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"{str(path)[:80]!r}: cannot be read: {reason}") from None
    if is_folder:
        raise ConfigError(f"{path}: is a directory; expected a trace file")
    close = nearest(path.name, siblings)
    hint = close.replace("nearest valid name", "nearest file there") if "nearest" in close else ""
    raise MissingTrace(f"{path}: no such file{hint}")
