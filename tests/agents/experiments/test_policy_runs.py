"""Runs survive failures, killed workers and interruptions; what is finished is not run again."""

from __future__ import annotations

import functools
import json
import resource
from pathlib import Path
from typing import Any

import pytest

from agents.core.files import write_text
from agents.experiments.grid import make_runs
from agents.experiments.policy_runs import PolicyRun, run_all, store_of
from tests.agents.experiments.evaluations import DURATION_S, make_plan, quiet, write_trace
from tests.agents.single_server import (
    SECONDS_A_TOKEN,
    fails_for_hrrn,
    interrupted_for_hrrn,
    killed_for_hrrn,
    killed_once,
    played,
)


def service_times_wait(record: dict[str, Any]) -> float:
    counts = {row["high_tokens"]: row["requests"] for row in record["buckets"]}
    classes = ((0.1, counts[128], "ttft_short_mean_s"), (2.0, counts[2048], "ttft_long_mean_s"))
    return sum(s * n * (record["drained"][metric] - s) for s, n, metric in classes)


@pytest.fixture
def jobs(tmp_path: Path) -> list[PolicyRun]:
    return make_runs(make_plan(write_trace(tmp_path / "trace.csv")), {})


def finished(out: Path) -> dict[str, bytes]:
    files = sorted((out / "runs").glob("*.json"))
    return {p.name: p.read_bytes() for p in files if not p.name.endswith(".failure.json")}


def without_wall_time(record: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in record.items() if key != "wall_s"}


def test_records_hold_what_the_contract_names(jobs: list[PolicyRun], tmp_path: Path) -> None:
    records, failures = run_all(jobs, tmp_path, 1, quiet, played)
    assert failures == {}
    assert [(r["policy"], r["seed"]) for r in records] == [
        (policy, seed) for seed in (0, 1) for policy in ("fcfs", "sjf", "hrrn")
    ]
    for record in records:
        assert {"policy", "workload", "load", "seed", "metrics", "drained"} <= set(record)
        assert record["load"] is None
        assert record["rate_per_s"] == 2.5
        assert record["metrics"]["window_s"] == DURATION_S
        assert record["drained"]["outstanding"] == 0
        assert record["drained"]["window_s"] > DURATION_S  # overloaded: 1.2 s of work a second
        assert record["drained"]["arrivals"] == record["metrics"]["arrivals"]


def test_policies_meet_the_same_trace_and_seeds_another(
    jobs: list[PolicyRun], tmp_path: Path
) -> None:
    records, _ = run_all(jobs, tmp_path, 1, quiet, played)
    traces = [{r["notes"]["trace"] for r in records if r["seed"] == seed} for seed in (0, 1)]
    assert [len(seen) for seen in traces] == [1, 1]
    assert traces[0] != traces[1]


def test_work_is_conserved_and_short_prompts_gain(jobs: list[PolicyRun], tmp_path: Path) -> None:
    records, _ = run_all(jobs, tmp_path, 1, quiet, played)
    fcfs, sjf = (r for r in records if r["seed"] == 0 and r["policy"] in ("fcfs", "sjf"))
    assert fcfs["drained"]["window_s"] == pytest.approx(sjf["drained"]["window_s"], rel=1e-9)
    for part in ("metrics", "drained"):
        assert sjf[part]["ttft_short_mean_s"] < fcfs[part]["ttft_short_mean_s"]
        assert sjf[part]["ttft_long_mean_s"] > fcfs[part]["ttft_long_mean_s"]
    # sum(service x wait) is the same for every non-preemptive, work-conserving order.
    assert service_times_wait(sjf) == pytest.approx(service_times_wait(fcfs), rel=1e-9)
    buckets = {row["high_tokens"]: row for row in sjf["buckets"]}
    assert sum(row["requests"] for row in buckets.values()) == sjf["metrics"]["arrivals"]
    assert buckets[128]["ttft_mean_s"] >= 100 * SECONDS_A_TOKEN
    assert buckets[64]["ttft_mean_s"] is None  # no such request: null, not NaN


def test_finished_runs_are_kept_and_not_run_again(jobs: list[PolicyRun], tmp_path: Path) -> None:
    played_keys = []

    def counted(job: PolicyRun) -> dict[str, Any]:
        played_keys.append(job.key)
        return played(job)

    first, _ = run_all(jobs[:4], tmp_path, 1, quiet, counted)
    before = finished(tmp_path)
    assert len(before) == 4
    everything, failures = run_all(jobs, tmp_path, 1, quiet, counted)
    assert failures == {}
    assert everything[:4] == first
    assert {name: finished(tmp_path)[name] for name in before} == before
    assert played_keys == [job.key for job in jobs]


