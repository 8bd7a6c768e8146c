from pathlib import Path
from typing import Any

import pytest

from agents.runs import fidelity
from agents.runs.config import make_run_config
from agents.runs.fidelity import check_run, needs_check, told
from agents.runs.folder import RunDir
from agents.runs.loop import tune

TASK: dict[str, Any] = {
    "windows": 2,
    "window_s": 10.0,
    "settle_s": 1.0,
    "warmup_s": 2.0,
    "reference": None,
    "objective": {"kind": "goodput"},
    "constraints": [],
}


def test_a_run_ends_with_a_check_of_its_traffic(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path / "run", make_run_config("random", TASK, windows=2))
    summary = tune(run, 2, fidelity_s=15.0)
    run.close()
    found = summary["fidelity"]
    assert summary["engine"].startswith("compiled ")
    assert found["seconds"] == 15.0 and found["requests"] > 30
    assert found["differing"] == 0 and found["finishes_equal"] == found["finishes"] > 0
    assert (
        told(found)
        == f"fidelity: all {found['requests']} requests of 15 s as by vLLM's own scheduler"
    )
    assert "2 of" in told({**found, "differing": 2}) and "engine=simulated" in told(
        {**found, "differing": 2}
    )


@pytest.mark.parametrize("engine", ["simulated", "fake"])
def test_other_engines_need_no_check(engine: str, tmp_path: Path) -> None:
    config = make_run_config("random", {**TASK, "engine": engine}, windows=1)
    assert not needs_check(config.task)
    if engine == "fake":
        run = RunDir.create(tmp_path / "run", config)
        assert tune(run, 1, fidelity_s=15.0)["fidelity"] is None
        run.close()


def test_without_vllm_nothing_is_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = make_run_config("random", TASK, windows=1)
    run = RunDir.create(tmp_path / "run", config)
    assert tune(run, 1)["fidelity"] is None
    (record,) = run.windows()
    run.close()
    monkeypatch.setattr(fidelity.importlib.util, "find_spec", lambda name: None)
    found = check_run(config.task, record, {}, 5.0)
    assert found == {"seconds": 5.0, "error": "vllm is not installed: nothing was compared"}
    assert "nothing was compared" in told(found)
