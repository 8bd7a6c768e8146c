"""Policies that follow the traffic: acting, bounds, fallback, files and every refusal."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ewsjf_env.config import ConfigError
from ewsjf_env.env.task import Task
from ewsjf_env.measure.features import FEATURES, feature_names, observe
from ewsjf_env.measure.records import MetricSettings
from ewsjf_env.policy.adaptive import Adaptive, bounds_of, whole_bounds
from ewsjf_env.policy.policy import MAX_FILE_BYTES, Policy, default_policy, parse_policies
from ewsjf_env.policy.rules import MAX_WIDTH, Table
from tests.measure.test_features import TRAFFIC
from tests.measure.window_metrics import PLAIN
from tests.policy.adaptive_policies import (
    BUSY,
    CALM,
    FALLBACK,
    SPACE,
    adaptive,
    network,
    policy,
    table,
    whole_network,
)

RANDOM = np.random.default_rng(5).uniform(-1, 1, (1000, len(feature_names(SPACE))))


def test_a_policy_acts_by_its_rule_and_keeps_the_other_values() -> None:
    follower = policy()
    others = {k: v for k, v in default_policy().parameters.items() if k not in SPACE}
    assert follower.kind == "table"
    assert follower.act([-0.6]) == {**default_policy().parameters, **CALM}
    assert follower.act(np.array([0.6], dtype=np.float32)) == {**others, **BUSY}


def test_a_static_policy_acts_alike_whatever_it_sees() -> None:
    static = default_policy()
    assert static.kind == "static"
    assert static.act() == static.act([0.5]) == dict(static.parameters)


@pytest.mark.parametrize(
    "features", [None, [], [0.1, 0.2], [[0.1]], [math.nan], [math.inf], ["x"], [[0.1], [0.1, 0.2]]]
)
def test_without_good_features_it_falls_back(features: Any) -> None:
    moved = policy().with_parameters(BUSY)  # what is in force meanwhile makes no difference
    assert {name: moved.act(features)[name] for name in SPACE.names} == FALLBACK


def test_what_a_rule_proposes_is_clipped_into_the_safe_bounds() -> None:
    bounds = {"k": (3.0, 20.0), "q_max": (8, 16), "overdue_share": (0.2, 0.2)}
    part = adaptive(bounds=bounds)
    assert part.act([-0.6]) == {"k": 3.0, "q_max": 8, "overdue_share": 0.2}
    assert part.act([0.6]) == {"k": 20.0, "q_max": 16, "overdue_share": 0.2}
    whole = whole_network()
    tight = whole_network(bounds=bounds)
    for x in RANDOM[:200]:
        free, held = whole.act(x), tight.act(x)
        assert 3.0 <= held["k"] <= 20.0
        assert held["k"] == min(max(float(free["k"]), 3.0), 20.0)
        assert held["q_max"] in (8, 16)


def test_without_narrower_bounds_a_network_acts_by_its_action() -> None:
    part = whole_network()
    for x in RANDOM:
        assert part.act(x) == SPACE.from_box(part.rule.action(x))  # type: ignore[union-attr]


def test_bounds_of_what_was_tried() -> None:
    tried = [CALM, {**BUSY, "k": 7.0}]
    assert bounds_of(tried, SPACE) == {
        "k": (2.0, 7.0),
        "q_max": (8, 32),
        "overdue_share": (0.1, 0.3),
    }
    for values in tried:
        rule = Table(((0.0,),), (values,))
        assert adaptive(rule, bounds=bounds_of(tried, SPACE)).act([0.0]) == values


def test_the_inputs_are_chosen_by_name() -> None:
    observation = observe(PLAIN, TRAFFIC, SPACE, default_policy().parameters)
    names = ("parameter_k", "queue_depth", "arrival_rate_per_s")
    chosen = adaptive(table(3), names).chosen(observation)
    by_name = dict(zip(feature_names(SPACE), observation.tolist(), strict=True))
    assert chosen.tolist() == [by_name[name] for name in names]


@pytest.mark.parametrize(
    "part",
    [
        adaptive(),
        adaptive(bounds={"k": (1.0, 9.0), "q_max": (4, 32), "overdue_share": (0.0, 0.5)}),
        whole_network(period_s=70.0, window_s=60.0, metrics=MetricSettings(256, 2048)),
    ],
)
def test_an_adaptive_policy_survives_the_file(tmp_path: Path, part: Adaptive) -> None:
    saved = policy(part)
    saved.save(tmp_path / "policy.json")
    loaded = Policy.load(tmp_path / "policy.json")
    assert loaded == saved
    for x in RANDOM[:, : len(part.inputs)]:
        assert loaded.act(x) == saved.act(x)
    assert [p.name for p in tmp_path.iterdir()] == ["policy.json"]
    assert parse_policies(f"fcfs,{tmp_path / 'policy.json'}")[1] == saved


def test_the_largest_network_fits_into_a_file(tmp_path: Path) -> None:
    names = feature_names(SPACE)
    sizes = (len(names), MAX_WIDTH, MAX_WIDTH, MAX_WIDTH, len(SPACE))
    largest = policy(adaptive(network(sizes, scale=1e-3), names))
    largest.save(tmp_path / "policy.json")
    assert (tmp_path / "policy.json").stat().st_size < MAX_FILE_BYTES
    assert Policy.load(tmp_path / "policy.json") == largest


def test_a_static_file_looks_as_it_always_did(tmp_path: Path) -> None:
    default_policy().save(tmp_path / "policy.json")
    data = json.loads((tmp_path / "policy.json").read_text())
    assert data["kind"] == "static"
    assert "adaptive" not in data
    # A file of the time before there were other kinds.
    assert Policy.from_dict({k: v for k, v in data.items() if k != "kind"}) == default_policy()


def test_a_failed_write_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "policy.json"
    path.mkdir()
    with pytest.raises(OSError, match="directory"):
        policy().save(path)
    assert [p.name for p in tmp_path.iterdir()] == ["policy.json"]


Change = Callable[[dict[str, Any]], None]


def put(*keys: Any, value: Any) -> Change:
    def change(data: dict[str, Any]) -> None:
        place: Any = data
        for key in keys[:-1]:
            place = place[key]
        place[keys[-1]] = value

    return change


def drop(*keys: Any) -> Change:
    def change(data: dict[str, Any]) -> None:
        place: Any = data
        for key in keys[:-1]:
            place = place[key]
        del place[keys[-1]]

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put("kind", value="tabel"), "kind: 'tabel' is not one of static, table, mlp"),
        (put("kind", value=["table"]), "kind: ['table'] is not one of"),
        (put("kind", value="static"), "adaptive: a static policy has none"),
        (put("kind", value="mlp"), "unknown key 'centres'"),
        (put("adaptive", value=None), "adaptive: expected a mapping, got NoneType"),
        (drop("adaptive"), "adaptive: expected a mapping, got NoneType"),
        (drop("parameter_space_hash"), "parameter_space_hash: None is not"),
        (put("parameter_space_hash", value="0123"), "parameter_space_hash: '0123' is not"),
        (put("adaptive", "perod_s", value=1.0), "unknown key 'perod_s'; nearest"),
        (drop("adaptive", "fallback"), "missing key 'fallback'"),
        (put("adaptive", "period_s", value=0.5), "period_s: 0.5 is outside [1, 86400]"),
        (put("adaptive", "period_s", value="10"), "period_s: expected a number, got '10'"),
        (put("adaptive", "window_s", value=11.0), "window_s: 11.0 is outside (0, 10]"),
        (put("adaptive", "tuned", value="k"), "tuned: expected a list of names, got 'k'"),
        (put("adaptive", "tuned", value=[]), "tuned: no parameter is named"),
        (put("adaptive", "tuned", 0, value="kk"), "tuned: unknown parameter 'kk'"),
        (put("adaptive", "tuned", value=["q_max", "k", "overdue_share"]), "not in the order"),
        (put("adaptive", "tuned", value=["k", "q_max", "backfill"]), "structural switch"),
        (put("adaptive", "inputs", value=[]), "inputs: no feature is named"),
        (put("adaptive", "inputs", 0, value="arrival_rate"), "nearest valid name"),
        (put("adaptive", "inputs", 0, value="parameter_delta"), "unknown feature"),
        (put("adaptive", "inputs", value=["queue_depth"]), "'queue_depth' is missing"),
        (put("adaptive", "inputs", value=["parameter_k"] * 2), "'parameter_k' occurs twice"),
        (put("adaptive", "features", value=3), "features: expected a list of mappings"),
        (put("adaptive", "features", value=[]), "scale of input 'arrival_rate_per_s' is missing"),
        (put("adaptive", "features", 0, "high", value=100.0), "export the policy again"),
        (put("adaptive", "features", 0, "scale", value="linear"), "export the policy again"),
        (put("adaptive", "features", 0, "name", value="rate"), "features: unknown 'rate'"),
        (put("adaptive", "fallback", "k", value=501.0), "fallback: parameter 'k': 501.0 is outs"),
        (drop("adaptive", "fallback", "k"), "no value of the tuned parameter 'k'"),
        (put("adaptive", "fallback", value=1), "fallback: expected a mapping, got 1"),
        (put("adaptive", "bounds", value=1), "bounds: expected a mapping, got 1"),
        (drop("adaptive", "bounds", "k"), "bounds: k: expected a list of values, got None"),
        (put("adaptive", "bounds", "k", value=[9.0, 1.0]), "expected [low, high], got [9.0, 1.0]"),
        (put("adaptive", "bounds", "k", value=[0.0, 1.0]), "bounds: parameter 'k': 0.0 is outs"),
        (put("adaptive", "bounds", "k", value=[1.0]), "bounds: k: expected [low, high]"),
        (put("adaptive", "bounds", "q_max", value=[5]), "bounds: parameter 'q_max': 5 is not one"),
        (put("adaptive", "bounds", "mu", value=[0.0, 1.0]), "bounds: unknown key 'mu'"),
        (put("adaptive", "metrics", value={"short": 1}), "metrics: unknown key 'short'"),
        (put("adaptive", "metrics", value={"ttft_slo_s": -1.0}), "ttft_slo_s: -1.0 is outside"),
        (put("adaptive", "centres", 0, value=[0.1, 0.2]), "centres[0]: 2 features, expected 1"),
        (put("adaptive", "values", 0, "k", value="high"), "'k': 'high' is not a number"),
    ],
)
def test_a_bad_adaptive_file_is_refused_by_field(
    tmp_path: Path, change: Change, message: str
) -> None:
    data = copy.deepcopy(policy().to_dict())
    change(data)
    path = tmp_path / "bad.json"
    path.write_text(json.dumps(data))
    with pytest.raises(ConfigError) as caught:
        Policy.load(path)
    assert message in str(caught.value)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_the_file_carries_names_and_scales() -> None:
    data = policy(whole_network()).to_dict()["adaptive"]
    assert [row["name"] for row in data["features"]] == [feature.name for feature in FEATURES]
    assert data["tuned"] == list(SPACE.names)
    assert data["inputs"] == list(feature_names(SPACE))
    assert set(data["bounds"]) == set(data["fallback"]) == set(SPACE.names)


def test_an_adaptive_part_of_another_order_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"unknown parameter|another parameter space"):
        Policy("x", "hrrn", adaptive=adaptive())


def test_whole_bounds_are_the_space() -> None:
    assert whole_bounds(SPACE)["q_max"] == (4, 8, 16, 32)
    assert whole_bounds(SPACE)["k"] == (0.05, 500.0)


def test_only_a_static_policy_can_be_tuned(tmp_path: Path) -> None:
    path = tmp_path / "policy.json"
    policy().save(path)
    with pytest.raises(ConfigError, match="changes its parameters by itself"):
        Task(policy=str(path))
    assert Task(reference=str(path)).reference_policy() == policy()
