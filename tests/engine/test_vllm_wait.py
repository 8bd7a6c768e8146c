"""The line before vLLM is imported: once, from the process that a person started."""

from __future__ import annotations

import contextlib
import multiprocessing
import sys
from types import ModuleType

import pytest

from ewsjf_env.engine.simulated import vllm_config

MODULE = "vllm.engine.arg_utils"


@pytest.fixture(autouse=True)
def _stop_before_the_import(monkeypatch: pytest.MonkeyPatch) -> None:
    def stop() -> contextlib.AbstractContextManager[None]:
        raise InterruptedError

    monkeypatch.setattr(vllm_config, "_simulated_platform", stop)


def begin_to_load() -> None:
    with pytest.raises(InterruptedError):
        vllm_config.load_vllm.__wrapped__()


def test_the_wait_is_told_before_the_import(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delitem(sys.modules, MODULE, raising=False)
    begin_to_load()
    assert capsys.readouterr() == ("", "loading vLLM ...\n")


def test_what_is_loaded_already_is_not_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, MODULE, ModuleType(MODULE))
    begin_to_load()
    assert capsys.readouterr().err == ""


def test_a_worker_is_silent(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delitem(sys.modules, MODULE, raising=False)
    monkeypatch.setattr(multiprocessing, "parent_process", multiprocessing.current_process)
    begin_to_load()
    assert capsys.readouterr().err == ""
