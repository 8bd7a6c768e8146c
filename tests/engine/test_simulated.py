from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ewsjf_env.config import ConfigError, from_dict, load_yaml, to_dict
from ewsjf_env.engine.base import Engine, EngineError
from ewsjf_env.engine.simulated.config import SimulatedConfig
from ewsjf_env.engine.simulated.engine import SimulatedEngine
from ewsjf_env.engine.simulated.latency import Coefficients, LatencyModel
from ewsjf_env.engine.simulated.vllm_config import check_version
from tests.engine.short_traces import ALONE, STOCK, make_trace, random_trace, served

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def unit_steps(tmp_path: Path) -> str:
    """A latency file by which every step takes exactly 1 s."""
    steps = Coefficients(
        overhead_s=1.0,
        weights_s=0.0,
        linear_s_per_token=0.0,
        attention_s_per_pair=0.0,
        kv_read_s_per_token=0.0,
    )
    dataclasses.replace(LatencyModel.load("llama3-8b_h100"), measured=steps).save(
        tmp_path / "unit.json"
    )
    return str(tmp_path / "unit.json")


def test_engine_keeps_the_protocol() -> None:
    engine = SimulatedEngine(STOCK)
    assert isinstance(engine, Engine)
    with pytest.raises(EngineError, match="no traffic"):
        engine.run_window(1.0)
    engine.reset(make_trace([0.5], [100], [3]))
    assert engine.now() == 0.0
    engine.run_window(0.25)
    assert engine.now() == 0.25
    engine.run_window(9.75)
    assert engine.now() == 10.0
    engine.close()
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        engine.run_window(1.0)


def test_synchronous_steps_by_hand(unit_steps: str) -> None:
    config = dataclasses.replace(STOCK, latency=unit_steps, async_scheduling=False)
    # Steps start at 0, 1, 2, ...: the second request joins the step that starts at 1.
    first, second, late = served(config, make_trace([0.0, 0.5, 9.25], [100, 50, 8], [3, 2, 1]))
    assert (first.first_token_s, first.finish_s) == (1.0, 3.0)
    assert (second.first_token_s, second.finish_s) == (2.0, 3.0)
    assert (late.first_token_s, late.finish_s) == (10.25, 10.25)


def test_asynchronous_steps_look_one_step_ahead(unit_steps: str) -> None:
    config = dataclasses.replace(STOCK, latency=unit_steps)
    # Step 2 is scheduled when step 1 starts, so the request arriving at 0.5 must wait for step 3.
    first, second = served(config, make_trace([0.0, 0.5], [100, 50], [3, 2]))
    assert (first.first_token_s, first.finish_s) == (1.0, 3.0)
    assert (second.first_token_s, second.finish_s) == (3.0, 4.0)


def test_a_prompt_over_the_budget_is_prefilled_in_chunks(unit_steps: str) -> None:
    config = dataclasses.replace(STOCK, latency=unit_steps, max_num_batched_tokens=512)
    (record,) = served(config, make_trace([0.0], [1500], [2]))
    assert (record.first_token_s, record.finish_s) == (3.0, 4.0)


def test_one_at_a_time_follows_the_lindley_recursion() -> None:
    random = np.random.default_rng(5)
    prompt = random.integers(32, 4096, 300)
    arrival_s = np.cumsum(random.exponential(0.5, 300))
    trace = make_trace(arrival_s.tolist(), prompt.tolist(), [1] * 300)
    model = LatencyModel.load(ALONE.latency)
    free_s = 0.0
    for record, b, moment in zip(served(ALONE, trace), prompt.tolist(), arrival_s, strict=True):
        free_s = max(free_s, float(moment)) + model.step_s(b, 0, 0, b * b / 2)
        assert record.first_token_s == record.finish_s == pytest.approx(free_s, rel=1e-12)
        assert record.generated_tokens == 1


