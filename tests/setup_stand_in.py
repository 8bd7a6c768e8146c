"""A copy of the set-up scripts whose interpreter notes the pip commands instead of running them."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]

# `-m venv` makes a real, empty environment whose interpreter is this stand-in again.
STAND_IN = f"""#!/usr/bin/env bash
real=$(dirname "${{BASH_SOURCE[0]}}")/real-python
[[ -x $real ]] || real={sys.executable!r}
case "$*" in
    "-m venv "*)
        echo "venv" >>"$FAKE_LOG"
        "$real" -m venv --without-pip "${{!#}}" || exit 1
        base=$(readlink -f "${{!#}}/bin/python")
        rm -f "${{!#}}"/bin/python*
        ln -s "$base" "${{!#}}/bin/real-python"
        cp "${{BASH_SOURCE[0]}}" "${{!#}}/bin/python" ;;
    "-m pip install"*)
        echo "${{VLLM_TARGET_DEVICE:+$VLLM_TARGET_DEVICE }}$*" >>"$FAKE_LOG"
        if [[ -n ${{FAKE_FAIL:-}} && $* == *"$FAKE_FAIL"* ]]; then
            echo "${{FAKE_MESSAGE:-}}"
            exit 1
        fi ;;
    "-m pip check") ;;
    *version_info*) echo "${{FAKE_VERSION:-3.11.7}}" ;;
    *ensurepip*) [[ -z ${{FAKE_NO_VENV:-}} ]] ;;
    *torch.__version__*) echo "${{FAKE_CUDA_TORCH:-}}" ;;
    *"import torch") ;;
    scripts/* | "-m ruff"* | "-m mypy"* | "-m pytest"*) echo "$*" >>"$FAKE_LOG" ;;
    *) exec "$real" "$@" ;;
esac
"""


class Setup:
    """A copy of the project's set-up files with a stand-in interpreter in front of everything."""

    def __init__(self, folder: Path) -> None:
        self.project = folder / "project"
        self.bin = folder / "bin"
        self.log = folder / "log"
        self.bin.mkdir()
        shutil.copytree(ROOT / "scripts", self.project / "scripts")
        shutil.copytree(ROOT / ".ci", self.project / ".ci")
        shutil.copy(ROOT / "pyproject.toml", self.project)
        self.tool("python3", STAND_IN)
        self.tool("nvidia-smi", "exit 9")
        self.disk(100)

    def tool(self, name: str, text: str) -> Path:
        path = self.bin / name
        path.write_text(text if text.startswith("#!") else f"#!/bin/sh\n{text}\n", encoding="utf-8")
        path.chmod(0o755)
        return path

    def disk(self, gib: int) -> None:
        self.tool("df", f"echo header; echo disk 0 0 {gib * 1024 * 1024} 0% /")

    @property
    def venv(self) -> Path:
        return self.project / ".venv"

    def run(
        self, *args: str, script: str = "scripts/setup_env.sh", **variables: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a script; the log then holds the commands of this run alone."""
        self.log.write_text("", encoding="utf-8")
        kept = {
            k: v for k, v in os.environ.items() if not k.startswith(("EWSJF_", "FAKE_", "PIP_"))
        }
        path = f"{self.bin}{os.pathsep}{os.environ['PATH']}"
        return subprocess.run(
            ["bash", str(self.project / script), *args],
            env=kept | {"PATH": path, "FAKE_LOG": str(self.log)} | variables,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
        )

    def commands(self) -> list[str]:
        return self.log.read_text(encoding="utf-8").splitlines()

    def stages(self) -> list[str]:
        """Which of the stages' telling words the commands of the last run held, in order."""
        words = (
            "venv",
            "pip>=25.1",
            "setuptools-scm",
            "--no-binary",
            "torch==2.13.0",
            "--editable",
        )
        return [next(w for w in words if w in line.split()) for line in self.commands()]
