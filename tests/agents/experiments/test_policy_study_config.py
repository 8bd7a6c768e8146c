"""What a study of policies may be asked, and what it says to what it may not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from agents.cli.policy_study import main
from agents.experiments.objectives import canonical, fcfs
from agents.experiments.policy_study.config import PolicyStudyConfig, check_files, load_study
from agents.experiments.policy_study.tuning import Tuner
from ewsjf_env.config import ConfigError, from_dict
from ewsjf_env.policy.policy import parse_policy
from tests.agents.experiments.tiny_study import changed, family, write_study

ROOT = Path(__file__).parents[3]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_study(tmp_path)
    return tmp_path


def test_equal_policies_are_one_run() -> None:
    named = parse_policy("hrrn(exponent=1)")
    assert canonical(named).name == canonical(parse_policy("hrrn")).name
    assert canonical(parse_policy("hrrn(exponent=2)")).name != canonical(named).name
    assert fcfs().name.startswith("fcfs-")


def test_the_queues_of_a_tuned_family_come_from_training_traffic(folder: Path) -> None:
    config = load_study(folder / "study.yaml")
    points = Tuner(config, {}).points["mix"]["ewsjf"]
    shipped = parse_policy("ewsjf")
    assert points[0].partition == shipped.partition
    assert all(p.partition != shipped.partition for p in points[1:])
    assert points[1].parameters == shipped.parameters


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sede": 3}, "unknown key 'sede'; nearest valid name: 'seeds'"),
        ({"workloads": {"a": {"trce": "x"}}}, "nearest valid name: 'trace'"),
        ({"workloads": {"a": {}}}, "trace, workload: give exactly one"),
        ({"families": {"fcfs": {}, "ewsjf": {}, "hrn": {}}}, "nearest valid name: 'hrrn'"),
        ({"families": {"fcfs": {}, "ewsjf": {}, "hrrn": {"grid": {"exp": [1]}}}}, "'exponent'"),
        ({"families": {"fcfs": {}, "ewsjf": {}, "hrrn": {"grid": {"exponent": [9]}}}}, "outside"),
        ({"families": {"fcfs": {}, "ewsjf": {"points": 3}}}, "parameters, points"),
        ({"families": {"fcfs": {}}}, "'ewsjf' is missing"),
        ({"families": {"fcfs": {}, "ewsjf": {}}}, "ewsjf: needs a grid, or parameters and points"),
        (family("a", order="hrn"), "families: a: order: unknown 'hrn'; nearest valid name: 'hrrn'"),
        (family("a b", order="hrrn"), "label 'a b' may hold letters, digits and _ only"),
        (family("a", order="sjf"), "the defaults are those of 'sjf'"),
        (family("sjf", order="hrrn", grid={"exponent": [2]}), "under the name of another order"),
        (family("hrrn", role="rivl"), "families: hrrn: role: unknown role 'rivl'.*'rival'"),
        (family("hrrn", per_load=3), "families: hrrn: per_load"),
        (family("hrrn", frontier=True), "frontier: true needs a grid, or parameters and points"),
        (
            family("hrrn", grid={"exponent": [2]}, frontier=True),
            "frontier: true: a rival is not kept from what rivals do",
        ),
        (family("hrrn", role="control"), "a control needs a label that is not"),
        (
            family("a", order="hrrn", role="control", grid={"exponent": [2]}),
            "told beside the family 'hrrn', which is missing",
        ),
        (family("fcfs", role="ours"), "families: fcfs: role: 'ours' is not 'rival'"),
        ({"tuning": {"seeds": 4, "finalist_seeds": 2}}, r"finalist_seeds: 2 is outside \[4"),
        ({"loads": [0.7, 0.7]}, "occurs twice"),
        ({"controls": {"engines": {"x": {"max_seqs": 1}}, "loads": [1.5]}}, "'max_num_seqs'"),
        ({"controls": {"loads": [9.0]}}, "controls: loads: 9"),
        ({"controls": {"workloads": ["mx"]}}, "nearest valid name: 'mix'"),
    ],
)
def test_bad_studies_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_dict(PolicyStudyConfig, changed(**changes), "study.yaml")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "mixx"], "--only: unknown 'mixx'; nearest valid name: 'mix'"),
        (["--seeds", "0"], "--seeds: 0 is outside [1, 1000]"),
        (["--jobs", "0"], "--jobs: 0 is outside"),
        (["--traces", "nowhere"], "workloads: recorded: trace: nowhere/trace.csv: no such"),
        (["--sedes", "3"], "unknown option '--sedes'; nearest valid name: '--seeds'"),
    ],
)
def test_bad_arguments_are_one_line_and_nothing_is_written(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(["--config", "study.yaml", "--out", "out", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (folder / "out").exists()


def test_a_dry_run_tells_the_plan_and_writes_nothing(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--config", "study.yaml", "--out", "out", "--dry-run", "--only", "recorded"]
    assert main(words) == 0
    told = capsys.readouterr().out
    assert "tuning, round 1: about 28 runs" in told
    assert "judging: about 36 runs" in told
    assert "controls: about 0 runs" in told
    assert not (folder / "out").exists()


def test_the_shipped_study_is_well_formed_and_names_all_orders_but_priority() -> None:
    from ewsjf_env.scheduling.orders.registry import ORDERS

    config = load_study(ROOT / "configs" / "policy_study.yaml")
    assert set(ORDERS) - {f.order for f in config.families.values()} == {
        "priority"
    }  # no priorities in these traffics
    assert config.seeds >= 10
    for name in config.workloads:
        assert config.machine(name).latency, name  # of the file that it names


def test_paths_are_relative_to_the_file_that_names_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    beside = tmp_path / "studies"
    beside.mkdir()
    write_study(beside)
    (beside / "small.yaml").write_text("max_num_seqs: 8\n")
    study = changed(traces="recordings")
    study["workloads"]["mix"]["engine"] = "small.yaml"
    (beside / "study.yaml").write_text(yaml.safe_dump(study))
    (beside / "recordings").mkdir()
    (beside / "trace.csv").rename(beside / "recordings" / "trace.csv")
    monkeypatch.chdir(tmp_path)
    config = load_study("studies/study.yaml")
    check_files(config)
    assert config.machine("mix").max_num_seqs == 8
    assert config.source("recorded", True).path == "studies/recordings/trace.csv"
    assert main(["--config", "studies/study.yaml", "--traces", "none", "--out", "o"]) == 2
    assert "none/trace.csv" in (error := capsys.readouterr().err)
    assert "--traces names the folder of the recordings, --only mix does without them" in error
    assert main(["--config", "studies/study.yaml", "--only", "mix", "--out", "o", "--dry-run"]) == 0
