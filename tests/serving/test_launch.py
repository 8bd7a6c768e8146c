"""The command that starts a server: options, plug-ins, policies, refusals."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from agents.cli import serve as serve_command
from ewsjf_env.config import ConfigError
from ewsjf_env.policy.policy import Policy, default_policy, parse_policy
from ewsjf_env.scheduling.cost import CostPrior
from ewsjf_env.serving.launch import (
    SCHEDULER_CLASS,
    Launch,
    ewsjf_launch,
    option_value,
    plugin_names,
    stock_launch,
    with_config,
)
from ewsjf_env.serving.settings import SchedulerSettings
from tests.serving.vllm_traffic import make_setup


def config_of(command: tuple[str, ...] | list[str]) -> dict[str, object]:
    value = option_value(command, "--additional-config")
    assert value is not None
    config: dict[str, object] = json.loads(value)
    return config


def settings_of(launch: Launch) -> SchedulerSettings:
    """What an engine of this launch reads, in the environment that it is given."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in launch.environment.items():
            patch.setenv(name, value)
        return SchedulerSettings.from_additional_config(config_of(launch.command))


def launch_of(words: list[str]) -> Launch:
    """The launch that a printed command is: variables, then the command."""
    changes = list(itertools.takewhile(lambda word: re.match(r"[A-Z_]+=", word), words))
    return Launch(tuple(words[len(changes) :]), dict(c.split("=", 1) for c in changes))


