"""The studies of hints and tenants, on traffic of a few seconds."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from statistics import fmean

import pytest

from agents.experiments.tenants_and_hints.arms import (
    STUDIES,
    ArmStudy,
    Choice,
    hint_study,
    tenant_study,
)
from agents.experiments.tenants_and_hints.study import TRAINING_TRACES, run_study
from ewsjf_env.config import ConfigError
from ewsjf_env.seeds import TRAINING

ROOT = Path(__file__).parents[3]
SHORT_S = 8.0


def silent(keys: Iterable[str], total: int) -> Iterator[str]:
    yield from keys


def small(study: ArmStudy, rate_per_s: float, *labels: str) -> ArmStudy:
    """Two arms of a study, on few running requests."""
    return dataclasses.replace(
        study,
        workload=str(ROOT / study.workload),
        rate_per_s=rate_per_s,
        arms=tuple(arm for arm in study.arms if arm.label in labels),
        engine=dataclasses.replace(study.engine, max_num_seqs=4),
        choices=(),
    )


def test_every_study_compares_with_its_first_arm_on_a_workload_that_exists() -> None:
    for make in STUDIES.values():
        study = make()
        assert (ROOT / study.workload).exists()
        assert len({arm.label for arm in study.arms}) == len(study.arms)


def test_hints_change_the_order_and_a_study_resumes(tmp_path: Path) -> None:
    labels = ("ewsjf, by length", "hints, rank correlation 1")
    study = small(hint_study(), 4.0, *labels)
    found = run_study(study, 2, SHORT_S, tmp_path, 1, silent)
    by_length, hinted = (found["arms"][label] for label in labels)
    assert hinted["e2e_mean_s"]["mean"] != by_length["e2e_mean_s"]["mean"]
    assert by_length["e2e_mean_s"]["ratio"] == [1.0, 1.0, 1.0]
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").iterdir()}
    assert run_study(study, 2, SHORT_S, tmp_path, 1, silent) == found
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").iterdir()} == files
    assert json.loads((tmp_path / "study.json").read_text()) == found
    assert "| hints, rank correlation 1 |" in (tmp_path / "study.md").read_text()


def test_shares_protect_the_quiet_tenant_and_alone_it_meets_the_same_arrivals(
    tmp_path: Path,
) -> None:
    labels = ("ewsjf, quiet tenant alone", "fcfs", "fcfs, shares")
    study = small(tenant_study(), 12.0, *labels)
    found = run_study(study, 2, SHORT_S, tmp_path, 1, silent)
    alone, free, shared = (found["arms"][label] for label in labels)
    assert alone["flood_ttft_p95_s"]["mean"] == [None, None, None]
    p95 = "quiet_ttft_p95_s"
    assert alone[p95]["mean"][0] <= shared[p95]["mean"][0] < free[p95]["mean"][0]
    assert shared["service_difference"]["mean"][0] <= found["bound"]


def test_rivals_are_tuned_on_other_traces(tmp_path: Path) -> None:
    choice = Choice("linear_aging(r={:g})", (5.0, 1000.0))
    study = dataclasses.replace(small(tenant_study(), 12.0, "fcfs"), choices=(choice,))
    found = run_study(study, 2, SHORT_S, tmp_path, 1, silent)
    runs = [json.loads(path.read_text()) for path in (tmp_path / "runs").glob("*linear*.json")]
    training = [r for r in runs if r["seed"] >= TRAINING.start]
    means = {
        label: fmean(r["metrics"]["ttft_mean_s"] for r in training if r["policy"] == label)
        for label in (choice.arm(value).label for value in choice.values)
    }
    assert len(training) == 2 * TRAINING_TRACES
    assert list(found["arms"]) == ["fcfs", min(means, key=lambda label: means[label])]
    assert len(set(means.values())) == 2


@pytest.mark.parametrize(
    ("seeds", "duration_s", "workers", "message"),
    [
        (0, SHORT_S, 1, r"--seeds: 0 is outside \[1, 5000\]"),
        (1, -5.0, 1, r"--duration: -5.0 is outside"),
        (1, float("nan"), 1, r"--duration: nan is outside"),
        (1, SHORT_S, 0, r"--jobs: 0 is outside"),
    ],
)
def test_bad_sizes_are_refused_before_anything_runs(
    tmp_path: Path, seeds: int, duration_s: float, workers: int, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        run_study(hint_study(), seeds, duration_s, tmp_path / "out", workers, silent)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", sorted(STUDIES))
def test_the_arms_differ_in_policy_or_engine(name: str) -> None:
    arms = STUDIES[name]().arms
    assert len({(a.policy, repr(sorted(a.engine.items())), a.alone) for a in arms}) == len(arms)