@pytest.mark.parametrize("asynchronous", [True, False])
def test_windows_add_up_to_one_long_window(asynchronous: bool) -> None:
    config = dataclasses.replace(STOCK, async_scheduling=asynchronous)
    trace = random_trace(1, rate_per_s=3.0, duration_s=40.0)
    whole, pieces = SimulatedEngine(config), SimulatedEngine(config)
    whole.reset(trace)
    pieces.reset(trace)
    long = whole.run_window(40.0)
    parts = [pieces.run_window(2.5) for _ in range(16)]
    assert pieces.now() == whole.now() == 40.0
    assert pieces.records() == whole.records()
    assert sum(p.finished for p in parts) == long.finished > 20
    assert sum(p.output_tokens_per_s * 2.5 for p in parts) == pytest.approx(
        long.output_tokens_per_s * 40.0
    )
    assert np.mean([p.kv_usage_mean for p in parts]) == pytest.approx(long.kv_usage_mean)


def test_tokens_and_requests_are_conserved() -> None:
    trace = random_trace(2, rate_per_s=3.0, duration_s=30.0)
    engine = SimulatedEngine(STOCK)
    engine.reset(trace)
    window = engine.run_window(30.0)
    inside = engine.records()
    assert window.arrivals == len(trace)
    assert window.output_tokens_per_s * 30.0 == pytest.approx(
        sum(r.generated_tokens for r in inside)
    )
    drained = engine.drain()
    assert drained.finished == len(trace)
    assert drained.outstanding == 0
    assert drained.window_s == pytest.approx(engine.now())
    total = int(trace.output_tokens.sum())
    assert sum(r.generated_tokens for r in engine.records()) == total
    assert drained.output_tokens_per_s * drained.window_s == pytest.approx(total)


def test_arrivals_after_the_window_are_dropped_by_drain() -> None:
    engine = SimulatedEngine(STOCK)
    engine.reset(make_trace([0.0, 1.0, 50.0], [100, 100, 100], [4, 400, 4]))
    engine.run_window(5.0)
    drained = engine.drain()
    assert (drained.arrivals, drained.finished) == (2, 2)
    assert 5.0 < engine.now() < 50.0
    engine.reset(make_trace([0.0, 1.0, 50.0], [100, 100, 100], [4, 400, 4]))
    engine.run_window(5.0)
    assert engine.drain(max_s=0.5).outstanding == 1
    assert engine.now() == 5.5


def test_abort_ends_the_window_early_and_changes_nothing_else() -> None:
    trace = random_trace(4, rate_per_s=6.0, duration_s=30.0)
    watched, plain = SimulatedEngine(STOCK), SimulatedEngine(STOCK)
    watched.reset(trace)
    plain.reset(trace)
    seen: list[float] = []

    def at_ten(metrics: Any) -> bool:
        seen.append(metrics.window_s)
        return bool(metrics.window_s >= 10.0)

    metrics = watched.run_window(30.0, at_ten)
    assert seen == pytest.approx([float(i) for i in range(1, 11)])
    assert metrics.window_s == watched.now() == 10.0
    watched.run_window(20.0)
    plain.run_window(30.0)
    assert watched.records() == plain.records()


def test_small_kv_cache_preempts_and_still_serves_everything() -> None:
    config = dataclasses.replace(STOCK, kv_blocks=60, max_model_len=900)
    trace = make_trace([0.0] * 6, [200] * 6, [300] * 6)
    records = served(config, trace)
    assert sum(r.preemptions for r in records) > 0
    assert all(r.generated_tokens == 300 and r.finish_s is not None for r in records)


def test_prefix_cache_shares_exactly_the_common_blocks() -> None:
    ids = ((1, 2, 3), (1, 2, 9), (4, 2, 3), (1, 2, 3))
    trace = make_trace([0.0, 10.0, 20.0, 30.0], [1300, 1400, 1300, 1300], [4] * 4, ids)
    config = dataclasses.replace(STOCK, prefix_caching=True)
    assert [r.cached_tokens for r in served(config, trace)] == [0, 1024, 0, 1296]
    assert [r.cached_tokens for r in served(STOCK, trace)] == [0, 0, 0, 0]
    without_ids = dataclasses.replace(trace, block_ids=None)
    assert [r.cached_tokens for r in served(config, without_ids)] == [0, 0, 0, 0]


