"""The offline scan: each point beside first come first served, on traces that nobody judges by."""

from __future__ import annotations

from pathlib import Path
from unittest import mock

import pytest

from agents.core.progress import silent
from agents.experiments.source import Source
from agents.experiments.static_search import ScanPlan, candidates, scan
from ewsjf_env.engine.simulated.config import SimulatedConfig
from ewsjf_env.measure.objective import relative_objective
from ewsjf_env.measure.records import WindowMetrics
from ewsjf_env.policy.policy import parse_policy
from ewsjf_env.seeds import TRAINING
from tests.agents.experiments.evaluations import write_trace
from tests.agents.single_server import SingleServer

ENGINE = SimulatedConfig()
PLAN = ScanPlan(("exponent",), 2, (2.0, 2.5), seeds=2, duration_s=20.0)


@pytest.fixture(autouse=True)
def single_server() -> object:
    with mock.patch("agents.experiments.policy_runs.cached_engine", SingleServer) as patched:
        yield patched


def test_points_are_scored_on_training_traces_and_sorted(tmp_path: Path) -> None:
    source = Source(str(write_trace(tmp_path / "trace.csv")), is_trace=True)
    base = parse_policy("hrrn")
    found = scan(base, source, ENGINE, PLAN, tmp_path / "scan", 1, silent)
    assert [r.objective for r in found] == sorted((r.objective for r in found), reverse=True)
    asked = candidates(base, PLAN)
    assert [v for v in asked if v not in [r.values for r in found]] == []
    assert len(found) == len(asked) == 3

    served, reference = SingleServer(), SingleServer()
    served.install(base)
    reference.install(parse_policy("fcfs"))
    scores = []
    for rate in PLAN.rates_per_s:
        for seed in (TRAINING.start, TRAINING.start + 1):
            windows = []
            for engine in (served, reference):
                engine.reset(source.load().draw(seed, PLAN.duration_s, rate))
                windows.append(engine.run_window(PLAN.duration_s))
            scores.append(relative_objective(*windows).total)
    own = next(r for r in found if r.values == asked[0])
    assert own.objective == pytest.approx(sum(scores) / len(scores))
    assert len(own.metrics) == len(scores)
    assert WindowMetrics.from_dict(own.metrics[0]).window_s == PLAN.duration_s


def test_finished_runs_serve_more_points_and_other_plans(tmp_path: Path) -> None:
    source = Source(str(write_trace(tmp_path / "trace.csv")), is_trace=True)
    base, folder = parse_policy("hrrn"), tmp_path / "scan"
    first = scan(base, source, ENGINE, PLAN, folder)
    files = {path: path.stat().st_mtime_ns for path in (folder / "runs").iterdir()}
    assert scan(base, source, ENGINE, PLAN, folder) == first
    (more,) = scan(base, source, ENGINE, PLAN, folder, points=[{"exponent": 3.0}])
    assert more.values == {"exponent": 3.0}
    after = {path: path.stat().st_mtime_ns for path in (folder / "runs").iterdir()}
    assert files.items() <= after.items()
    assert len(after) == len(files) + 4  # two rates, two traces; those of fcfs were there
