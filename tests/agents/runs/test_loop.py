"""A run repeats itself to the byte, also when it was stopped, and outlives its engines."""

from __future__ import annotations

import functools
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest

from agents.runs.config import make_run_config
from agents.runs.folder import RunDir
from agents.runs.loop import Progress, tune
from agents.runs.view import open_view
from ewsjf_env.config import ConfigError
from ewsjf_env.engine.base import EngineError
from tests.agents.curves import curves, event_file, read, table
from tests.agents.run_folders import GUARDED, SHORT, go_on, make_run, records_of

WINDOWS = 10  # of episodes of 4
CONTEXT = ("arrival_rate_per_s",)
SETTINGS: dict[str, Any] = {
    "bayes": {"startup_points": 2, "search": {"candidates": 32, "refinements": 1}},
    "tpe": {"startup_points": 3},
    "sac": {"learning_starts": 3, "batch_size": 4, "net_arch": [8]},
}
TASKS = {"free": SHORT, "guarded": GUARDED}


@pytest.fixture(scope="module")
def whole() -> Any:
    """Uninterrupted runs by agent and task, made when they are asked for."""
    with tempfile.TemporaryDirectory() as folder:
        yield functools.cache(lambda agent, task: started(Path(folder), agent, task, WINDOWS))


def started(folder: Path, agent: str, task: str, windows: int) -> Path:
    path = folder / f"{agent}_{task}"
    return make_run(path, agent, windows, CONTEXT, SETTINGS.get(agent), **TASKS[task])


def lines(folder: Path) -> bytes:
    return (folder / "windows.jsonl").read_bytes()


@pytest.mark.parametrize("agent", ["default", "random", "bayes", "sac"])
def test_a_run_repeats_itself(whole: Any, tmp_path: Path, agent: str) -> None:
    again = started(tmp_path, agent, "free", WINDOWS)
    assert lines(again) == lines(whole(agent, "free"))
    assert len(records_of(again)) == WINDOWS


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("agent", ["bayes", "tpe", "sac", "random"])
def test_a_resumed_run_is_the_uninterrupted_one(
    whole: Any, tmp_path: Path, agent: str, task: str
) -> None:
    expected = whole(agent, task)
    run = started(tmp_path, agent, task, 3)  # amid an episode
    go_on(run, 8)  # at the end of one
    summary = go_on(run, WINDOWS)
    assert lines(run) == lines(expected)
    assert summary == RunDir.open(expected).summary()
    assert go_on(run, WINDOWS) == summary  # nothing left to do
    assert lines(run) == lines(expected)
    proposals = [r.plan.proposed for r in records_of(run)]
    assert len({json.dumps(p) for p in proposals}) > 4


@pytest.mark.parametrize("agent", ["random", "bayes", "tpe", "sac"])
def test_all_else_is_made_again_from_windows_and_configuration(
    whole: Any, tmp_path: Path, agent: str
) -> None:
    """As if nothing had happened: every other file of the run is lost, amid an episode."""
    expected = whole(agent, "guarded")
    run = started(tmp_path, agent, "guarded", 7)
    for path in run.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name not in ("config.yaml", "windows.jsonl"):
            path.unlink()
    assert go_on(run, WINDOWS) == RunDir.open(expected).summary()
    assert lines(run) == lines(expected)
    assert curves(run) == curves(expected)
    assert table(run) == table(expected)
    for tag in ("frontier/short_long_p95", "partition/over_lengths"):
        ours, theirs = (read(folder).Images(tag) for folder in (run, expected))
        assert [(i.step, i.encoded_image_string) for i in ours] == [
            (i.step, i.encoded_image_string) for i in theirs
        ]
    ours, theirs = (
        {path.name for path in folder.iterdir()} - {event_file(folder).name}
        for folder in (run, expected)
    )
    assert ours - {"command.txt"} == theirs - {"command.txt"}


def test_the_guard_serves_what_the_agent_recommends(whole: Any) -> None:
    records = records_of(whole("bayes", "guarded"))
    space = open_view(whole("bayes", "guarded")).task.space()
    modes = [r.guard.report.mode for r in records if r.guard is not None]
    assert {"candidate", "control"} <= set(modes)
    for record in records:
        trusted = [float(x) for x in space.to_box(record.plan.incumbent)]
        assert record.guard is not None
        assert list(record.guard.before.incumbent) == trusted
        if record.guard.report.mode in ("control", "rollback", "held"):
            assert record.served.values == space.from_box(trusted)
    assert len({json.dumps(r.plan.incumbent) for r in records}) > 1


def test_an_export_has_the_agent_of_the_last_window(whole: Any) -> None:
    for agent in ("bayes", "sac", "random"):
        view = open_view(whole(agent, "free"))
        summary = RunDir.open(whole(agent, "free")).summary()
        assert summary is not None
        last = view.records[-1].agent.context
        assert view.agent().recommend(last) == summary["recommendation"]


