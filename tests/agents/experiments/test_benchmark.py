"""The benchmark on tiny sizes: it runs, its arms do the same work, its figures make sense."""

import json
import math

import pytest

from agents.cli.project.benchmark import main
from agents.experiments.benchmark import (
    STOCK,
    StepPlan,
    measure_simulation,
    measure_steps,
    own_share,
    profile_steps,
)
from ewsjf_env.engine.simulated.config import SimulatedConfig

TINY = StepPlan(
    waiting=(20, 50), running=4, arms=("fcfs", "ewsjf"), repeats=3, turns=2, turn_steps=4
)


def is_positive(estimate):
    return 0 < estimate.low <= estimate.value <= estimate.high < math.inf


def test_every_arm_is_compared_at_every_depth():
    costs = measure_steps(TINY)
    expected = [(w, a) for w in TINY.waiting for a in TINY.arms]
    assert [(c.waiting, c.arm) for c in costs] == expected
    assert all(is_positive(c.ratio) and c.step_us > 0 and c.stock_us > 0 for c in costs)


def test_only_our_arm_spends_time_in_our_functions():
    assert 0 < own_share(profile_steps(TINY, "ewsjf", 20)) < 1
    assert own_share(profile_steps(TINY, STOCK, 20)) == 0


def test_speed_of_the_simulation():
    config = SimulatedConfig(max_num_seqs=4)
    speeds = measure_simulation(0.7, 20.0, repeats=2, backlog=60, config=config)
    assert [s.arm for s in speeds] == [STOCK, "fcfs", "ewsjf"]
    assert all(is_positive(s.speed) for s in speeds)


def test_command_prints_a_table_and_writes_json(tmp_path, capsys):
    path = tmp_path / "benchmark.json"
    sizes = ["--waiting", "20", "--running", "4", "--repeats", "2"]
    assert main([*sizes, "--orders", "hrrn", "--virtual", "0", "--out", str(path)]) == 0
    assert "hrrn" in capsys.readouterr().out
    [row] = json.loads(path.read_text())["steps"]
    assert row["arm"] == "hrrn" and row["ratio"]["value"] > 0
    assert main([*sizes, "--profile", "ewsjf"]) == 0
    assert "in our functions" in capsys.readouterr().out


@pytest.mark.parametrize(
    "bad", [["--waiting", "0"], ["--running", "0"], ["--orders", "fcsf"], ["--repeats", "1"]]
)
def test_bad_input_is_one_line(bad, capsys):
    assert main([*bad, "--virtual", "0"]) == 2
    assert capsys.readouterr().err.startswith("error: ")
