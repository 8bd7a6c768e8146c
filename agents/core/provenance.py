"""The state of the code that made a result."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ewsjf_env import __version__

ROOT = Path(__file__).resolve().parents[2]


def git_state() -> dict[str, Any] | None:
    """Commit and whether the working tree differs from it; None outside a checkout."""
    try:
        commit = _git("rev-parse", "HEAD")
        return {"commit": commit, "dirty": bool(_git("status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return None


def package_versions() -> dict[str, str | None]:
    """Versions of this project and of what its results depend on; None: not installed."""
    found: dict[str, str | None] = {"ewsjf_env": __version__, "python": sys.version.split()[0]}
    for package in ("vllm", "torch", "numpy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(ROOT), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    return done.stdout.strip()
