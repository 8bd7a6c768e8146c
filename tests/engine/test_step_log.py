"""The log of a real scheduler's steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ewsjf_env.config import ConfigError
from ewsjf_env.engine.simulated.vllm_config import build_scheduler, load_vllm
from ewsjf_env.engine.stand_in.model_folder import model_folder
from ewsjf_env.engine.steps.step_samples import KEY, read_steps
from tests.serving.vllm_traffic import finish_step, make_request, make_setup, run_step


def build(path: object) -> tuple[Any, Any]:
    load_vllm()
    from ewsjf_env.engine.steps.step_log import StepLogScheduler

    setup = make_setup(kv_blocks=64, asynchronous=True)
    setup.vllm_config.additional_config = {KEY: path}
    return setup, build_scheduler(setup, StepLogScheduler)


def test_every_step_but_the_first_is_in_the_log(tmp_path: Path) -> None:
    path = tmp_path / "steps.jsonl"
    setup, scheduler = build(str(path))
    requests = [(5 + 13 * i % 100, 1 + i % 7) for i in range(30)]
    for index, (prompt, output) in enumerate(requests):
        scheduler.add_request(make_request(setup, f"r{index}", prompt, output, 0.0))
    in_flight: list[Any] = []
    computed = []
    while scheduler.has_requests():
        computed.append(sum(run_step(scheduler, in_flight, 2).num_scheduled_tokens.values()))
        if not computed[-1]:
            while in_flight:
                finish_step(scheduler, in_flight.pop(0))
    scheduler.shutdown()
    scheduler.shutdown()
    steps = read_steps(path)
    computed = [tokens for tokens in computed if tokens]
    assert [s.prefill_tokens + s.decode_requests for s in steps] == computed[1:]
    # The first step of all has nothing to be measured from; it holds prompts only.
    assert sum(s.prefill_tokens for s in steps) == sum(p for p, _ in requests) - computed[0]
    assert all(s.seconds > 0 for s in steps)
    assert [s.at_s for s in steps] == sorted(s.at_s for s in steps)
    assert sum(s.overlapped for s in steps) > 0.8 * len(steps)


def test_it_needs_a_file_that_can_be_written(tmp_path: Path) -> None:
    for path, message in ((None, "expected the path"), (str(tmp_path / "no/x"), "No such file")):
        with pytest.raises(ConfigError, match=message):
            build(path)


def test_the_folder_for_a_real_device_is_the_models_own(tmp_path: Path) -> None:
    from tokenizers import Tokenizer

    folder = model_folder("llama3-8b_h100", tmp_path / "m", real=True)
    assert '"LlamaForCausalLM"' in (folder / "config.json").read_text(encoding="utf-8")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    # Random weights make up any token; each is a word.
    assert tokenizer.get_vocab_size() == 128_256
    assert tokenizer.decode([128_255, 3]) == "w128252 w0"
