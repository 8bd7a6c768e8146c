"""The compiled engine keeps the contract of all engines, and refuses by name what it cannot do."""

import dataclasses
import itertools
import threading

import numpy as np
import pytest

from ewsjf_env.config import ConfigError
from ewsjf_env.engine.base import Engine, EngineError
from ewsjf_env.engine.compiled.engine import CompiledEngine
from ewsjf_env.engine.compiled.many import play_many
from ewsjf_env.engine.compiled.prefixes import prefix_numbers
from ewsjf_env.engine.simulated.config import SimulatedConfig
from ewsjf_env.policy.policy import parse_policy
from ewsjf_env.scheduling.tenants import TenantSettings
from tests.engine.compiled.both_engines import small_traffic
from tests.engine.engine_contract import EngineContract


class TestCompiledEngine(EngineContract):
    def make_engine(self) -> Engine:
        return CompiledEngine(SimulatedConfig(kv_blocks=3500, noise_sigma=0.1))


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"tenants": TenantSettings(by="priority")}, "tenants"),
        ({"measure_overhead": True}, "measure_overhead"),
    ],
)
def test_refuses_settings_by_name(changes: dict[str, object], field: str) -> None:
    config = dataclasses.replace(SimulatedConfig(), **changes)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=rf"^{field}: .*use engine: simulated$"):
        CompiledEngine(config)


def test_the_stock_scheduler_has_no_policy() -> None:
    engine = CompiledEngine(SimulatedConfig(scheduler="stock"))
    with pytest.raises(ConfigError, match="'stock' cannot serve policy 'fcfs'"):
        engine.install(parse_policy("fcfs"))
    engine.reset(small_traffic())
    assert engine.cuts() == ()
    assert engine.run_window(5.0).queues == 1


def test_a_request_that_never_fits_is_named() -> None:
    engine = CompiledEngine(SimulatedConfig(kv_blocks=10))
    with pytest.raises(ConfigError, match=r"request \d+: .* do not fit into the KV cache"):
        engine.reset(small_traffic())


def test_an_idle_engine_jumps_to_the_next_arrival() -> None:
    trace = dataclasses.replace(small_traffic(count=3), arrival_s=np.array([0.0, 5e6, 1e7]))
    engine = CompiledEngine()
    engine.reset(trace)
    assert engine.run_window(1.1e7).finished == 3


def test_windows_of_many_are_those_of_one() -> None:
    policies = [parse_policy(name) for name in ("fcfs", "hrrn", "ewsjf")]
    traces = [small_traffic(seed) for seed in (1, 2)]
    played = play_many(policies, traces, [5.0, 10.0], threads=2)
    for (policy, trace), windows in zip(
        itertools.product(policies, traces), itertools.chain(*played), strict=True
    ):
        engine = CompiledEngine()
        engine.install(policy)
        engine.reset(trace)
        alone = [engine.run_window(duration_s).to_dict() for duration_s in (5.0, 10.0)]
        assert [window.to_dict() for window in windows] == alone


def test_nothing_to_play_is_refused() -> None:
    with pytest.raises(ConfigError, match="policies: empty"):
        play_many([], [small_traffic()], [1.0])


def test_other_threads_run_meanwhile() -> None:
    """Compiled code holds no lock: a thread gets on while another one plays."""
    engine = CompiledEngine(SimulatedConfig(kv_blocks=100_000, scheduler="stock"))
    count = 256
    trace = dataclasses.replace(
        small_traffic(count=count),
        arrival_s=np.zeros(count),
        prompt_tokens=np.ones(count, np.int64),
        output_tokens=np.full(count, 16_000),
    )
    engine.reset(trace)
    engine.core.advance(0.0)
    playing = threading.Thread(target=lambda: engine.core.advance(1e4))
    playing.start()
    seen = 0
    while playing.is_alive():
        seen += 1
    assert seen > 100


def test_an_abort_keeps_what_was_served() -> None:
    engine = CompiledEngine()
    engine.reset(small_traffic())
    assert engine.run_window(10.0, lambda metrics: metrics.window_s >= 2.0).window_s == 2.0
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        engine.run_window(1.0)


@pytest.mark.parametrize("block_tokens", [16, 48, 512, 700])
def test_prefix_numbers_are_equal_where_all_tokens_are(block_tokens: int) -> None:
    trace = small_traffic(3, 40, shared=True)
    prompt, output = trace.prompt_tokens, trace.output_tokens
    numbers, starts, count = prefix_numbers(prompt, output, trace.block_ids, block_tokens)
    assert trace.block_ids is not None
    seen: dict[tuple[int, ...], int] = {}
    for index, ids in enumerate(trace.block_ids):
        tokens = [i for i in ids for _ in range(512)][: prompt[index]] + [7] * output[index]
        for block in range(len(tokens) // block_tokens):
            prefix = tuple(tokens[: (block + 1) * block_tokens])
            number = int(numbers[starts[index] + block])
            assert seen.setdefault(prefix, number) == number
    assert len(set(seen.values())) == len(seen) == count
