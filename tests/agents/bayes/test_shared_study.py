"""Runs that learn from each other by way of a journal file, and each stays whole by itself."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml

from agents.bayes.fleet import FILE, RUN, Recorded, SharedStudy
from agents.bayes.journal import JOURNAL, open_journal
from agents.bayes.storage import masked
from agents.bayes.trials import ROLE, SHARED, WINDOW
from agents.cli.train import main as train
from agents.experiments.tuners.config import ArmConfig
from agents.runs.config import RunConfig, make_run_config
from agents.runs.folder import WINDOWS, RunDir
from agents.runs.loop import tune
from agents.runs.view import open_view
from ewsjf_env.config import ConfigError
from ewsjf_env.policy.policy import parse_policy

TASK: dict[str, Any] = {
    "engine": "fake",
    "fake": {"optimum_seed": 1, "active": 2, "sensitivity": 6.0, "noise_sigma": 0.05},
    "workload": "mixed",
    "rates_per_s": [6.0],
    "window_s": 10.0,
    "settle_s": 1.0,
    "warmup_s": 2.0,
    "windows": 4,
}


def config(storage: Path | str, seed: int, windows: int, agent: str = "bayes") -> RunConfig:
    settings = {"storage": str(storage), "search": {"candidates": 32, "refinements": 1}}
    return make_run_config(agent, TASK, settings, seed=seed, windows=windows)


def play(folder: Path, run: RunConfig) -> dict[str, Any]:
    if (folder / "config.yaml").exists():
        opened = RunDir.open(folder, lock=True)
    else:
        opened = RunDir.create(folder, run)
    try:
        return tune(opened, run.windows)
    finally:
        opened.close()


def test_a_known_point_that_another_run_has_measured_is_not_tried_again(tmp_path: Path) -> None:
    """And one that nobody has is, though others have measured enough for a start."""
    task = {**TASK, "policy": "ewsjf(lambda=0;mu=0;k=1)", "tuned": ["k", "prefill_share"]}
    settings = {
        "storage": str(tmp_path / "fleet.journal"),
        "startup_points": 2,
        "search": {"candidates": 32, "refinements": 1},
    }
    shipped = parse_policy("ewsjf").parameters["k"]
    tried = {}
    for name, seed, windows in (("a", 0, 2), ("b", 1, 3)):
        run = make_run_config("bayes", task, settings, seed=seed, windows=windows)
        play(tmp_path / name, run)
        lines = (tmp_path / name / WINDOWS).read_text().splitlines()
        values = [json.loads(line)["served"]["values"] for line in lines]
        tried[name] = [(v["k"], v["prefill_share"]) for v in values]
    assert tried["a"] == [(1.0, 1.0), pytest.approx((shipped, 1.0))]
    assert tried["b"][:2] == [(1.0, 1.0), pytest.approx((shipped, 0.5))]


def test_an_agent_that_is_shown_its_windows_again_knows_the_same_points(tmp_path: Path) -> None:
    task = {**TASK, "policy": "ewsjf(lambda=0;mu=0;k=1)", "tuned": ["k", "prefill_share"]}
    settings = {"search": {"candidates": 32, "refinements": 1}}
    summary = play(tmp_path / "run", make_run_config("bayes", task, settings, windows=6))
    again: Any = open_view(tmp_path / "run").agent()
    own = shared(tmp_path / "run" / JOURNAL)
    roles = [t.user_attrs[ROLE] for t in own.trials if WINDOW in t.user_attrs]
    assert [t.user_attrs[ROLE] for t in again.study.trials if WINDOW in t.user_attrs] == roles
    assert roles[:4] == ["start", *["opening"] * 3]  # the start, what ships, half and a quarter
    last = [record.agent.context for record in open_view(tmp_path / "run").records][-1]
    assert again.recommend(last) == summary["recommendation"]


def shared(storage: Path) -> optuna.Study:
    (name,) = optuna.get_all_study_names(open_journal(storage))
    return optuna.load_study(study_name=name, storage=open_journal(storage))


def taken(folder: Path) -> dict[int, int]:
    """How many windows of others were learnt before which of ours."""
    found: dict[int, int] = {}
    for one in Recorded(folder).found:
        found[one.before] = found.get(one.before, 0) + 1
    return found


@pytest.mark.parametrize("agent", ["bayes", "tpe"])
def test_runs_propose_with_the_windows_of_all(tmp_path: Path, agent: str) -> None:
    storage = tmp_path / "all.journal"
    first, second = tmp_path / "first", tmp_path / "second"
    play(first, config(storage, 0, 5, agent))
    assert taken(first) == {}
    play(second, config(storage, 1, 3, agent))
    assert taken(second) == {0: 5}
    play(first, config(storage, 0, 7, agent))
    assert taken(first) == {5: 3}
    windows = [(t.user_attrs[RUN], t.user_attrs[WINDOW]) for t in shared(storage).trials]
    ours, theirs = Recorded(first).run, Recorded(second).run
    assert windows == [
        *((ours, i) for i in range(5)), *((theirs, i) for i in range(3)), (ours, 5), (ours, 6)
    ]  # fmt: skip
    # A run that finds windows of others measures its own start, and then goes on from them.
    own = shared(second / JOURNAL)
    roles = [t.user_attrs["role"] for t in own.trials if SHARED not in t.user_attrs]
    assert roles[0] == "start" and roles[1] != "opening"
    lines = [json.loads(line) for line in (second / WINDOWS).read_text().splitlines()]
    assert lines[2]["agent"]["diagnostics"]["bo/shared_windows"] == 5.0
    alone = play(tmp_path / "alone", config("", 1, 3, agent))
    assert alone["windows"] == 3 and not (tmp_path / "alone" / FILE).exists()
    told = [json.loads(line) for line in (tmp_path / "alone" / WINDOWS).read_text().splitlines()]
    assert told[0]["served"]["values"] == lines[0]["served"]["values"]
    assert told[1]["served"]["values"] != lines[1]["served"]["values"]


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with another run's journal, and the run `whole` that has learnt from it."""
    folder = tmp_path_factory.mktemp("played")
    play(folder / "other", config(folder / "other.journal", 5, 4))
    shutil.copy(folder / "other.journal", folder / "all.journal")
    play(folder / "whole", config(folder / "all.journal", 1, 6))
    return folder


