import json
from pathlib import Path

import pytest

from agents.cli.project.fidelity_grid import main
from agents.experiments.fidelity_grid import LOADS, ROWS, SYNTHETIC, settings_of, summarise
from ewsjf_env.scheduling.orders.registry import ORDERS


def test_the_grid_has_every_order_on_every_machine_and_depth() -> None:
    (orders,) = (row for row in ROWS if row.name == "orders")
    assert orders.policies.split(",") == list(ORDERS)
    settings = settings_of(None, 5.0, 0, [orders])
    assert len(settings) == 4 * 2 * len(SYNTHETIC) * len(LOADS)
    assert {setting.engine.async_scheduling for setting in settings} == {True, False}
    assert len({setting.engine.latency for setting in settings}) == 4


def test_an_interrupted_grid_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("agents.experiments.fidelity_grid.LOADS", (1.3,))
    monkeypatch.setattr("agents.experiments.fidelity_grid.SYNTHETIC", ("paper_mix",))
    arguments = ["--rows", "small cache", "--duration", "4", "--jobs", "1"]
    arguments += ["--out", str(tmp_path / "grid")]
    assert main(arguments) == 0
    found = json.loads((tmp_path / "grid/fidelity.json").read_text())
    assert found["total"]["cases"] == 4 * 2 * 3  # machines, depths, policies
    assert found["total"]["differing"] == 0 and found["differing"] == []
    assert found["total"]["first_tokens"] == found["total"]["first_tokens_equal"] > 100
    assert found["rows"]["small cache"] == found["total"]
    files = {p: p.stat().st_mtime_ns for p in (tmp_path / "grid/fidelity").glob("*.json")}
    assert main(arguments) == 0
    assert files == {p: p.stat().st_mtime_ns for p in (tmp_path / "grid/fidelity").glob("*.json")}
    assert "0 of" in capsys.readouterr().out


def test_what_differs_is_told() -> None:
    case = {"policy": "fcfs", "workload": "w", "seed": 0, "requests": 5, "differing": 2}
    case |= dict.fromkeys(("first_tokens", "first_tokens_equal", "finishes", "finishes_equal"), 1)
    case |= {"preemptions": 0, "preemptions_simulated": 1}
    result = {"row": "orders", "machine": "m", "depth": "d", "traffic": "t", "load": 1.0}
    found = summarise([{**result, "cases": [case, {**case, "differing": 0}]}])
    assert found["total"]["differing"] == found["orders"]["policy"]["fcfs"]["differing"] == 2
    assert [row["differing"] for row in found["differing"]] == [2]


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--rows", "order"], "--rows: unknown 'order'; nearest valid name: 'orders'"),
        (["--traces", "nowhere"], "--traces: nowhere is not a folder"),
        (["--duration", "0"], "--duration: 0.0 is outside"),
    ],
)
def test_bad_input(words: list[str], reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*words, "--out", "o"]) == 2
    assert reason in capsys.readouterr().err
