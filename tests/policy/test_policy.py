"""Policy files and lists of policies: round trip and every refusal."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ewsjf_env.config import ConfigError
from ewsjf_env.policy.policy import (
    DEFAULT_PATH,
    MAX_FILE_BYTES,
    Policy,
    default_policy,
    parse_policies,
    parse_policy,
)
from ewsjf_env.scheduling.orders.registry import ORDERS
from ewsjf_env.serving.change import PolicyChange
from ewsjf_env.serving.settings import SchedulerSettings


def write(path: Path, **changes: object) -> Path:
    data = default_policy().to_dict()
    data.update(changes)
    path.write_text(json.dumps(data))
    return path


def test_a_policy_survives_the_file(tmp_path: Path) -> None:
    for order in ORDERS:
        policy = Policy(f"my {order}", order, provenance={"run": "x", "seeds": [1, 2]})
        policy.save(tmp_path / "policy.json")
        assert Policy.load(tmp_path / "policy.json") == policy
    assert [p.name for p in tmp_path.iterdir()] == ["policy.json"]


def test_the_default_policy_is_ewsjf_learnt_from_other_traffic() -> None:
    policy = default_policy()
    assert policy.order == "ewsjf"
    assert policy.partition.queues > 1
    assert "training" in json.dumps(dict(policy.provenance))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema_version": 2}, "schema_version: 2 is not 1"),
        ({"schema_version": True}, "schema_version: True is not 1"),
        ({"kind": "mlp9"}, "kind: 'mlp9' is not one of"),
        ({"order": "ewsfj"}, "order: unknown 'ewsfj'; nearest valid name: 'ewsjf'"),
        ({"order": None}, "order: unknown None"),
        ({"parameter_space_hash": "0123"}, "parameter_space_hash: '0123' is not"),
        ({"parameters": {"lambada": 1}}, "nearest valid name: 'lambda'"),
        ({"parameters": {"k": -1}}, "'k': -1 is outside [0.05, 500]"),
        ({"parameters": {"k": "NaN"}}, "'k': 'NaN' is not a number"),
        ({"parameters": [1]}, "parameters: expected a mapping"),
        ({"cuts": [1]}, "unknown key 'cuts'"),
        ({"provenance": 3}, "provenance: expected a mapping"),
        ({"name": ""}, "name: expected a string"),
        ({"name": 7}, "name: expected a string"),
        (
            {"partition": {"cuts": [500, 100], "means": [1, 2, 3], "masses": [0.2, 0.3, 0.5]}},
            "cuts",
        ),
        ({"partition": {"cuts": [100], "means": [1.0, 2.0], "masses": [0.5]}}, "masses"),
        ({"partition": 5}, "partition"),
    ],
)
def test_a_bad_policy_file_is_refused_by_field(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    path = write(tmp_path / "bad.json", **changes)
    with pytest.raises(ConfigError) as caught:
        Policy.load(path)
    assert message in str(caught.value)
    assert "bad.json" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not valid JSON"),
        (b'{"order": "fcfs"', "not valid JSON"),
        (b"[1, 2]", "expected a mapping, got list"),
        (b'{"order": "boost", "parameters": {"gamma": NaN}}', "NaN is not a JSON number"),
        (b"[" * 100_000, "not valid JSON"),
        (b"\xff\xfe\x00", "not valid JSON"),
        (b" " * (MAX_FILE_BYTES + 1), f"larger than {MAX_FILE_BYTES} bytes"),
    ],
)
def test_hostile_files_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "hostile.json"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        Policy.load(path)
    assert message in str(caught.value)


def test_a_list_of_policies(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    Policy("mine", "boost", {"gamma": 0.5}).save(path)
    text = f"fcfs, linear_aging(r=50),ewsjf(k=8,lambda=1.0),ewsjf_authors(backfill=none),{path}"
    policies = parse_policies(text)
    assert [p.name for p in policies] == [
        "fcfs",
        "linear_aging(r=50)",
        "ewsjf(k=8,lambda=1.0)",
        "ewsjf_authors(backfill=none)",
        "mine",
    ]
    assert policies[1].parameters["r"] == 50.0
    assert policies[2].parameters["k"] == 8.0
    assert policies[2].partition == default_policy().partition
    assert policies[3].parameters["backfill"] == "none"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the list is empty"),
        ("fcfs,fcfs", "'fcfs' occurs twice"),
        ("fcfs,hrn", "unknown policy 'hrn'; nearest valid name: 'hrrn'"),
        ("hrrn(exponent)", "expected parameter=value"),
        ("hrrn(exponent=1,exponent=2)", "given twice"),
        ("hrrn(exponent=inf)", "inf is outside"),
        ("boost(gama=1)", "nearest valid name: 'gamma'"),
        ("missing.json", "missing.json: policy file cannot be read"),
        ("a b", "expected NAME"),
        ("hrrn(", "expected NAME"),
    ],
)
def test_bad_lists_are_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_policies(text)
    assert message in str(caught.value)


def test_only_oracles_are_marked() -> None:
    assert [name for name, spec in ORDERS.items() if spec.oracle] == ["sjf_total"]


def test_a_name_means_the_same_policy_everywhere() -> None:
    """`ewsjf` over HTTP and in additional_config was another policy than the shipped one."""
    shipped = default_policy()
    assert parse_policy("ewsjf") == shipped
    assert Policy.from_dict({"order": "ewsjf"}) == shipped
    assert SchedulerSettings.from_additional_config({"ewsjf": {"order": "ewsjf"}}).policy == shipped
    assert SchedulerSettings.from_additional_config({}).policy == shipped
    assert dict(ORDERS["ewsjf"].space.defaults) == dict(shipped.parameters)
    for order in ORDERS:
        named = parse_policy(order)
        change = PolicyChange.from_dict({"order": order})
        assert change.applied_to(parse_policy("fcfs")) == named
        inline = SchedulerSettings.from_additional_config({"ewsjf": {"order": order}})
        assert inline.policy == named
    changed = {"order": "ewsjf", "parameters": {"k": 8}}
    assert Policy.from_dict(changed).parameters == parse_policy("ewsjf(k=8)").parameters
    assert Policy.from_dict(changed).provenance == {}  # those values were not learnt


def test_fcfs_and_back_is_the_shipped_policy_to_the_digit() -> None:
    tuned = default_policy().with_parameters({"k": 7.0, "alpha": 2.0}, name="tuned")
    policy = tuned
    for order in ("fcfs", "ewsjf"):
        policy = PolicyChange.from_dict({"order": order}).applied_to(policy)
    assert policy == default_policy()
    assert policy.to_dict() == json.loads(DEFAULT_PATH.read_text(encoding="utf-8"))


def test_nobody_can_change_the_shipped_policy() -> None:
    dict.update(default_policy().parameters, k=1.0)  # type: ignore[arg-type, call-overload]
    assert default_policy().parameters["k"] == ORDERS["ewsjf"].space["k"].default


OLD_HASH = "a2c557e45ee4e315"  # of the space of `ewsjf` before it had weights of work


def test_a_policy_of_an_earlier_generation_loads_and_is_written_as_one() -> None:
    policy = Policy.load(DEFAULT_PATH)
    assert policy.parameters["w_cached"] == policy.parameters["w_output"] == 0.0
    data = policy.to_dict()
    assert data["parameter_space_hash"] == OLD_HASH
    assert data == json.loads(DEFAULT_PATH.read_text(encoding="utf-8"))
    weighed = policy.with_parameters({"w_cached": 0.5})
    assert weighed.to_dict()["parameter_space_hash"] != OLD_HASH
    assert Policy.from_dict(weighed.to_dict()) == weighed


def test_a_parameter_that_the_named_space_does_not_have_is_refused() -> None:
    data = {
        "order": "ewsjf",
        "parameter_space_hash": OLD_HASH,
        "parameters": {"w_cached": 1.0},
    }
    with pytest.raises(ConfigError, match="'w_cached' is not in the space 'a2c557e45ee4e315'"):
        Policy.from_dict(data)
    with pytest.raises(ConfigError, match="export the policy again"):
        Policy.from_dict({**data, "parameter_space_hash": "0" * 16})


@pytest.mark.parametrize("given", [[], {}, 3, None])
def test_a_hash_that_is_no_text_is_refused_like_any_other(given: object) -> None:
    with pytest.raises(ConfigError, match="parameter_space_hash"):
        Policy.from_dict({"order": "ewsjf", "parameter_space_hash": given})
