"""Decorators that compile: `inner` for what other compiled code calls, `entry` for the way in.

Only entries are cached on disk.  Numba's own cache knows the file of the function alone, so a
change in a file that it calls would go unseen; here the digest of the whole folder is part of the
key.  Where no folder can be written the compilation is repeated in each process.
"""

from __future__ import annotations

import functools
import hashlib
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

from numba import njit
from numba.core.caching import FunctionCache

F = TypeVar("F", bound=Callable[..., Any])


@functools.cache
def _digest() -> str:
    files = sorted(Path(__file__).parents[1].rglob("*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


class _FolderCache(FunctionCache):
    """Numba's cache of one function, with the sources of the whole folder in its key."""

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """What is cached, see Numba; where nothing is, the wait is told once in a process."""
        found = super().load_overload(sig, target_context)  # type: ignore[no-untyped-call]
        if found is None:
            _say_wait()
        return found

    def _index_key(self, sig: Any, codegen: Any) -> Any:
        key = super()._index_key(sig, codegen)  # type: ignore[no-untyped-call]
        return (*key, _digest())


@functools.cache
def _say_wait() -> None:
    print("compiling the engine (kept for later, some 20 s) ...", file=sys.stderr, flush=True)


def inner(function: F) -> F:
    """Compile a function that only compiled code calls."""
    options: Any = {
        "nogil": True,
        "no_cpython_wrapper": True,
        "no_cfunc_wrapper": True,
        "error_model": "numpy",
    }
    return cast(F, njit(**options)(function))


def entry(function: F) -> F:
    """Compile a function that Python calls, without the interpreter's lock; cached on disk."""
    compiled: Any = njit(nogil=True, error_model="numpy")(function)
    try:
        compiled._cache = _FolderCache(function)  # type: ignore[no-untyped-call]
    except RuntimeError:  # no folder to write to
        warnings.warn(
            "engine compiled: no folder for Numba's cache can be written, so each process compiles "
            "anew (some 20 s); set NUMBA_CACHE_DIR to one that can",
            stacklevel=2,
        )
    return cast(F, compiled)
