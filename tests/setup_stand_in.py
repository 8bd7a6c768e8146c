"""A copy of the set-up scripts whose Python and uv note what they are asked instead of doing it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]

# What both installers do: note the request, then if told so be slow, die with all, or fail.
_INSTALL = """
    echo "$by ${VLLM_TARGET_DEVICE:+$VLLM_TARGET_DEVICE }$*" >>"$FAKE_LOG"
    [[ -z ${FAKE_SLOW:-} ]] || sleep "$FAKE_SLOW"
    [[ -z ${FAKE_KILL:-} || $* != *"$FAKE_KILL"* ]] || kill -9 0
    [[ -z ${FAKE_FAIL:-} || $* != *"$FAKE_FAIL"* ]] || { echo "${FAKE_MESSAGE:-}"; exit 1; }
"""

UV = f"""#!/usr/bin/env bash
by=uv
case "$*" in
    *--help) echo "--group" ;;
    --version) ;;
    "pip install "*) {_INSTALL} ;;
esac
"""

# `-m venv` makes a real, empty environment whose interpreter is this stand-in again.
PYTHON = f"""#!/usr/bin/env bash
by=pip
here=$(dirname "${{BASH_SOURCE[0]}}")
case "$*" in
    "-m venv "*)
        echo "venv" >>"$FAKE_LOG"
        mkdir -p "${{!#}}/bin" && cp "${{BASH_SOURCE[0]}}" "${{!#}}/bin/python"
        realpath "${{BASH_SOURCE[0]}}" >"${{!#}}/bin/home" ;;
    "-m pip install -q"*) false ;; # uv cannot be had
    "-m pip install"*) {_INSTALL} ;;
    *_base_executable*)
        home=$(cat "$here/home" 2>/dev/null || realpath "${{BASH_SOURCE[0]}}")
        [[ -n ${{FAKE_UNSUPPORTED:-}} ]] || echo "${{FAKE_VERSION:-3.11.7}} $home" ;;
    *torch.version.cuda*) exit "${{FAKE_CUDA_TORCH:-0}}" ;;
    scripts/export_policy.py*)
        echo "$*" >>"$FAKE_LOG"
        printf 'the result\n%s\n' "${{FAKE_ADVICE:-serve it: ewsjf serve}}"
        exit "${{FAKE_REFUSED:-0}}" ;;
    scripts/train.py*)
        echo "$*" >>"$FAKE_LOG"
        echo "recommended: k=2"
        echo "ewsjf export runs/quickstart/tuning --out policy.json"
        echo "tensorboard --logdir runs/quickstart/tuning" ;;
    scripts/* | "-m ruff"* | "-m mypy"* | "-m pytest"*) echo "$*" >>"$FAKE_LOG" ;;
    *torch* | "-m pip "*) ;;
    *) exec {sys.executable!r} "$@" ;;
esac
"""


class Setup:
    """A copy of the project's set-up files with the stand-ins in front of everything."""

    def __init__(self, folder: Path) -> None:
        self.project = folder / "project"
        self.bin = folder / "bin"
        self.log = folder / "log"
        self.bin.mkdir()
        shutil.copytree(ROOT / "scripts", self.project / "scripts")
        shutil.copytree(ROOT / ".ci", self.project / ".ci")
        shutil.copy(ROOT / "pyproject.toml", self.project)
        self.tool("python3", PYTHON)
        self.tool("uv", UV)
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

    def start(
        self, *args: str, script: str = "scripts/setup_env.sh", **variables: str
    ) -> subprocess.Popen[str]:
        kept = {
            k: v
            for k, v in os.environ.items()
            if not k.startswith(("EWSJF_", "FAKE_", "PIP_", "UV_", "VLLM_"))
        }
        path = f"{self.bin}{os.pathsep}{os.environ['PATH']}"
        return subprocess.Popen(
            ["bash", str(self.project / script), *args],
            env=kept | {"PATH": path, "FAKE_LOG": str(self.log)} | variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(
        self, *args: str, script: str = "scripts/setup_env.sh", **variables: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a script; the log then holds the requests of this run alone."""
        self.log.write_text("", encoding="utf-8")
        process = self.start(*args, script=script, **variables)
        stdout, stderr = process.communicate(timeout=60)
        return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)

    def requests(self) -> list[str]:
        """What the last run asked for: `venv`, `uv pip install ...`, `pip -m pip install ...`."""
        return self.log.read_text(encoding="utf-8").splitlines()