def test_progress_is_reported(tmp_path: Path) -> None:
    config = make_run_config("sobol", SHORT, windows=2)
    run = RunDir.create(tmp_path / "run", config)
    seen: list[Progress] = []
    tune(run, 1, seen.append)
    tune(run, 2, seen.append)
    run.close()
    assert [(p.window, p.windows) for p in seen] == [(0, 1), (1, 2)]
    records = records_of(tmp_path / "run")
    assert [p.reward for p in seen] == [r.score.reward for r in records]
    assert seen[1].incumbent == records[1].plan.incumbent


def test_fewer_windows_than_done(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", "default", 3, **SHORT)
    before = lines(run)
    with pytest.raises(ConfigError, match="windows: 2 is fewer than the 3 that are done"):
        go_on(run, 2)
    assert lines(run) == before


def test_another_environment_is_noticed(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", "default", 3, **SHORT)
    records = [json.loads(line) for line in lines(run).splitlines()]
    records[1]["score"]["reward"] += 1e-9
    (run / "windows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    with pytest.raises(ConfigError, match="window 1: served again its reward is"):
        go_on(run, 4)


# --- engines that fail


def dying(at_s: float) -> dict[str, Any]:
    """A task whose engine dies at that second of each episode; windows take 6 s after 2."""
    return {**SHORT, "fake": {**SHORT["fake"], "fail_at_s": at_s}}


@pytest.mark.parametrize("agent", ["bayes", "random", "sac"])
def test_a_failed_window_is_not_the_end(tmp_path: Path, agent: str) -> None:
    settings = SETTINGS.get(agent)
    run = make_run(tmp_path / "run", agent, 7, CONTEXT, settings, **dying(10.0))
    records = records_of(run)
    reason = "the fake engine died at 10 s, as configured"
    assert [r.served.failure for r in records] == [None, reason] * 3 + [None]
    assert [r.plan.episode for r in records] == [0, 0, 1, 1, 2, 2, 3]  # a new engine and trace
    assert [r.agent.ended for r in records] == [False, True] * 3 + [False]
    assert {r.score.reward for r in records if r.served.failure} == {-5.0}
    summary = RunDir.open(run).summary()
    assert summary is not None
    assert summary["failed"] == 3
    assert summary["reward_worst"] > -5.0  # of measured windows
    assert open_view(run).agent().windows == 7

    torn = make_run(tmp_path / "torn", agent, 2, CONTEXT, settings, **dying(10.0))
    go_on(torn, 5)
    go_on(torn, 7)
    assert lines(torn) == lines(run)


def test_five_failures_in_a_row_end_the_run(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="5 windows in a row failed, the last with: the fake"):
        make_run(tmp_path / "run", "default", 20, **dying(4.0))
    assert len(records_of(tmp_path / "run")) == 5


def test_an_engine_that_does_not_start(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="died at 1 s"):
        make_run(tmp_path / "run", "default", 20, **dying(1.0))
    assert records_of(tmp_path / "run") == []


# --- traffic that shifts

SHIFTING = {
    **{"workload": "configs/workloads/shifting_mix.yaml", "rates_per_s": [8.0]},
    **{"windows": 10, "window_s": 15.0},
}


def test_a_window_whose_traffic_shifted_is_void(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", "sobol", 9, **SHIFTING)
    records = records_of(run)
    (void,) = (r.window for r in records if r.agent.void)
    assert void in (4, 5, 6)  # half-way
    # The point was not measured: it is due again.
    assert records[void + 1].plan.proposed == records[void].plan.proposed
    assert records[void + 2].plan.proposed != records[void].plan.proposed
    summary = RunDir.open(run).summary()
    assert summary is not None
    assert summary["void"] == 1
    calm = make_run(tmp_path / "calm", "sobol", 9, **{**SHIFTING, "workload": "mixed"})
    assert not any(r.agent.void for r in records_of(calm))


def test_a_model_does_not_learn_a_void_window(tmp_path: Path) -> None:
    settings = {**SETTINGS["bayes"], "startup_points": 7}
    run = make_run(tmp_path / "run", "bayes", 9, (), settings, **SHIFTING)
    (void,) = (r.window for r in records_of(run) if r.agent.void)
    agent: Any = open_view(run).agent()
    learnt = [t.user_attrs["window"] for t in agent.study.trials]
    assert learnt == [window for window in range(9) if window != void]
    assert agent._model.changes == [void]  # all windows before it count less
    torn = make_run(tmp_path / "torn", "bayes", void + 1, (), settings, **SHIFTING)
    go_on(torn, 9)
    assert lines(torn) == lines(run)


# --- on vLLM's own scheduler


@pytest.mark.slow
def test_a_resumed_run_on_the_simulated_engine(tmp_path: Path) -> None:
    task = {**GUARDED, "engine": "simulated", "windows": 3}
    whole = make_run(tmp_path / "whole", "sobol", 4, **task)
    torn = make_run(tmp_path / "torn", "sobol", 2, **task)
    go_on(torn, 4)
    assert lines(torn) == lines(whole)
    versions = json.loads((torn / "versions.json").read_text())
    assert len(versions["latency_sha256"]) == 16