def test_two_workers_find_what_one_finds(jobs: list[PolicyRun], tmp_path: Path) -> None:
    alone, _ = run_all(jobs, tmp_path / "one", 1, quiet, played)
    together, failures = run_all(jobs, tmp_path / "two", 2, quiet, played)
    assert failures == {}
    assert [without_wall_time(r) for r in together] == [without_wall_time(r) for r in alone]


def test_a_failed_run_is_reported_and_tried_again(jobs: list[PolicyRun], tmp_path: Path) -> None:
    records, failures = run_all(jobs, tmp_path, 1, quiet, fails_for_hrrn)
    assert [r["policy"] for r in records] == ["fcfs", "sjf"] * 2
    assert set(failures.values()) == {"RuntimeError: the scheduler is stuck at step 7"}
    assert all("hrrn" in key for key in failures)
    kept = finished(tmp_path)
    told = sorted((tmp_path / "runs").glob("*.failure.json"))
    assert [path.name.removesuffix(".failure.json") for path in told] == sorted(failures)
    records, failures = run_all(jobs, tmp_path, 1, quiet, played)
    assert failures == {}
    assert len(records) == 6
    assert kept.items() <= finished(tmp_path).items()
    assert len(list((tmp_path / "runs").iterdir())) == 6  # nothing is left of the failure


def test_a_killed_worker_fails_its_run_alone(jobs: list[PolicyRun], tmp_path: Path) -> None:
    records, failures = run_all(jobs, tmp_path, 2, quiet, killed_for_hrrn)
    assert sorted((r["policy"], r["seed"]) for r in records) == [
        ("fcfs", 0), ("fcfs", 1), ("sjf", 0), ("sjf", 1)
    ]  # fmt: skip
    assert len(failures) == 2
    assert all("hrrn" in key and "killed" in reason for key, reason in failures.items())


def test_a_worker_killed_by_accident_costs_no_run(jobs: list[PolicyRun], tmp_path: Path) -> None:
    # Workers may be there already from another test: they have the environment of that time.
    marker = tmp_path / "marker"
    killed = functools.partial(killed_once, marker=marker)
    records, failures = run_all(jobs, tmp_path, 2, quiet, killed)
    assert marker.exists()
    assert failures == {}
    assert len(records) == 6


def test_an_interruption_keeps_what_is_finished(jobs: list[PolicyRun], tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run_all(jobs, tmp_path, 1, quiet, interrupted_for_hrrn)
    kept = finished(tmp_path)
    assert len(kept) == 2
    records, failures = run_all(jobs, tmp_path, 1, quiet, played)
    assert (len(records), failures) == (6, {})
    assert kept.items() <= finished(tmp_path).items()


def test_a_damaged_record_is_run_again(jobs: list[PolicyRun], tmp_path: Path) -> None:
    run_all(jobs, tmp_path, 1, quiet, played)
    path = tmp_path / "runs" / f"{jobs[0].key}.json"
    whole = json.loads(path.read_text())
    lacking = {key: value for key, value in whole.items() if key != "metrics"}
    for damaged in (path.read_text()[:100], json.dumps(lacking)):
        path.write_text(damaged)
        records, failures = run_all(jobs, tmp_path, 1, quiet, played)
        assert (len(records), failures) == (6, {})
        assert json.loads(path.read_text())["metrics"] == whole["metrics"]
    assert json.loads(path.read_text())["policy"] == "fcfs"


def test_records_are_whole_json_without_nan(jobs: list[PolicyRun], tmp_path: Path) -> None:
    def refuse(name: str) -> float:
        raise AssertionError(f"{name} in a record")

    run_all(jobs[:1], tmp_path, 1, quiet, played)
    (text,) = finished(tmp_path).values()
    assert json.loads(text, parse_constant=refuse)["metrics"]["kv_usage_mean"] is None


def test_results_of_other_settings_are_counted_and_left_alone(
    jobs: list[PolicyRun], tmp_path: Path
) -> None:
    assert store_of(tmp_path).others(run.key for run in jobs) == 0
    run_all(jobs, tmp_path, 1, quiet, fails_for_hrrn)
    assert store_of(tmp_path).others(run.key for run in jobs) == 0
    before = finished(tmp_path)
    path = write_trace(tmp_path / "trace.csv")
    longer = make_runs(make_plan(path, duration_s=2 * DURATION_S, seeds=1), {})
    assert (
        store_of(tmp_path).others(run.key for run in longer) == 6
    )  # four records and two failures
    records, _ = run_all(longer, tmp_path, 1, quiet, played)
    assert {r["metrics"]["window_s"] for r in records} == {2 * DURATION_S}
    assert before.items() <= finished(tmp_path).items()


def test_a_full_disk_names_the_file_and_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    write_text(path, "old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))  # fails as a full disk does: unnamed
    try:
        with pytest.raises(OSError, match=r"result\.json"):
            write_text(path, "x" * 1000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
