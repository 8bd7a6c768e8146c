"""The start of a command, where Ctrl-C is one line at any moment.

A command imports torch, Optuna and more, which takes seconds, before it can look after itself.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

INTERRUPTED = 130


def run(module: str, argv: Sequence[str] | None = None) -> int:
    """The exit code of the command `main` of `module`; 130 after Ctrl-C.

    Args:
        module: with a function `main` that takes the arguments and returns an exit code.
        argv: without the program's name; None: those of this process.
    """
    try:
        code: int = importlib.import_module(module).main(argv)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    return code


def start(module: str) -> None:
    """Exit with the code of the command `main` of `module`."""
    sys.exit(run(module))
