"""vLLM in the engine's own process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ewsjf_env.config import ConfigError, from_dict
from ewsjf_env.engine.real.live import LiveConfig, LiveEngine
from ewsjf_env.engine.stand_in.model_folder import model_folder
from ewsjf_env.engine.stand_in.plugin import SWITCH

ROOT = Path(__file__).parents[2]


@pytest.mark.live
def test_keeps_the_contract(tmp_path: Path) -> None:
    folder = model_folder("llama2-13b_a100-80g", tmp_path / "llama2-13b")
    changes = {"VLLM_WORKER_MULTIPROC_METHOD": "fork", "PYTHONPATH": str(ROOT), SWITCH: "1"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.engine.live_contract", str(folder)],
        cwd=ROOT,
        env={**os.environ, **changes},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-8000:]
    told = done.stdout.splitlines()
    assert "test_closes_twice_and_then_refuses" in told
    assert told[-1] == "refused"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"modl": "x"}, "unknown key 'modl'; nearest valid name: 'model'"),
        ({"arguments": {"model": "x"}}, "'model' is set by the engine"),
        ({"simulate": {"speed": 0.0}}, "speed"),
        ({"timeout_s": 0.0}, "timeout_s"),
    ],
)
def test_bad_settings_are_refused(data: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_dict(LiveConfig, data, "live")


def test_a_model_is_needed_but_not_before_the_start() -> None:
    engine = LiveEngine()
    engine.close()
    with pytest.raises(ConfigError, match="model: is missing"):
        LiveConfig().engine_arguments()