def test_prefix_hits_are_counted_and_save_time() -> None:
    trace = make_trace([0.0, 10.0], [2048, 2048], [2, 2], ((1, 2, 3, 4), (1, 2, 3, 5)))
    engine = SimulatedEngine(dataclasses.replace(STOCK, prefix_caching=True))
    engine.reset(trace)
    metrics = engine.run_window(20.0)
    assert metrics.prefix_hit_rate == pytest.approx(1536 / 4096)
    first, second = engine.records()
    assert first.first_token_s is not None
    assert second.first_token_s is not None
    assert second.first_token_s - 10.0 < 0.4 * first.first_token_s


def test_same_seed_same_result_also_in_another_process() -> None:
    config = dataclasses.replace(STOCK, noise_sigma=0.1, prefix_caching=True, kv_blocks=400)
    config = dataclasses.replace(config, max_model_len=4600)
    expected = _fingerprint(config)
    assert _fingerprint(config) == expected
    assert _fingerprint(dataclasses.replace(config, noise_seed=1)) != expected
    code = (
        "import json, sys; from tests.engine.test_simulated import _fingerprint;"
        "from ewsjf_env.config import from_dict;"
        "from ewsjf_env.engine.simulated.config import SimulatedConfig;"
        "print(_fingerprint(from_dict(SimulatedConfig, json.loads(sys.argv[1]), 'argument')))"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "4321"}
    found = subprocess.run(
        [sys.executable, "-c", code, json.dumps(to_dict(config))],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.strip().splitlines()[-1] == expected


def _fingerprint(config: SimulatedConfig) -> str:
    engine = SimulatedEngine(config)
    engine.reset(random_trace(7, rate_per_s=3.0, duration_s=20.0))
    metrics = engine.run_window(20.0)
    return repr((metrics.to_dict(), engine.records()))


def test_noise_scales_steps_with_mean_one() -> None:
    trace = make_trace([0.0], [100], [4000])
    quiet = served(STOCK, trace)[0].finish_s
    noisy = served(dataclasses.replace(STOCK, noise_sigma=0.2), trace)[0].finish_s
    assert quiet is not None
    assert noisy is not None
    assert noisy != quiet
    # 4,000 factors of standard deviation 0.2: the mean is within 0.0032 of 1, at 4 sigma 0.013.
    assert noisy == pytest.approx(quiet, rel=0.013)


def test_capacity_of_one_at_a_time_is_the_inverse_of_the_service_time() -> None:
    prompt = np.tile([100, 4000], 60)
    backlog = make_trace([0.0] * 120, prompt.tolist(), [1] * 120)
    engine = SimulatedEngine(ALONE)
    mean_s = (engine.prefill_cost_s(100) + engine.prefill_cost_s(4000)) / 2
    assert engine.measure_capacity(backlog) == pytest.approx(1 / mean_s, rel=0.02)
    assert engine.now() == 0.0


def test_capacity_separates_stable_from_unstable_load() -> None:
    engine = SimulatedEngine(STOCK)
    trace = random_trace(11, rate_per_s=1.0, duration_s=1200.0)
    backlog = dataclasses.replace(trace, arrival_s=np.zeros(len(trace)))
    capacity = engine.measure_capacity(backlog)
    waits = []
    for load in (0.8, 1.3):
        stretch = load * capacity
        engine.reset(dataclasses.replace(trace, arrival_s=trace.arrival_s / stretch))
        waits.append(engine.run_window(1200.0 / stretch).ttft_mean_s)
    assert waits[0] < 2.0 < 8.0 < waits[1]
    with pytest.raises(ConfigError, match="too few"):
        engine.measure_capacity(make_trace([0.0] * 50, [10] * 50, [100] * 50))
    with pytest.raises(ConfigError, match="expected all at 0"):
        engine.measure_capacity(trace)


def test_requests_over_the_limits_are_capped_or_refused() -> None:
    engine = SimulatedEngine(dataclasses.replace(STOCK, max_model_len=1000))
    engine.reset(make_trace([0.0, 0.0, 0.0], [2000, 900, 10], [50, 500, 10]))
    assert engine.capped == {"capped_prompts": 1, "capped_outputs": 2}
    engine.run_window(60.0)
    records = engine.records()
    assert [(r.prompt_tokens, r.output_tokens) for r in records] == [(999, 1), (900, 100), (10, 10)]
    assert all(r.generated_tokens == r.output_tokens for r in records)
    small = SimulatedEngine(dataclasses.replace(STOCK, kv_blocks=10))
    with pytest.raises(ConfigError, match=r"request 1: 150 prompt \+ 20 output tokens"):
        small.reset(make_trace([0.0, 0.0], [100, 150], [20, 20]))
    with pytest.raises(ConfigError, match="empty"):
        small.reset(make_trace([], [], []))


def test_largest_request_that_fits_is_served() -> None:
    config = dataclasses.replace(STOCK, kv_blocks=10, max_model_len=200)
    (record,) = served(config, make_trace([0.0], [100], [45]))
    assert record.generated_tokens == 45
    with pytest.raises(ConfigError, match="do not fit"):
        served(config, make_trace([0.0], [100], [46]))


def test_overhead_is_measured_only_when_asked_for() -> None:
    trace = random_trace(1, rate_per_s=2.0, duration_s=5.0)
    for measure in (False, True):
        engine = SimulatedEngine(dataclasses.replace(STOCK, measure_overhead=measure))
        engine.reset(trace)
        overhead = engine.run_window(5.0).scheduler_us_per_step
        assert (overhead is not None and overhead > 0) is measure


def test_a_limit_on_one_prompt_stretches_it_over_steps(unit_steps: str) -> None:
    config = dataclasses.replace(STOCK, latency=unit_steps, async_scheduling=False)
    both = make_trace([0.0, 0.0], [1000, 1000], [2, 2])
    assert [r.first_token_s for r in served(config, both)] == [1.0, 1.0]
    limited = dataclasses.replace(config, long_prefill_token_threshold=256)
    assert [r.first_token_s for r in served(limited, both)] == [4.0, 4.0]


def test_yaml_file_holds_the_defaults() -> None:
    path = REPOSITORY / "configs" / "env" / "machine.yaml"
    assert SimulatedConfig.load(path) == SimulatedConfig()
    assert set(load_yaml(path)) == {f.name for f in dataclasses.fields(SimulatedConfig)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"latency": "llama2-13b"}, "nearest valid name: 'llama2-13b_a100-80g'"),
        ({"max_num_seq": 3}, "nearest valid name: 'max_num_seqs'"),
        ({"scheduler": "fcfs"}, "not one of"),
        ({"max_num_batched_tokens": 100}, "below max_num_seqs"),
        ({"chunked_prefill": False}, "needs chunked_prefill"),
        ({"noise_sigma": float("nan")}, "noise_sigma"),
        ({"gpu_memory_utilization": 0.2}, "no room for a KV block"),
        ({"kv_blocks": 1}, "kv_blocks"),
        ({"long_prefill_token_threshold": 16385}, r"outside \[0, 16384\]"),
    ],
)
def test_bad_configurations_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SimulatedEngine(from_dict(SimulatedConfig, change, "test"))


@pytest.mark.parametrize("version", ["0.25.1", "0.34.0", "1.0.0", "unknown"])
def test_untested_vllm_is_refused(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.metadata.version", lambda _: version)
    with pytest.raises(ConfigError, match=r"0\.26"):
        check_version()
