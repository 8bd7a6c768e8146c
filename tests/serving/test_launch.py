"""The command that starts a server: options, plug-ins, policies, refusals."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from agents.cli import serve as serve_command
from ewsjf_env.config import ConfigError
from ewsjf_env.policy.policy import Policy, default_policy, parse_policy
from ewsjf_env.serving.launch import (
    SCHEDULER_CLASS,
    ewsjf_launch,
    option_value,
    plugin_names,
    stock_launch,
    with_config,
)
from ewsjf_env.serving.settings import SchedulerSettings


def config_of(command: tuple[str, ...] | list[str]) -> dict[str, object]:
    value = option_value(command, "--additional-config")
    assert value is not None
    config: dict[str, object] = json.loads(value)
    return config


def dry_run(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    assert serve_command.main(["--dry-run", *arguments]) == 0
    return shlex.split(capsys.readouterr().out)


def test_without_a_policy_it_is_stock_vllm(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["some/model", "--port", "1", "--dtype=half"]
    assert dry_run(capsys, "--", *arguments) == list(stock_launch(arguments).command)


def test_the_policy_travels_in_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("VLLM_PLUGINS", raising=False)
    policy = default_policy().with_parameters({"k": 8.0}, name="tuned")
    path = tmp_path / "policy.json"
    policy.save(path)
    command = dry_run(capsys, "--policy", str(path), "--", "m", "--additional-config", '{"a": 1}')
    path.unlink()
    config = config_of(command)
    assert config["a"] == 1
    assert SchedulerSettings.from_additional_config(config).policy == policy
    assert not SchedulerSettings.from_additional_config(config).allow_patch
    assert option_value(command, "--scheduler-cls") == SCHEDULER_CLASS
    assert command[0].startswith("VLLM_PLUGINS=ewsjf,")


def test_patch_is_a_flag() -> None:
    launch = ewsjf_launch(["m"], parse_policy("hrrn"), {}, allow_patch=True)
    assert SchedulerSettings.from_additional_config(config_of(launch.command)).allow_patch


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
    assert command[:2] == [
        "VLLM_PLUGINS=mine,ewsjf,ewsjf_simulated",
        "EWSJF_SIMULATED_PLATFORM=1",
    ]
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
        (["--policy", "hrrn", "--", "m", "--additional-config", '{"ewsjf": 1}'], "has an entry"),
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
    config = config_of(ewsjf_launch(["m"], policy, {}).command)
    served = SchedulerSettings.from_additional_config(config).policy
    assert isinstance(served, Policy) and served.to_dict() == policy.to_dict()