def dry_run(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    assert serve_command.main(["--dry-run", *arguments]) == 0
    return shlex.split(capsys.readouterr().out)


def test_without_a_policy_it_is_stock_vllm(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["some/model", "--port", "1", "--dtype=half"]
    assert dry_run(capsys, "--", *arguments) == list(stock_launch(arguments).command)


def test_the_policy_travels_beside_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("VLLM_PLUGINS", raising=False)
    policy = default_policy().with_parameters({"k": 8.0}, name="tuned")
    path = tmp_path / "policy.json"
    policy.save(path)
    command = dry_run(capsys, "--policy", str(path), "--", "m", "--additional-config", '{"a": 1}')
    path.unlink()
    assert config_of(command) == {"a": 1, "ewsjf": {"settings": "EWSJF_SETTINGS"}}
    served = settings_of(launch_of(command))
    assert served.policy == policy
    assert not served.allow_patch
    assert option_value(command, "--scheduler-cls") == SCHEDULER_CLASS
    assert command[0].startswith("VLLM_PLUGINS=ewsjf,")


def test_patch_is_a_flag() -> None:
    launch = ewsjf_launch(["m"], parse_policy("hrrn"), {}, allow_patch=True)
    assert settings_of(launch).allow_patch


def test_the_allow_list_is_added_to() -> None:
    assert plugin_names(["ewsjf"], "mine,other") == (["mine", "other", "ewsjf"], ())
    assert plugin_names(["ewsjf"], "ewsjf,mine") == (["ewsjf", "mine"], ())
    assert plugin_names(["ewsjf"], "") == (["ewsjf"], ())


def test_without_an_allow_list_everything_installed_stays() -> None:
    names, _ = plugin_names(["ewsjf"], None)
    assert names[0] == "ewsjf"
    assert {"ewsjf_simulated", "lora_filesystem_resolver"} <= set(names)
    assert len(names) == len(set(names))


def test_a_simulated_server_needs_no_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_PLUGINS", "mine")
    folder = tmp_path / "llama3-8b"
    simulate = ["--simulate", "llama3-8b_h100", "--speed", "3", "--model-folder", str(folder)]
    command = dry_run(capsys, "--policy", "hrrn", *simulate, "--", "--max-num-seqs", "9")
    launch = launch_of(command)
    assert launch.environment["VLLM_PLUGINS"] == "mine,ewsjf,ewsjf_simulated"
    assert launch.environment["EWSJF_SIMULATED_PLATFORM"] == "1"
    assert settings_of(launch).cost_prior is not None
    assert str(folder) in command and (folder / "tokenizer.json").is_file()
    assert option_value(command, "--max-num-seqs") == "9"
    assert option_value(command, "--max-num-batched-tokens") == "8192"  # vLLM's own on an H100
    assert config_of(command)["ewsjf_simulated"] == {"latency": "llama3-8b_h100", "speed": 3.0}
    command = dry_run(capsys, *simulate, "--", "--max-num-batched-tokens", "512")
    assert option_value(command, "--max-num-seqs") == "512"  # no more requests than tokens


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--policy", "/nowhere/p.json", "--", "m"], "policy file cannot be read"),
        (["--policy", "{half}", "--", "m"], "not valid JSON"),
        (["--policy", "{schema}", "--", "m"], "schema_version: 2 is not 1"),
        (["--policy", "", "--", "m"], "--policy: '': expected NAME"),
        (["--policy", " ", "--", "m"], "--policy: ' ': expected NAME"),
        (["--policy=", "--", "m"], "--policy: '': expected NAME"),
        (["--policy", "hrrn", "--tune", "", "--", "m"], "--tune: "),
        (["--tune", "", "--", "m"], "--tune: needs --policy"),
        (
            ["--simulate", "llama3-8b_h100", "--model-folder", "", "--"],
            "--model-folder: '': expected a folder",
        ),
        (["--simulate", "", "--"], "--simulate: unknown preset ''; valid names: llama2-13b"),
        (["--simulate", "llama3-8b_h10", "--"], "--simulate: unknown preset 'llama3-8b_h10'; near"),
        (["--simulate", "llama3-8b_h100", "--speed", "0", "--"], "--speed: 0.0 is outside (0, 100"),
        (["--policy", "hrm", "--", "m"], "unknown policy 'hrm'; nearest valid name: 'hrrn'"),
        (["--policy", "hrrn"], "MODEL: is missing"),
        (["--", "--port", "3"], "MODEL: is missing"),
        (["--allow-patch", "--", "m"], "--allow-patch: needs --policy"),
        (["--tune", "x.yaml", "--", "m"], "--tune: needs --policy"),
        (
            ["--policy", "hrrn", "--tune", "/nowhere.yaml", "--", "m"],
            "/nowhere.yaml: cannot be read",
        ),
        (["--policy", "hrrn", "--", "m", "--scheduler-cls=x.Y"], "--scheduler-cls: is set by"),
        (["--policy", "hrrn", "--", "m", "--additional-config", "{"], "not valid JSON"),
        (["--policy", "hrrn", "--", "m", "--additional_config", "[]"], "expected an object"),
        (
            ["--policy", "hrrn", "--", "m", "--additional-config", '{"ewsjf": 1}'],
            "--additional-config: ewsjf: expected an object, got 1",
        ),
        (["--policy", "hrrn", "--", "m", "--additional-config.a", "1"], "as one JSON object"),
        (["--simulate", "llama2", "--"], "unknown preset 'llama2'"),
        (["--simulate", "llama3-8b_h100", "--speed", "0", "--"], "speed: 0.0 is outside"),
        (["--simulate", "llama3-8b_h100", "--speed", "nan", "--"], "speed: nan is outside"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = json.dumps(default_policy().to_dict())
    (tmp_path / "half.json").write_text(text[: len(text) // 2])
    (tmp_path / "schema.json").write_text(
        text.replace('"schema_version": 1', '"schema_version": 2')
    )
    files = {f"{{{name}}}": str(tmp_path / f"{name}.json") for name in ("half", "schema")}
    assert serve_command.main([files.get(a, a) for a in arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("error: ") and error.count("\n") == 1


def test_the_last_value_of_an_option_counts() -> None:
    arguments = ["m", "--max_model_len=3", "--max-model-len", "4", "--enforce-eager"]
    assert option_value(arguments, "--max-model-len") == "4"
    assert option_value(arguments, "--enforce-eager") == ""
    assert option_value(arguments, "--port") is None


def test_config_is_merged_in_either_spelling() -> None:
    for given in (["--additional-config", '{"a": 1}'], ["--additional_config={" + '"a": 1}']):
        merged = with_config(["m", *given, "--port", "1"], "b", [2])
        assert config_of(merged) == {"a": 1, "b": [2]}
        assert merged[:3] == ["m", "--port", "1"]
    with pytest.raises(ConfigError, match="has an entry 'b' already"):
        with_config(["--additional-config", '{"b": 1}'], "b", 2)


def test_an_exported_policy_is_what_is_served() -> None:
    policy = parse_policy("linear_aging(r=20)")
    served = settings_of(ewsjf_launch(["m"], policy, {})).policy
    assert isinstance(served, Policy) and served.to_dict() == policy.to_dict()


ADDITIONAL = "--additional-config"


def with_entry(**entry: Any) -> list[str]:
    return ["m", ADDITIONAL, json.dumps({"ewsjf": entry})]


def test_what_the_operator_configures_is_merged_key_by_key() -> None:
    """The documented tenants could not be started by the documented command."""
    prior = {"c0_s": 1.0, "c1_s_per_token": 1e-3, "c2_s_per_token2": 0.0}
    entry = {"tenants": {"by": "lora"}, "seed": 7, "allow_patch": True, "cost_prior": prior}
    ours = CostPrior(c0_s=0.1, c1_s_per_token=1e-5, c2_s_per_token2=0.0)
    launch = ewsjf_launch(with_entry(**entry), parse_policy("hrrn"), {}, cost_prior=ours)
    served = settings_of(launch)
    assert served.policy == parse_policy("hrrn")
    assert served.tenants is not None and served.tenants.by == "lora"
    assert (served.seed, served.allow_patch) == (7, True)
    assert served.cost_prior is not None and served.cost_prior.c0_s == 1.0  # that of the operator
    for patch in (False, True):
        given = with_entry(**({"allow_patch": True} if patch else {}))
        assert settings_of(ewsjf_launch(given, default_policy(), {}, allow_patch=True)).allow_patch


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"policy": {"order": "fcfs"}}, "ewsjf: policy: is set by --policy"),
        ({"policy_file": "x.json"}, "ewsjf: policy_file: is set by --policy"),
        ({"seed": 1, "order": "fcfs"}, "ewsjf: order: is set by --policy"),
        ({"parameters": {}}, "ewsjf: parameters: is set by --policy"),
        ({"settings": "EWSJF_SETTINGS"}, "ewsjf: settings: is set by --policy"),
        ({"allow_patch": False}, "ewsjf: allow_patch: False contradicts --allow-patch"),
        ({"tenant": {}}, "unknown key 'tenant'; nearest valid name: 'tenants'"),
        ({"tenants": {"by": "lorra"}}, "tenants: by: "),
        ({"seed": -1}, "seed: -1 is outside"),
    ],
)
def test_a_contradiction_names_the_key(entry: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        ewsjf_launch(with_entry(**entry), default_policy(), {}, allow_patch=True)
    assert str(caught.value).startswith("--additional-config: ")
    assert message in str(caught.value)


def large_policy() -> Policy:
    """As many numbers as an exported network of two layers of 128 has."""
    provenance = {"weights": [[0.12345678901234567 + i] * 100 for i in range(160)]}
    return dataclasses.replace(default_policy(), name="large", provenance=provenance)


def test_every_policy_has_one_key_in_the_compile_cache_of_vllm() -> None:
    """vLLM's hash covers all of `additional_config`: each policy meant a cold compile."""
    setup = make_setup(kv_blocks=20, asynchronous=True)
    config = setup.vllm_config
    policies = [default_policy(), parse_policy("hrrn(exponent=2)"), large_policy()]
    patched = ewsjf_launch(with_entry(tenants={"by": "lora"}), policies[0], {}, allow_patch=True)
    launches = [*(ewsjf_launch(["m"], policy, {}) for policy in policies), patched]
    before = config.additional_config
    try:
        hashes = set()
        for launch in launches:
            config.additional_config = config_of(launch.command)
            hashes.add(config.compute_hash())
        assert len(hashes) == 1
        # A hash that saw nothing of the entry would say the same.
        config.additional_config = {"ewsjf": {"order": "fcfs"}}
        assert config.compute_hash() not in hashes
    finally:
        config.additional_config = before
    assert [settings_of(launch).policy for launch in launches[:3]] == policies


def test_a_large_policy_fits_the_command_line() -> None:
    """Linux takes 128 KiB for one argument or variable: 299 kB were "Argument list too long"."""
    policy = large_policy()
    assert len(policy.to_json()) > 299_000
    launch = ewsjf_launch(["m"], policy, os.environ)
    done = subprocess.run(
        [sys.executable, "-c", "import sys; print(len(sys.argv))", *launch.command],
        env={**os.environ, **launch.environment},
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(done.stdout) == len(launch.command) + 1
    assert settings_of(launch).policy == policy


def test_the_settings_lie_where_state_is_kept(tmp_path: Path) -> None:
    policy, other = default_policy(), parse_policy("fcfs")
    (tmp_path / "file").write_text("")

    def path_of(environment: dict[str, str], policy: Policy = policy) -> Path:
        return Path(ewsjf_launch(["m"], policy, environment).environment["EWSJF_SETTINGS"])

    state = {"XDG_STATE_HOME": str(tmp_path / "state"), "HOME": str(tmp_path / "home")}
    assert path_of(state).parent == tmp_path / "state" / "ewsjf" / "serve"
    assert path_of(state) == path_of(state) != path_of(state, other)
    assert len(list(path_of(state).parent.iterdir())) == 2
    home = {"XDG_STATE_HOME": "relative", "HOME": str(tmp_path / "home")}
    assert path_of(home).parent == tmp_path / "home" / ".local" / "state" / "ewsjf" / "serve"
    for nowhere in ({}, {"HOME": str(tmp_path / "file")}):  # no home, or none that can be written
        assert path_of(nowhere).is_file() and path_of(nowhere).is_absolute()


@pytest.mark.parametrize(
    ("value", "entry", "message"),
    [
        (None, {"settings": "EWSJF_SETTINGS"}, "variable EWSJF_SETTINGS is not set"),
        ("", {"settings": "EWSJF_SETTINGS"}, "variable EWSJF_SETTINGS is not set"),
        ("{tmp}/none.json", {"settings": "EWSJF_SETTINGS"}, "cannot be read: No such file"),
        ("{tmp}", {"settings": "EWSJF_SETTINGS"}, "is a directory, not a regular file"),
        ("{tmp}/half.json", {"settings": "EWSJF_SETTINGS"}, "half.json': not valid JSON"),
        ("{tmp}/list.json", {"settings": "EWSJF_SETTINGS"}, "expected a mapping"),
        ("{tmp}/self.json", {"settings": "EWSJF_SETTINGS"}, "unknown key 'settings'"),
        ("{tmp}/list.json", {"settings": "OTHER"}, "settings: expected {'settings': 'EWSJF_SETT"),
        ("{tmp}/list.json", {"settings": "EWSJF_SETTINGS", "seed": 1}, "and no other key"),
    ],
)
def test_settings_that_are_not_there_are_one_line(
    value: str | None,
    entry: dict[str, Any],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without its file an engine must not serve by the default policy instead."""
    for name, text in (("half", "{"), ("list", "[]"), ("self", json.dumps(entry))):
        (tmp_path / f"{name}.json").write_text(text)
    monkeypatch.delenv("EWSJF_SETTINGS", raising=False)
    if value is not None:
        monkeypatch.setenv("EWSJF_SETTINGS", value.replace("{tmp}", str(tmp_path)))
    with pytest.raises(ConfigError) as caught:
        SchedulerSettings.from_additional_config({"ewsjf": entry})
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_engines_on_ray_get_the_variable_too(monkeypatch: pytest.MonkeyPatch) -> None:
    from vllm.ray.ray_env import get_env_vars_to_copy

    arguments = ["m", "--data-parallel-backend", "ray"]
    given = {"VLLM_RAY_EXTRA_ENV_VARS_TO_COPY": "MINE"}
    launch = ewsjf_launch(arguments, default_policy(), given)
    for name, value in launch.environment.items():
        monkeypatch.setenv(name, value)
    assert {"MINE", "EWSJF_SETTINGS"} <= get_env_vars_to_copy()
    assert (
        "VLLM_RAY_EXTRA_ENV_VARS_TO_COPY"
        not in ewsjf_launch(["m"], default_policy(), given).environment
    )


def test_the_rust_front_end_has_no_routes_and_that_is_told(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_PLUGINS", "")
    monkeypatch.setenv("VLLM_USE_RUST_FRONTEND", "1")
    assert serve_command.main(["--dry-run", "--policy", "hrrn", "--", "m"]) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("ewsjf serve: VLLM_USE_RUST_FRONTEND: the Rust front end serves no")
    given = json.dumps({"ewsjf": {"allow_patch": True}})
    for patch in (["--allow-patch", "--", "m"], ["--", "m", ADDITIONAL, given]):
        assert serve_command.main(["--dry-run", "--policy", "hrrn", *patch]) == 2
        error = capsys.readouterr().err
        assert "unset it, or leave out --allow-patch" in error and error.count("\n") == 1
    monkeypatch.setenv("VLLM_USE_RUST_FRONTEND", "0")
    dry_run(capsys, "--policy", "hrrn", "--allow-patch", "--", "m")
