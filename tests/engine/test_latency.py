from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ewsjf_env.config import ConfigError
from ewsjf_env.engine.simulated.latency import (
    Coefficients,
    LatencyModel,
)
from ewsjf_env.engine.simulated.machine import MODEL_DIRECTORY, PRESET_DIRECTORY, preset_names


@dataclasses.dataclass(frozen=True)
class Step:
    prefill_tokens: int
    prefill_attention: float
    decode_requests: int
    context_tokens: int


def numbers(data: Any, prefix: str = "") -> set[str]:
    """Dotted keys of all numbers in nested mappings."""
    if isinstance(data, dict):
        return set().union(*(numbers(v, f"{prefix}{k}.") for k, v in data.items()))
    return {prefix[:-1]} if isinstance(data, (int, float)) else set()


def random_steps(model: LatencyModel, count: int, noise: float) -> list[tuple[Step, float]]:
    random = np.random.default_rng(0)
    samples = []
    for i in range(count):
        prefill = 0 if i % 2 else int(random.integers(1, 2049))
        context = int(random.integers(0, 4096))
        decodes = int(random.integers(1, 200))
        step = Step(
            prefill_tokens=prefill,
            prefill_attention=prefill * (context + prefill / 2),
            decode_requests=decodes,
            context_tokens=decodes * int(random.integers(64, 2048)),
        )
        seconds = model.step_s(
            step.prefill_tokens, step.decode_requests, step.context_tokens, step.prefill_attention
        )
        samples.append((step, seconds * float(np.exp(noise * random.standard_normal()))))
    return samples


def test_13b_preset_has_the_constants_of_the_first_measurements() -> None:
    found = LatencyModel.load("llama2-13b_a100-80g").coefficients
    assert found.overhead_s == 0.004
    assert found.weights_s == pytest.approx(26e9 / 1.6e12, rel=1e-4)
    assert found.linear_s_per_token == pytest.approx(2 * 13e9 / (0.5 * 312e12))
    assert found.attention_s_per_pair == pytest.approx(4 * 40 * 5120 / (0.5 * 312e12))
    assert found.kv_read_s_per_token == pytest.approx(819200 / 1.6e12, rel=1e-4)


def test_13b_kv_cache_fits_the_gpu() -> None:
    machine = LatencyModel.load("llama2-13b_a100-80g").machine
    assert machine.model.kv_bytes_per_token == 819_200
    assert machine.kv_blocks(16, 0.9) == pytest.approx(3500, rel=0.01)
    with pytest.raises(ConfigError, match="no room for a KV block"):
        machine.kv_blocks(16, 0.3)


@pytest.mark.parametrize("name", preset_names())
def test_every_number_of_a_preset_has_a_source(name: str) -> None:
    data = json.loads((PRESET_DIRECTORY / f"{name}.json").read_text(encoding="utf-8"))["machine"]
    assert numbers(data) == set(data["sources"])
    assert all(len(text) > 15 for text in data["sources"].values())


@pytest.mark.parametrize("name", preset_names())
def test_presets_agree_with_their_model_config(name: str) -> None:
    model = LatencyModel.load(name).machine.model
    path = MODEL_DIRECTORY / model.name / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    assert model.layers == config["num_hidden_layers"]
    assert model.attention_heads == config["num_attention_heads"]
    assert model.kv_heads == config["num_key_value_heads"]
    assert model.head_size == config["hidden_size"] // config["num_attention_heads"]
    attention = (
        2 * config["hidden_size"] * model.head_size * (model.attention_heads + model.kv_heads)
    )
    mlp = 3 * config["hidden_size"] * config["intermediate_size"]
    embedding = 2 * config["vocab_size"] * config["hidden_size"]
    counted = model.layers * (attention + mlp) + embedding
    assert model.parameters == pytest.approx(counted, rel=0.005)


def test_step_adds_up_its_parts() -> None:
    model = dataclasses.replace(
        LatencyModel.load("llama3-8b_h100"),
        measured=Coefficients(
            overhead_s=1.0,
            weights_s=10.0,
            linear_s_per_token=0.5,
            attention_s_per_pair=0.01,
            kv_read_s_per_token=0.001,
        ),
    )
    assert model.step_s(0, 4, 1000, 0.0) == pytest.approx(1 + 10 + 1)
    assert model.step_s(96, 4, 1000, 100.0) == pytest.approx(1 + 50 + 1 + 1)


@pytest.mark.parametrize("tokens", [1, 511, 512, 513, 5000])
def test_prefill_is_the_sum_of_its_chunks(tokens: int) -> None:
    model = LatencyModel.load("llama2-13b_a100-80g")
    seconds, done = 0.0, 0
    while done < tokens:
        chunk = min(512, tokens - done)
        done += chunk
        seconds += model.step_s(chunk, 0, 0, chunk * (done - chunk / 2))
    assert model.prefill_s(tokens, 512) == pytest.approx(seconds, rel=1e-12)


