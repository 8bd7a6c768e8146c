"""How does a script start, so that Ctrl-C is one line at any moment?

A command imports torch, Optuna and more, which takes seconds, before it can look after itself.
"""

from __future__ import annotations

import importlib
import sys

INTERRUPTED = 130


def start(module: str) -> None:
    """Exit with the code of the command `main` of `module`; 130 after Ctrl-C.

    Args:
        module: with a function `main` that takes no argument and returns an exit code.
    """
    try:
        code = importlib.import_module(module).main()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = INTERRUPTED
    sys.exit(code)
