"""The simulated executor: what a step computes, the model folder, and a whole engine on it."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ewsjf_env.config import ConfigError
from ewsjf_env.engine.simulated.machine import preset_names
from ewsjf_env.engine.simulated.vllm_config import load_vllm
from ewsjf_env.engine.stand_in.model_folder import WORD_TOKENS, model_folder, words
from ewsjf_env.engine.stand_in.plugin import SWITCH
from ewsjf_env.engine.stand_in.settings import ExecutorSettings
from ewsjf_env.scheduling.step_work import StepWork

LATENCY = "llama2-13b_a100-80g"


def test_a_request_samples_the_token_after_those_computed() -> None:
    load_vllm()
    from ewsjf_env.engine.stand_in.executor import sampled_positions

    output = SimpleNamespace(
        num_scheduled_tokens={"decodes": 1, "halfway": 8, "whole": 5},
        scheduled_new_reqs=[SimpleNamespace(req_id="whole", num_computed_tokens=0)],
        scheduled_cached_reqs=SimpleNamespace(
            req_ids=["halfway", "decodes"], num_computed_tokens=[16, 40]
        ),
    )
    work = StepWork(13, 1.0, 1, 41, completed=("whole",), unfinished=("halfway",))
    assert sampled_positions(output, work) == [41, -1, 5]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"latncy": LATENCY}, "unknown key 'latncy'; nearest valid name: 'latency'"),
        ({"speed": 0}, "speed: 0 is outside (0, 1000]"),
        ({"speed": float("inf")}, "speed: inf is outside"),
        ({"speed": "fast"}, "speed: expected a number"),
        ([], "expected a mapping"),
    ],
)
def test_bad_settings_are_refused_by_name(config: object, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        ExecutorSettings.from_additional_config({"ewsjf_simulated": config})
    assert message in str(caught.value)


def test_settings_have_defaults() -> None:
    assert ExecutorSettings.from_additional_config(None) == ExecutorSettings()
    assert ExecutorSettings.from_additional_config({"ewsjf": {}}).speed == 1.0


@pytest.mark.parametrize("preset", preset_names())
def test_a_model_folder_is_complete_and_stays(preset: str, tmp_path: Path) -> None:
    folder = model_folder(preset, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["EwsjfSimulatedModel"]
    assert config["vocab_size"] >= WORD_TOKENS
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert set(before) == {"config.json", "tokenizer.json", "tokenizer_config.json"}
    assert model_folder(preset, tmp_path / "model") == folder
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_words_are_tokens_there_and_back(tmp_path: Path) -> None:
    from tokenizers import Tokenizer

    folder = model_folder(LATENCY, tmp_path / "model")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    text = words(500, first=WORD_TOKENS - 20)
    encoded = tokenizer.encode(text).ids
    assert len(encoded) == 500
    assert tokenizer.decode(encoded) == text
    assert len(tokenizer.encode("never seen: three, four").ids) == 4


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be written"):
        model_folder(LATENCY, tmp_path / "file" / "model")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_folder(LATENCY, tmp_path_factory.mktemp("model") / "llama2-13b")


@pytest.fixture
def simulated_vllm(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv(SWITCH, "1")
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    monkeypatch.setenv("VLLM_LOGGING_LEVEL", os.environ.get("VLLM_LOGGING_LEVEL", "ERROR"))
    load_vllm()
    return


def make_llm(folder: Path, **changes: Any) -> Any:
    from vllm import LLM

    settings: dict[str, Any] = {
        "model": str(folder),
        "load_format": "dummy",
        "max_model_len": 8192,
        "max_num_batched_tokens": 2048,
        "block_size": 16,
        "gpu_memory_utilization": 0.9,
        "enable_prefix_caching": False,
        "distributed_executor_backend": "ewsjf_env.engine.stand_in.executor.SimulatedExecutor",
        "scheduler_cls": "ewsjf_env.serving.scheduler.EWSJFScheduler",
        "additional_config": {"ewsjf_simulated": {"speed": 20.0}},
        "seed": 0,
    }
    return LLM(**settings | changes)


@pytest.mark.live
@pytest.mark.filterwarnings("ignore")
def test_a_whole_engine_serves_text(folder: Path, simulated_vllm: None) -> None:
    from vllm import SamplingParams

    llm = make_llm(folder)
    core = llm.llm_engine.engine_core.engine_core
    assert core.vllm_config.scheduler_config.async_scheduling
    latency = core.model_executor._latency
    blocks = latency.machine.kv_blocks(16, 0.9)
    assert core.vllm_config.cache_config.num_gpu_blocks == blocks
    assert type(core.scheduler).__name__ == "EWSJFScheduler"
    sampling = SamplingParams(max_tokens=20, ignore_eos=True)
    started_s = time.monotonic()
    lengths = (100, 200, 3000, 4000)
    outputs = llm.generate([words(n) for n in lengths], sampling, use_tqdm=False)
    elapsed_s = time.monotonic() - started_s
    assert [len(o.prompt_token_ids) for o in outputs] == list(lengths)
    assert [len(o.outputs[0].text.split()) for o in outputs] == [20] * 4
    # At least the arithmetic of all prompts has been waited for.
    assert elapsed_s >= sum(latency.prefill_s(n, 2048) for n in lengths) / 20.0 * 0.5
    answer = core.ewsjf_window(0)
    assert len(answer["finished"]) == 4
    changed = core.ewsjf_configure({"parameters": {"k": 7.0}})
    assert changed["applied"] and changed["policy"]["parameters"]["k"] == 7.0
    refused = core.ewsjf_configure({"parameters": {"k": -1}}, None, None)
    assert not refused["applied"] and "outside" in refused["error"] and not refused["conflict"]
    assert refused["policy"] == changed["policy"]
    overtaken = core.ewsjf_configure({"parameters": {"k": 9.0}}, None, 1)
    assert overtaken["conflict"] and "overtaken" in overtaken["error"]
    assert core.ewsjf_configure({"parameters": {"k": 9.0}}, None, 5)["policy_version"] == 5
    assert "policy" not in core.ewsjf_state(False)
    with pytest.raises(ConfigError, match=r"head size\) are \(40, 40, 128\)"):
        make_llm(
            folder,
            additional_config={},
            hf_overrides={"num_key_value_heads": 8, "num_attention_heads": 40},
        )