@pytest.mark.parametrize("lost", ["nothing", JOURNAL, "half a line"])
def test_a_resumed_run_is_the_uninterrupted_one(played: Path, tmp_path: Path, lost: str) -> None:
    whole, cut, copy = played / "whole", tmp_path / "cut", tmp_path / "copy.journal"
    shutil.copy(played / "other.journal", copy)
    play(cut, config(copy, 1, 4))
    if lost == JOURNAL:
        (cut / JOURNAL).unlink()
    if lost == "half a line":
        with (cut / FILE).open("a") as file:
            file.write('{"before": 5, "ru')
    play(cut, config(copy, 1, 6))
    assert (cut / WINDOWS).read_bytes() == (whole / WINDOWS).read_bytes()
    assert taken(cut) == taken(whole) == {0: 4}
    published = [t.user_attrs[WINDOW] for t in shared(copy).trials]
    assert published == [*range(4), *range(6)]
    # And so it is for whoever exports the run: what it had learnt is in its folder.
    copy.unlink()
    view = open_view(cut)
    last = view.records[-1].agent.context
    summary = json.loads((cut / "summary.json").read_text())
    assert view.agent().recommend(last) == summary["recommendation"]


def test_a_kill_between_two_steps_adds_no_window_twice(tmp_path: Path) -> None:
    storage = tmp_path / "all.journal"
    run = config(storage, 0, 4)
    play(tmp_path / "run", run)
    study = shared(tmp_path / "run" / JOURNAL)
    again = SharedStudy(str(storage), run.shared_name, run.shared_marks, tmp_path / "run")
    again.publish(study.trials)
    assert len(shared(storage).trials) == 4
    # One that was killed before it could add its last windows adds them when it goes on.
    part = tmp_path / "part.journal"
    late = SharedStudy(str(part), run.shared_name, run.shared_marks, tmp_path / "run")
    late.publish(study.trials[:2])
    late.publish(study.trials)
    assert [t.user_attrs[WINDOW] for t in shared(part).trials] == [0, 1, 2, 3]


def test_a_study_of_another_task_is_refused(tmp_path: Path) -> None:
    storage = tmp_path / "all.journal"
    play(tmp_path / "run", config(storage, 0, 1))
    settings = {"storage": str(storage)}
    other = make_run_config("bayes", {**TASK, "window_s": 30.0}, settings)
    with pytest.raises(
        ConfigError, match=r"study '.*': task is '\w+', this run's is '\w+'; set `s"
    ):
        play(tmp_path / "other", other)
    renamed = make_run_config("bayes", other.env, {**settings, "study": "longer"}, windows=1)
    play(tmp_path / "renamed", renamed)
    # Rates are the context's business, and so is another workload where the name is the same.
    faster = make_run_config("bayes", {**TASK, "rates_per_s": [7.0]}, settings, windows=1)
    play(tmp_path / "faster", faster)
    assert taken(tmp_path / "faster") == {0: 1}


def test_a_storage_that_is_away_for_a_time_is_no_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    storage = tmp_path / "all.journal"
    run = config(storage, 0, 1)
    folder = tmp_path / "run"
    play(folder, run)
    study = shared(folder / JOURNAL)
    late = tmp_path / "late" / "all.journal"
    late.parent.mkdir()
    there = SharedStudy(str(late), run.shared_name, run.shared_marks, folder)
    late.parent.rename(tmp_path / "away")
    there.gather(1)
    there.publish(study.trials)
    there.gather(2)
    (line,) = capsys.readouterr().err.splitlines()
    assert "all.journal: " in line and "the run goes on alone" in line
    (tmp_path / "away").rename(late.parent)
    there.publish(study.trials)
    assert "answers again" in capsys.readouterr().err
    assert [t.user_attrs[WINDOW] for t in shared(late).trials] == [0]


@pytest.mark.parametrize(
    ("storage", "message"),
    [
        ("postgresql://me:s3cret@db/x", "storage: 'postgresql://me:***@db/x' holds a password"),
        ("postgresql://me:s/3@cret@db/x", "storage: 'postgresql://me:***@db/x' holds a password"),
        ("postgresql://db/x?user=me&password=s3cret&a=b", "password=***&a=b' holds a password"),
        ("mysql://me@db/x", "storage: 'mysql://' is not supported; give the path of a journal"),
        ("sqlite:///x.db", "storage: 'sqlite://' is not supported"),
        ("nowhere/all.journal", "nowhere/all.journal: the folder"),
    ],
)
def test_bad_storage_is_one_line_without_a_secret(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    storage: str,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("task.yaml").write_text(yaml.safe_dump(TASK))
    command = ["--agent", "bayes", "--config", "task.yaml", "--windows", "1", "--out", "run"]
    assert train([*command, "--storage", storage]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line and "cret" not in line
    assert not Path("run").exists()


def test_what_has_no_study_shares_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert train(["--agent", "sac", "--storage", "x.journal", "--dry-run"]) == 2
    assert "--storage: agent 'sac' is not on a study" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="runs that are compared do not share a study"):
        ArmConfig("bayes", {"storage": "x.journal"})
    assert masked("postgresql://me@db/x") == "postgresql://me@db/x"
