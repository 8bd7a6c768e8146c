from __future__ import annotations

import subprocess
import sys
from importlib.metadata import EntryPoint

import pytest

from ewsjf_env.engine.simulated.vllm_config import load_vllm
from ewsjf_env.engine.stand_in.plugin import SWITCH, register


def test_plug_in_answers_only_when_switched_on(monkeypatch: pytest.MonkeyPatch) -> None:
    load_vllm()  # the class may only be imported by a vLLM that is already loading
    monkeypatch.delenv(SWITCH, raising=False)
    assert register() is None
    monkeypatch.setenv(SWITCH, "0")
    assert register() is None
    monkeypatch.setenv(SWITCH, "1")
    path = register()
    assert path is not None
    module, _, name = path.rpartition(".")
    assert EntryPoint("platform", f"{module}:{name}", "test").load().__name__ == name


def test_plug_in_imports_neither_vllm_nor_torch() -> None:
    code = (
        "import sys; from ewsjf_env.engine.stand_in.plugin import register; register();"
        "sys.exit(bool({'vllm', 'torch'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
