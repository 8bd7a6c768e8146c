"""The benchmark on tiny sizes: its arms do the same work, and it finds what is known to be."""

from __future__ import annotations

import itertools
import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from agents.cli.project.benchmark import main
from agents.experiments import benchmark
from agents.experiments.benchmark import (
    PACKAGE,
    STOCK,
    StepPlan,
    measure_simulation,
    measure_steps,
    own_share,
    profile_steps,
)
from ewsjf_env.engine.base import EngineError
from ewsjf_env.engine.simulated.config import SimulatedConfig
from ewsjf_env.engine.simulated.vllm_config import ewsjf_scheduler_class

TINY = StepPlan(
    waiting=(20, 50), running=4, arms=("fcfs", "ewsjf"), repeats=3, turns=2, turn_steps=4
)
BURNT_S = 0.002


def test_every_arm_is_compared_at_every_depth() -> None:
    costs = measure_steps(TINY)
    expected = [(w, a) for w in TINY.waiting for a in TINY.arms]
    assert [(c.waiting, c.arm) for c in costs] == expected
    for cost in costs:
        assert cost.ratio.low <= cost.ratio.value <= cost.ratio.high
        # The median of the ratios is near the ratio of the medians: both are of the same turns.
        assert cost.ratio.value == pytest.approx(cost.step_us / cost.stock_us, rel=0.5)


def test_time_that_a_scheduler_burns_is_found_to_the_millisecond(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    choose = ewsjf_scheduler_class

    def slow(asynchronous: bool) -> type[Any]:
        class Slow(choose(asynchronous)):  # type: ignore[misc]
            def schedule(self, *args: Any, **kwargs: Any) -> Any:
                end_s = time.process_time() + BURNT_S
                while time.process_time() < end_s:
                    pass
                return super().schedule(*args, **kwargs)

        return Slow

    monkeypatch.setattr(benchmark, "ewsjf_scheduler_class", slow)
    (cost,) = measure_steps(StepPlan((20,), 4, ("fcfs",), repeats=3, turns=2, turn_steps=4))
    assert cost.step_us - cost.stock_us > 1e6 * BURNT_S * 0.9
    assert cost.ratio.low > 1.0


def test_arms_keep_their_batch_full_and_their_backlog_as_deep() -> None:
    arms = benchmark._arms(20, TINY)
    ((running, waiting),) = {arm.counts() for arm in arms}
    assert running == TINY.running
    for arm in arms:
        arm.run(TINY.turn_steps)
    ((running, later),) = {arm.counts() for arm in arms}
    assert running == TINY.running
    assert abs(later - waiting) <= 2  # a finish takes a step or two to be noticed


def test_arms_that_did_other_work_are_not_compared() -> None:
    def arm(name: str, *counts: int) -> Any:
        return SimpleNamespace(name=name, counts=lambda: counts)

    benchmark._check_same_work([arm(STOCK, 4, 20), arm("fcfs", 4, 20)])
    with pytest.raises(EngineError, match=r"'fcfs': \(4, 19\)"):
        benchmark._check_same_work([arm(STOCK, 4, 20), arm("fcfs", 4, 19)])


def test_the_share_of_our_functions() -> None:
    rows: dict[Any, Any] = {
        (f"{PACKAGE}/serving/scheduler.py", 1, "schedule"): (1, 1, 3.0, 9.0, {}),
        ("/lib/vllm/scheduler.py", 1, "schedule"): (1, 1, 1.0, 1.0, {}),
    }
    assert own_share(SimpleNamespace(stats=rows)) == 0.75  # type: ignore[arg-type]
    assert 0 < own_share(profile_steps(TINY, "ewsjf", 20)) < 1
    assert own_share(profile_steps(TINY, STOCK, 20)) == 0


def test_speed_of_the_simulation(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count(0.0, 0.5).__next__  # half a second of CPU time a run
    monkeypatch.setattr(benchmark, "time", SimpleNamespace(process_time=clock))
    config = SimulatedConfig(max_num_seqs=4)
    speeds = measure_simulation(0.7, 20.0, repeats=2, backlog=60, config=config)
    assert [s.arm for s in speeds] == [STOCK, "fcfs", "ewsjf"]
    assert {s.speed.value for s in speeds} == {20.0 / 0.5}


def test_command_prints_a_table_and_writes_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "benchmark.json"
    sizes = ["--waiting", "20", "--running", "4", "--repeats", "2"]
    assert main([*sizes, "--orders", "hrrn", "--virtual", "0", "--out", str(path)]) == 0
    assert "hrrn" in capsys.readouterr().out
    [row] = json.loads(path.read_text())["steps"]
    assert (row["arm"], row["waiting"]) == ("hrrn", 20)
    assert row["ratio"]["low"] <= row["ratio"]["value"] <= row["ratio"]["high"]
    assert main([*sizes, "--profile", "ewsjf"]) == 0
    assert "in our functions" in capsys.readouterr().out


@pytest.mark.parametrize(
    "bad", [["--waiting", "0"], ["--running", "0"], ["--orders", "fcsf"], ["--repeats", "1"]]
)
def test_bad_input_is_one_line(bad: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*bad, "--virtual", "0"]) == 2
    assert capsys.readouterr().err.startswith("error: ")
