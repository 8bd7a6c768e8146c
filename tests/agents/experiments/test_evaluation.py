"""The grid of runs, its keys, and its refusals."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest

from agents.experiments.grid import make_runs
from agents.experiments.source import Source
from ewsjf_env.config import ConfigError
from ewsjf_env.engine.simulated.config import SimulatedConfig
from ewsjf_env.policy.policy import parse_policies
from tests.agents.experiments.evaluations import make_plan, write_trace


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    return write_trace(tmp_path / "trace.csv")


def keys(path: Path, **changes: Any) -> list[str]:
    return [job.key for job in make_runs(make_plan(path, **changes), {})]


def test_the_grid_is_a_product(trace: Path) -> None:
    plan = make_plan(trace, rates_per_s=(2.0, 3.0), seeds=3)
    jobs = make_runs(plan, {})
    assert len(jobs) == plan.runs == 3 * 2 * 3
    assert {(j.policy.name, j.rate_per_s, j.seed) for j in jobs} == {
        (p, r, s) for p in ("fcfs", "sjf", "hrrn") for r in (2.0, 3.0) for s in range(3)
    }
    assert len({job.key for job in jobs}) == len(jobs)


def test_a_load_is_a_share_of_capacity(trace: Path) -> None:
    plan = make_plan(trace, loads=(0.5, 1.3), rates_per_s=(), seeds=1)
    name = next(iter(plan.workloads()))
    jobs = make_runs(plan, {name: 4.0})
    assert {(j.load, j.rate_per_s) for j in jobs} == {(0.5, 2.0), (1.3, 5.2)}


def test_keys_are_readable_and_repeat(trace: Path) -> None:
    assert keys(trace) == keys(trace)
    assert keys(trace)[0].startswith("trace__rate2.5__seed0__fcfs__")


@pytest.mark.parametrize(
    "changes",
    [
        {"rates_per_s": (2.6,)},
        {"duration_s": 21.0},
        {"engine": SimulatedConfig(max_num_seqs=64)},
        {"engine": SimulatedConfig(latency="llama3-8b_h100")},
        {"policies": tuple(parse_policies("ewsjf(k=2),linear_aging(r=30),hrrn(exponent=2)"))},
    ],
    ids=["rate", "duration", "engine", "latency", "parameters"],
)
def test_every_setting_is_in_the_key(trace: Path, changes: dict[str, Any]) -> None:
    assert not set(keys(trace)) & set(keys(trace, **changes))


def test_more_seeds_and_policies_leave_finished_keys_alone(trace: Path) -> None:
    assert set(keys(trace)) < set(keys(trace, seeds=3, policies=tuple(parse_policies(
        "fcfs,sjf,hrrn,random"))))  # fmt: skip


def test_seeds_may_begin_later_and_are_the_same_runs(trace: Path) -> None:
    later = make_runs(make_plan(trace, first_seed=1, seeds=1), {})
    assert {job.seed for job in later} == {1}
    assert {job.key for job in later} < set(keys(trace))


def test_another_content_of_the_same_file_is_another_key(trace: Path) -> None:
    before = keys(trace)
    write_trace(trace, requests=300)
    assert not set(before) & set(keys(trace))


def test_provenance_of_a_policy_is_not_in_the_key(trace: Path) -> None:
    policy = parse_policies("hrrn")[0]
    told = dataclasses.replace(policy, provenance={"run": "7"})
    assert keys(trace, policies=(policy,)) == keys(trace, policies=(told,))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": 0}, r"--seeds: 0 is outside \[1, 5000\]"),
        ({"duration_s": 0.0}, r"--duration: 0\.0 is outside \(0, inf\)"),
        ({"duration_s": math.inf}, r"--duration: inf is outside \(0, inf\)"),
        ({"rates_per_s": (-1.0,)}, r"--rate: -1\.0 is outside \(0, inf\)"),
        ({"loads": (0.0,), "rates_per_s": ()}, r"--load: 0\.0 is outside \(0, inf\)"),
        ({"loads": (math.nan,), "rates_per_s": ()}, r"--load: nan is outside \(0, inf\)"),
        ({"loads": (0.7,)}, "--load, --rate: give exactly one"),
        ({"rates_per_s": ()}, "--load, --rate: give exactly one"),
        ({"sources": ()}, "--workload, --trace: give at least one"),
        ({"policies": ()}, "--policies: the list is empty"),
    ],
)
def test_plans_that_make_no_sense_are_refused(
    trace: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        make_plan(trace, **changes)


def test_two_sources_of_one_name_are_refused(trace: Path, tmp_path: Path) -> None:
    (tmp_path / "again").mkdir()
    again = write_trace(tmp_path / "again" / "trace.csv")
    sources = (Source(str(trace), is_trace=True), Source(str(again), is_trace=True))
    with pytest.raises(ConfigError, match="'trace' is the name of both"):
        make_runs(make_plan(trace, sources=sources), {})


def test_a_request_that_can_never_be_served_is_refused_before_any_run(trace: Path) -> None:
    with pytest.raises(ConfigError, match="trace: "):
        make_runs(make_plan(trace, engine=SimulatedConfig(kv_blocks=10)), {})


def test_a_trace_of_which_every_prompt_is_too_long_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "long.csv"
    rows = "".join(f"{i},5000,1\n" for i in range(50))
    path.write_text("arrival_s,prompt_tokens,output_tokens\n" + rows)
    with pytest.raises(ConfigError, match=r"all \d+ prompts are longer than max_model_len"):
        make_runs(make_plan(path, engine=SimulatedConfig(max_model_len=1024)), {})
