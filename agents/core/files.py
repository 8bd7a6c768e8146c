"""Files that no kill and no full disk leaves half written: lines that are added, whole texts.

A line is in a file whole or not at all when the writer goes on; what a killed process left of one
at the end is cut by who opens the file next.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
from pathlib import Path


class LineFile:
    """A file of whole lines with one writer.

    Args:
        path: of the file; made by the first line.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def mend(self) -> None:
        """Cut what a killed writer left of a line.

        Raises:
            OSError: the file cannot be read or written.
        """
        content = self._content()
        if content and not content.endswith(b"\n"):
            with self.path.open("rb+") as file:
                file.truncate(content.rfind(b"\n") + 1)

    def lines(self) -> list[bytes]:
        """All whole lines, without their ends; none where there is no file.

        Raises:
            OSError: the file cannot be read.
        """
        return self._content().split(b"\n")[:-1]

    def append(self, *rows: object) -> None:
        """Add a line of JSON for each row; they are on the disk when this returns.

        Raises:
            OSError: the disk is full, for example; the file then ends as it did before.
            ValueError: a number of a row is NaN or infinite.
        """
        texts = [json.dumps(row, allow_nan=False, separators=(",", ":")) + "\n" for row in rows]
        content = "".join(texts).encode()
        with self.path.open("ab", buffering=0) as file:
            end = file.seek(0, os.SEEK_END)
            try:
                if file.write(content) != len(content):
                    raise OSError("only a part of the line could be written")
                os.fsync(file.fileno())
            except OSError as error:
                file.truncate(end)
                error.filename = error.filename or str(self.path)  # a full disk does not name it
                raise

    def _content(self) -> bytes:
        return self.path.read_bytes() if self.path.exists() else b""


def write_json(path: Path, data: object) -> None:
    """Atomically: a reader, or a second process on the same folder, sees a whole file or none."""
    write_text(path, json.dumps(data, allow_nan=False, indent=1) + "\n")


def check_writable(path: Path) -> None:
    """Try what `write_text` will do, and leave nothing: before work whose result goes there.

    Raises:
        OSError: the file cannot be written.  That the disk will be full is not foreseen.
    """
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if path.exists() and not os.access(path, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
    temporary = _temporary(path)
    try:
        temporary.touch()
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def write_text(path: Path, text: str) -> None:
    """Like `write_json`, for text; UTF-8."""
    temporary = _temporary(path)
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        error.filename = error.filename or str(path)  # a full disk does not name the file
        raise
    finally:
        temporary.unlink(missing_ok=True)


def _temporary(path: Path) -> Path:
    """What is written first, beside the file, and takes its place when it is whole."""
    return path.with_name(f"{path.name}.{os.getpid()}.tmp")