def test_cost_prior_follows_the_prefill_time() -> None:
    model = LatencyModel.load("llama2-13b_a100-80g")
    prior = model.cost_prior(2048)
    assert min(prior.c0_s, prior.c1_s_per_token, prior.c2_s_per_token2) >= 0
    for b in (256, 1024, 4096, 16384):
        cost = prior.c0_s + prior.c1_s_per_token * b + prior.c2_s_per_token2 * b * b
        assert cost == pytest.approx(model.prefill_s(b, 2048), rel=0.15)


def test_fit_recovers_exact_steps() -> None:
    truth = LatencyModel.load("qwen2.5-7b_h200")
    start = LatencyModel.load("llama2-13b_a100-80g")
    fitted = start.fit(random_steps(truth, 400, noise=0.0))
    for name, value in dataclasses.asdict(truth.coefficients).items():
        assert getattr(fitted.coefficients, name) == pytest.approx(value, rel=0.02), name
    assert fitted.fit_error is not None
    assert fitted.fit_error.samples == 400
    assert fitted.fit_error.relative_error_p95 < 0.002
    assert fitted.fit_error.r2 > 0.9999


def test_fit_reports_the_error_of_noisy_steps() -> None:
    truth = LatencyModel.load("llama3-8b_h100")
    fitted = truth.fit(random_steps(truth, 400, noise=0.05))
    assert fitted.fit_error is not None
    # The median of |N(0, 0.05)| is 0.0337.
    assert fitted.fit_error.relative_error_median == pytest.approx(0.0337, rel=0.2)
    assert fitted.step_s(1024, 0, 0, 2**19) == pytest.approx(
        truth.step_s(1024, 0, 0, 2**19), rel=0.03
    )


def test_fit_refuses_samples_that_cannot_tell_the_parts_apart() -> None:
    model = LatencyModel.load("llama3-8b_h100")
    samples = random_steps(model, 40, noise=0.0)
    decodes = [pair for pair in samples if pair[0].prefill_tokens == 0]
    with pytest.raises(ConfigError, match="0 steps with prefill"):
        model.fit(decodes)
    with pytest.raises(ConfigError, match="positive"):
        model.fit([*samples, (samples[0][0], 0.0)])


def test_save_and_load_give_the_same_model(tmp_path: Path) -> None:
    model = LatencyModel.load("llama3-8b_h100")
    fitted = model.fit(random_steps(model, 100, noise=0.02))
    fitted.save(tmp_path / "fitted.json")
    assert LatencyModel.load(tmp_path / "fitted.json") == fitted
    assert LatencyModel.load(tmp_path / "fitted.json").content_hash == fitted.content_hash
    assert fitted.content_hash != model.content_hash


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": 2}, "schema_version: 2 is not 1"),
        ({"machin": {}}, "nearest valid name: 'machine'"),
        ({"measured": {"overhead_s": 1.0}}, "missing key 'weights_s'"),
    ],
)
def test_bad_files_are_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    data = LatencyModel.load("llama3-8b_h100").to_dict() | change
    (tmp_path / "bad.json").write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        LatencyModel.load(tmp_path / "bad.json")


def test_unknown_preset_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="nearest valid name: 'llama3-8b_h100'"):
        LatencyModel.load("llama3-8b_h10")
    with pytest.raises(ConfigError, match="cannot be read"):
        LatencyModel.load("missing.json")


def test_a_step_too_large_for_a_graph_takes_its_launch() -> None:
    model = LatencyModel.load("llama2-13b_a100-80g")
    launching = dataclasses.replace(
        model, measured=dataclasses.replace(model.coefficients, launch_s=1.0, captured_tokens=512)
    )
    assert launching.step_s(500, 12, 0, 0.0) == model.step_s(500, 12, 0, 0.0) < 1.0
    assert launching.step_s(500, 13, 0, 0.0) == 1.0
    assert launching.step_s(50_000, 0, 0, 0.0) == model.step_s(50_000, 0, 0, 0.0) > 1.0
    assert launching.content_hash != model.content_hash
    # It is not told by these steps, and the fit keeps it.
    assert launching.fit(random_steps(model, 40, 0.0)).coefficients.launch_s == 1.0


def test_a_model_without_launches_is_the_same_machine_whatever_its_graphs() -> None:
    model = LatencyModel.load("llama2-13b_a100-80g")
    other = dataclasses.replace(
        model, measured=dataclasses.replace(model.coefficients, captured_tokens=64)
    )
    assert other.content_hash == model.content_hash
