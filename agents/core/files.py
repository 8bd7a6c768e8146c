"""How does a file grow by whole chunks only, whatever ends the process or fills the disk?

A kill can leave part of a chunk at the end; a full disk, too.  Whoever opens the file again says
how much of it is whole, and the rest is overwritten.  A chunk that could not be written waits in
memory for the next attempt, so that chunks never change their order.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path


class AppendFile:
    """A file of one writer; open only while a chunk is written.

    Args:
        path: of the file; made by the first chunk.
        whole: content found -> number of its first bytes to keep, >= 0.

    Raises:
        OSError: there is a file and it cannot be read.
    """

    def __init__(self, path: Path, whole: Callable[[bytes], int]) -> None:
        self._path = path
        self._size = whole(path.read_bytes()) if path.exists() else 0
        self._waiting = b""

    @property
    def empty(self) -> bool:
        """True when nothing was kept, and nothing written or given to write since."""
        return self._size + len(self._waiting) == 0

    def append(self, chunk: bytes) -> None:
        """Write what waits, then `chunk`; all of it is with the kernel on return.

        Raises:
            OSError: nothing was lost: everything waits for the next call.
        """
        self._waiting += chunk
        # A file that somebody deleted meanwhile is not made again: it would lack its beginning.
        with self._path.open("r+b" if self._size else "wb", buffering=0) as file:
            file.seek(self._size)
            file.truncate()
            rest = memoryview(self._waiting)
            while rest:
                rest = rest[file.write(rest) :]
        self._size, self._waiting = self._size + len(self._waiting), b""


def write_json(path: Path, data: object) -> None:
    """Atomically: a reader, or a second process on the same folder, sees a whole file or none."""
    write_text(path, json.dumps(data, allow_nan=False, indent=1) + "\n")


def write_text(path: Path, text: str) -> None:
    """Like `write_json`, for text; UTF-8."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        error.filename = error.filename or str(path)  # a full disk does not name the file
        raise
    finally:
        temporary.unlink(missing_ok=True)
