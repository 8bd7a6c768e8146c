"""Where theory lets a tuner start."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import yaml

from agents.bayes.agent import StudyAgent
from agents.bayes.config import Start, StudyConfig
from agents.cli.train import main
from agents.core.registry import agent_config
from agents.theory.start import TaskPrior, search, start_values, starting_point
from ewsjf_env.config import ConfigError
from ewsjf_env.env.task import load_tuning
from ewsjf_env.parameters import Value
from tests.agents.run_folders import TASK, go_on, make_run, records_of
from tests.agents.toys import SMALL, bowl, cube_space, play


@pytest.fixture(autouse=True)
def a_short_search(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agents.theory.start.POINTS", 16)
    monkeypatch.setattr("agents.theory.start.FINER_POINTS", 4)


BAD = "ewsjf(lambda=1;mu=0.5;k=0.05)"  # nearly first come first served
OVERLOAD = {"workload": "paper_mix", "rates_per_s": [6.5], "policy": BAD}


def test_moves_away_from_bad_values_and_always_to_the_same_point() -> None:
    task = load_tuning(OVERLOAD)
    point = starting_point(task)
    assert point.moved
    assert point.loads[0] > 1.1
    assert point.objective > point.own_objective + 1.0
    own = task.space().defaults
    assert {n for n, v in point.values.items() if v != own[n]} == {"lambda", "mu", "k"}
    assert starting_point(task) == point
    assert start_values(task) == point.values
    prior, names = TaskPrior(task), ("lambda", "mu", "k")
    objective, worst = prior.judge({name: point.values[name] for name in names})
    assert objective == pytest.approx(point.objective)
    # So few points may all break a constraint; the chosen one is no worse than where it began.
    assert worst <= max(0.0, prior.judge({name: own[name] for name in names})[1])


def test_stays_where_no_order_matters() -> None:
    point = starting_point(load_tuning({**OVERLOAD, "rates_per_s": [0.5]}))
    assert not point.moved
    assert point.values == load_tuning(OVERLOAD).space().defaults
    assert start_values(load_tuning({**OVERLOAD, "rates_per_s": [0.5]})) is None


def test_follows_the_objective_of_the_task() -> None:
    """A goodput of first tokens within 5 s, and a mean over several rates."""
    goodput: dict[str, Any] = {
        **OVERLOAD,
        "rates_per_s": [5.0, 7.0],
        "reference": None,
        "objective": {"kind": "goodput"},
        "constraints": [],
        "tuned": ["k", "q_max"],
    }
    point = starting_point(load_tuning(goodput))
    assert 0.0 < point.own_objective < point.objective <= 1.0
    assert len(point.loads) == 2
    assert set(point.values) == {"k", "q_max"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"policy": "ewsjf", "tuned": ["alpha"]}, r"none of the tuned parameters \['alpha'\]"),
        ({"policy": "linear_aging"}, "policy 'linear_aging' has no queues with scores"),
    ],
)
def test_refuses_what_theory_knows_nothing_of(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"start: analytic: .*{message}"):
        starting_point(load_tuning({**OVERLOAD, **changes}))


def test_search_finds_the_top_of_a_hill() -> None:
    truth = bowl([0.62, 0.31])
    found = search(cube_space(2), lambda values: (truth(values, 0.0), -1.0))
    assert found[0][0] == cube_space(2).defaults
    assert max(objective for _, objective, _ in found) > -0.2


ANALYTIC = StudyConfig(search=SMALL, startup_points=3, start="analytic", confirm=1)


def agent(config: StudyConfig = ANALYTIC, **rest: Any) -> StudyAgent:
    return StudyAgent("bayes", cube_space(2), config, **rest)


def startup(tuner: StudyAgent) -> list[dict[str, Any]]:
    play(tuner, bowl([0.2, 0.8]), 4)
    return [t.params for t in tuner.study.trials]


@pytest.mark.parametrize("start", ["analytic", "known"])
def test_the_first_start_up_points_are_those_that_are_named(start: Start) -> None:
    config = dataclasses.replace(ANALYTIC, start=start)
    asked, points = [], [cube_space(2).defaults, {"x0": 0.125, "x1": 0.75}]

    def named(start: Start) -> list[dict[str, Value]]:
        asked.append(start)
        return points

    tried = startup(agent(config, start_points=named))
    sobol = startup(agent(dataclasses.replace(ANALYTIC, start="sobol")))
    assert tried == [sobol[0], points[1], *sobol[2:]]  # the incumbent is not tried twice
    assert asked == [start]
    assert startup(agent(config, start_points=lambda _: [])) == sobol
    many = [{"x0": x, "x1": x} for x in (0.125, 0.25, 0.625, 0.75)]
    assert startup(agent(config, start_points=lambda _: many))[1:] == many[:3]


def test_known_points_need_no_task_and_theory_does() -> None:
    assert startup(agent(dataclasses.replace(ANALYTIC, start="known"))) == startup(
        agent(dataclasses.replace(ANALYTIC, start="sobol"))
    )
    with pytest.raises(ConfigError, match="start: analytic"):
        startup(agent())
    with pytest.raises(ConfigError, match="start: analytic needs startup_points >= 1, got 0"):
        agent_config("bayes", {"start": "analytic", "startup_points": 0})


def test_a_run_starts_there_and_resumes_as_if_never_broken_off(tmp_path: Path) -> None:
    settings = {"start": "analytic", "startup_points": 2, "search": {"candidates": 32}}
    task = {"rates_per_s": [6.0], "policy": BAD}
    whole = make_run(tmp_path / "whole", "bayes", 3, settings=settings, **task)
    expected = start_values(load_tuning({**TASK, **task}))
    assert expected is not None
    assert records_of(whole)[1].plan.proposed == expected
    broken = make_run(tmp_path / "broken", "bayes", 1, settings=settings, **task)
    go_on(broken, 3)
    lines = [(folder / "windows.jsonl").read_bytes() for folder in (whole, broken)]
    assert lines[0] == lines[1]


def test_dry_run_prints_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    task, settings = tmp_path / "task.yaml", tmp_path / "bayes.yaml"
    task.write_text(yaml.safe_dump(OVERLOAD))
    settings.write_text("start: analytic\n")
    words = ["--agent", "bayes", "--config", str(task), "--agent-config", str(settings)]
    assert main([*words, "--dry-run"]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("start: analytic, load 1.")
    assert "lambda=" in last
    task.write_text(yaml.safe_dump({**OVERLOAD, "policy": "linear_aging"}))
    assert main([*words, "--out", str(tmp_path / "run")]) == 2
    assert "error: start: analytic" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
