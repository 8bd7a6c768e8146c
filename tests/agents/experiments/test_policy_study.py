"""The study of policies from end to end, on traffic of a few seconds."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from agents.cli.policy_study import main
from agents.core.progress import Progress
from agents.experiments.objectives import canonical
from agents.experiments.policy_study.config import load_study
from agents.experiments.policy_study.families import FamilyConfig
from agents.experiments.policy_study.frontier import METRICS, dominated
from agents.experiments.policy_study.study import PER_LOAD, SUBJECT, PolicyStudy, run_study
from agents.experiments.policy_study.traces import trace_seeds
from agents.experiments.policy_study.tuning import Measured, Tuner
from ewsjf_env.config import ConfigError
from ewsjf_env.policy.policy import parse_policy
from tests.agents.experiments.evaluations import quiet, write_trace
from tests.agents.experiments.tiny_study import MIX, TINY, write_study

ROOT = Path(__file__).parents[3]


def shown(stage: str) -> Progress:
    return quiet


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_study(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, PolicyStudy]:
    """A folder with results, and what was found."""
    folder = tmp_path_factory.mktemp("study")
    (folder / "mix.yaml").write_text(MIX)
    write_trace(folder / "trace.csv", 1000)
    data = copy.deepcopy(TINY)
    data["workloads"]["mix"]["workload"] = str(folder / "mix.yaml")
    (folder / "study.yaml").write_text(yaml.safe_dump(data, sort_keys=False))
    assert main(command(folder)) == 0
    return folder, run_study(load_study(folder / "study.yaml"), folder / "out", 1, shown)


def command(folder: Path) -> list[str]:
    """In this process: a pool of workers that another test has broken would be waited for."""
    return ["--config", str(folder / "study.yaml"), "--out", str(folder / "out"), "--jobs", "1"]


def test_a_study_goes_on_without_repeating(finished: tuple[Path, PolicyStudy]) -> None:
    folder, _ = finished
    runs = folder / "out" / "runs"
    files = {path: path.stat().st_mtime_ns for path in runs.iterdir()}
    report = (folder / "out" / "study.md").read_text()
    lost = min(files)
    lost.unlink()  # as if it had been killed there
    (runs / (lost.stem + ".running")).touch()
    assert main(command(folder)) == 0
    after = {path: path.stat().st_mtime_ns for path in runs.iterdir()}
    assert set(after) == set(files)
    assert {p for p in files if after[p] != files[p]} == {lost}
    assert (folder / "out" / "study.md").read_text() == report


def test_no_arm_has_seen_a_judged_trace(finished: tuple[Path, PolicyStudy]) -> None:
    _, study = finished
    assert study.training_digests and study.judging_digests
    assert not study.training_digests & study.judging_digests
    trained, judged = (study.config.source("recorded", t).load() for t in (True, False))
    assert trained.table.arrival_s[-1] < judged.table.arrival_s[0]  # type: ignore[attr-defined]


def test_every_arm_meets_the_same_traces(finished: tuple[Path, PolicyStudy]) -> None:
    _, study = finished
    for cell, arms in study.arms.items():
        assert list(arms) == [
            "fcfs", "sjf_total", "hrrn", "ewsjf", "hrrn tuned", SUBJECT, "ewsjf_k tuned",
            "square tuned", "hrrn per load", "ewsjf per load",
        ]  # fmt: skip
        for seed in study.judged(cell[0]):
            digests = {study.records(cell, label)[seed]["notes"]["trace"] for label in arms}
            assert len(digests) == 1
        assert set(study.objective(cell, "fcfs").values()) == {0.0}


def test_the_tuned_policy_is_the_best_of_its_family_in_training(
    finished: tuple[Path, PolicyStudy],
) -> None:
    _, study = finished
    for families in study.tuned.values():
        for order in ("hrrn", "ewsjf"):
            assert families[order].objective >= families[order].default_objective
            assert families[order].points == (3 if order == "hrrn" else 4)
        assert families["sjf_total"].static == canonical(parse_policy("sjf_total"))
        assert families["hrrn"].at(0.5) == families["hrrn"].by_load[0.9]
        assert families["hrrn"].at(5.0) == families["hrrn"].by_load[1.4]


def test_a_second_family_of_an_order_has_its_defaults_among_its_points(
    finished: tuple[Path, PolicyStudy],
) -> None:
    _, study = finished
    for families in study.tuned.values():
        assert families["square"].points == 3
        assert families["square"].static.order == "hrrn"
        assert families["square"].default_objective == families["hrrn"].default_objective
        assert families["ewsjf_k"].default_objective == families["ewsjf"].default_objective


def test_controls_are_tuned_and_judged_but_no_rivals(finished: tuple[Path, PolicyStudy]) -> None:
    folder, _ = finished
    found = json.loads((folder / "out" / "study.json").read_text())
    roles = {arm["arm"]: arm["role"] for arm in found["arms"]}
    assert roles["square tuned"] == "control"
    assert roles["ewsjf_k tuned"] == roles[SUBJECT] == "ours"
    assert roles["hrrn tuned"] == roles["fcfs"] == "rival"
    assert {a["arm"] for a in found["arms"] if a["ours"]} == {
        "ewsjf", SUBJECT, "ewsjf_k tuned", "ewsjf per load"
    }  # fmt: skip
    (row,) = found["policy_controls"]
    assert (row["control"], row["plain"]) == ("square tuned", "hrrn tuned")
    control, plain = found["overall"]["square tuned"][0], found["overall"]["hrrn tuned"][0]
    assert row["gain"][0] == pytest.approx(control - plain, abs=1e-3)
    over = row["subject_over_control"]
    assert over["gain"][0] == pytest.approx(found["overall"][SUBJECT][0] - control, abs=1e-3)
    assert over["share"] == pytest.approx(over["gain"][0] / control, abs=0.01)
    assert "square" not in {r["best_rival_here"].split()[0] for r in found["against_single_rival"]}
    report = (folder / "out" / "study.md").read_text()
    assert "square tuned (control)" in report


def test_the_strongest_control_is_still_no_rival(finished: tuple[Path, PolicyStudy]) -> None:
    _, study = finished
    better = {
        name: {
            **families,
            "square": dataclasses.replace(families["square"], objective=9.0),
            "ewsjf_k": dataclasses.replace(families["ewsjf_k"], objective=9.0),
        }
        for name, families in study.tuned.items()
    }
    objectives = copy.deepcopy(study.objectives)
    for cell, arms in study.arms.items():
        scores = objectives[cell][arms["square tuned"].name]
        objectives[cell]["other"] = dict.fromkeys(scores, 9.0)
    renamed = {
        cell: {**found, "square tuned": dataclasses.replace(found["square tuned"], name="other")}
        for cell, found in study.arms.items()
    }
    other = dataclasses.replace(study, tuned=better, objectives=objectives, arms=renamed)
    assert other.best_rival(other.labels()) == "square tuned"
    assert other.single_rival() == study.single_rival()
    assert other.chosen_rival() == study.chosen_rival()


def test_rivals_are_not_ours_and_no_oracles(finished: tuple[Path, PolicyStudy]) -> None:
    _, study = finished
    assert set(study.rivals()) == {"fcfs", "hrrn", "hrrn tuned", "hrrn per load"}
    assert study.single_rival() in ("hrrn", "hrrn tuned")
    assert study.chosen_rival() == "hrrn tuned"


def test_more_seeds_go_where_it_is_undecided(
    finished: tuple[Path, PolicyStudy], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = finished
    cell = ("mix", 1.5)

    def always_one(study: PolicyStudy, other: str) -> list[tuple[str, float]]:
        return [cell]

    monkeypatch.setattr(PolicyStudy, "undecided", always_one)
    study = run_study(load_study(folder / "study.yaml"), folder / "out", 1, shown)
    rival = study.single_rival()
    seeds = study.seeds["mix"]
    assert set(study.objective(cell, SUBJECT)) == set(study.objective(cell, rival)) == set(seeds)
    assert set(study.objective(("recorded", 1.5), SUBJECT)) == set(study.judged("recorded"))
    assert (len(seeds), len(study.judged("mix"))) == (3, 2)
    assert len(study.overall(SUBJECT)) == 2


def test_the_report_holds_what_it_must(finished: tuple[Path, PolicyStudy]) -> None:
    folder, study = finished
    text = (folder / "out" / "study.json").read_text()
    assert len(text) < 500_000
    found = json.loads(text)
    assert len(found["cells"]) == len(found["against_single_rival"]) == 4
    for cell in found["cells"]:
        assert set(cell["arms"]) == set(study.labels())
        assert cell["arms"]["fcfs"][0] == [0.0, 0.0, 0.0]
    assert {r["arm"] for r in found["lengths"]} >= {"ewsjf", SUBJECT, "ewsjf" + PER_LOAD}
    (control,) = found["controls"]
    assert (control["workload"], control["load"]) == ("mix", 1.5)
    assert found["tuned"]["mix"]["ewsjf"]["cuts"]
    report = (folder / "out" / "study.md").read_text()
    for title in (
        "Who wins over everything", "J by workload", "Who wins where", "Is it dominated?",
        "Requests by prompt length", "Where nothing helps", "Settings of the engine",
        "Controls by policy", "What tuning chose", "J by load",
    ):  # fmt: skip
        assert f"## {title}" in report
    assert "sjf_total (oracle)" in report
    assert (folder / "out" / "study.png").read_bytes().startswith(b"\x89PNG")


def test_a_lull_is_passed_over_and_told_where_there_is_nothing_else(folder: Path) -> None:
    rows = [f"{t + i / 100},100,1" for t in (0, 500, 1000, 1500) for i in range(50)]
    text = "\n".join(["arrival_s,prompt_tokens,output_tokens", *rows]) + "\n"
    (folder / "trace.csv").write_text(text)
    config = load_study(folder / "study.yaml")
    source = config.source("recorded", training=False).load()
    seeds = trace_seeds(config, "recorded", False, 3, 0.3)
    assert seeds != [0, 1, 2]
    assert all(len(source.draw(s, 10.0, 0.7 * 0.3)) >= config.min_requests for s in seeds)
    assert trace_seeds(config, "recorded", False, 5, 0.3)[:3] == seeds
    with pytest.raises(ConfigError, match="recorded: hardly a window of 10 s at load"):
        trace_seeds(dataclasses.replace(config, min_requests=101), "recorded", False, 1, 0.3)


def test_fresh_traces_begin_with_another_seed(folder: Path) -> None:
    config = load_study(folder / "study.yaml")
    later = dataclasses.replace(config, first_seed=40)
    seeds = trace_seeds(later, "mix", False, 3, 3.0)
    assert min(seeds) >= 40
    assert trace_seeds(later, "mix", True, 3, 3.0) == trace_seeds(config, "mix", True, 3, 3.0)
    with pytest.raises(ConfigError, match=r"first_seed: 5001 is outside \[0, 3000\]"):
        dataclasses.replace(config, first_seed=5001)


def run(policy: str, seed: int, values: list[float | None]) -> dict[str, Any]:
    """A record with what the frontier looks at."""
    metrics = dict(zip(METRICS, values, strict=True))
    return {"workload": "mix", "load": 0.9, "policy": policy, "seed": seed, "metrics": metrics}


def test_a_policy_is_dominated_by_one_that_is_better_in_all_it_was_measured_in() -> None:
    records = [
        run("judge", 0, [1.0, 5.0, 9.0, None]),
        run("judge", 1, [3.0, 5.0, 9.0, None]),
        run("worse", 0, [2.0, 5.0, 9.0, 4.0]),  # no long prompts for the judge: not compared
        run("equal", 0, [1.0, 5.0, 9.0, None]),
        run("trade", 0, [0.5, 5.0, 10.0, None]),
        run("hardly", 0, [1.009, 5.0, 9.0, None]),
        run("longer", 0, [9.0, 9.0, 9.0, None]),  # met a trace that the judge has not met
        run("longer", 7, [9.0, 9.0, 9.0, None]),
    ]
    assert dominated(records, {"mix": ["judge"]}) == {("mix", 0.9): {"worse"}}
    assert dominated(records, {"other": ["judge"]}) == {("mix", 0.9): frozenset()}


def test_a_frontier_family_wins_with_what_no_rival_dominates(folder: Path) -> None:
    config = load_study(folder / "study.yaml").only(["mix"])
    careful = FamilyConfig("ewsjf", parameters=("k",), points=2, frontier=True)
    families = {**config.families, "ewsjf_frontier": careful}
    tuner = Tuner(dataclasses.replace(config, families=families), {})
    points = {x: [p.name for p in tuner.points["mix"][x]] for x in families}
    default, *others = points["ewsjf_frontier"]
    assert others
    best, rival = others[-1], points["hrrn"][0]
    names = dict.fromkeys(name for family in points.values() for name in family)
    scores = {
        ("mix_training", load): {n: {0: 1.0 if n == best else 0.0} for n in names}
        for load in config.tuning.loads
    }
    free = Measured(scores, {cell: frozenset() for cell in scores})
    assert tuner.winners(free, free)["mix"]["ewsjf_frontier"].static.name == best
    low, high = config.tuning.loads
    beaten = free.dominated | {("mix_training", low): frozenset([best, rival])}
    found = tuner.winners(free, Measured(scores, beaten))["mix"]["ewsjf_frontier"]
    assert found.static.name != best
    assert found.by_load[low].name != best
    assert found.by_load[high].name == best
    everything = {cell: frozenset(names) for cell in scores}
    none_left = Measured(scores, everything)
    assert tuner.winners(none_left, none_left)["mix"]["ewsjf_frontier"].static.name == default
