"""What callers say, and what is looked up for them, inside vLLM's own scheduler."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ewsjf_env.config import ConfigError
from ewsjf_env.engine.simulated.vllm_config import VllmSetup, build_scheduler, load_vllm
from ewsjf_env.policy.policy import parse_policy
from ewsjf_env.scheduling.tenants import TenantSettings
from ewsjf_env.serving.hints import Hints, read_hints
from ewsjf_env.serving.settings import SchedulerSettings
from tests.serving.test_scheduler import EVENT, ours, play
from tests.serving.vllm_traffic import make_request, make_setup, run_step


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        (None, Hints()),
        ({}, Hints()),
        ({"other": 1, "kv_transfer_params": {}}, Hints()),
        ({"ewsjf": {"output_tokens": 120, "tenant": "a"}}, Hints(120, "a")),
        ({"ewsjf_output_tokens": 12.4, "ewsjf_tenant": "a b"}, Hints(12, "a b")),
        ({"ewsjf": {"tenant": 7}}, Hints(None, "7")),
        ({"ewsjf": {"output_tokens": None}}, Hints()),
        ({"ewsjf": {"output_tokens": 0}}, Hints(ignored=1)),
        ({"ewsjf": {"output_tokens": -5, "tenant": "x" * 65}}, Hints(ignored=2)),
        ({"ewsjf": {"output_tokens": 1e300}}, Hints(ignored=1)),
        ({"ewsjf": {"output_tokens": float("nan"), "tenant": "a\n"}}, Hints(ignored=2)),
        ({"ewsjf": {"output_tokens": True, "tenant": False}}, Hints(ignored=2)),
        ({"ewsjf": {"output_tokens": "120", "tenant": ["a"]}}, Hints(ignored=2)),
        ({"ewsjf": {"output_tokens": 5, "outputs": 1}}, Hints(5, ignored=1)),
        ({"ewsjf": "fast please"}, Hints(ignored=1)),
        ({"ewsjf": [1], "ewsjf_output_tokens": 3}, Hints(3, ignored=1)),
        ("text", Hints()),
        ({"ewsjf": {"tenant": 10**40}}, Hints(ignored=1)),
    ],
)
def test_hints_are_read_or_ignored_and_counted(extra: object, expected: Hints) -> None:
    request = SimpleNamespace(sampling_params=SimpleNamespace(extra_args=extra))
    assert read_hints(request) == expected


def test_a_request_without_sampling_parameters_says_nothing() -> None:
    assert read_hints(SimpleNamespace(sampling_params=None)) == Hints()


def with_extra(request: Any, extra: dict[str, Any]) -> Any:
    request.sampling_params.extra_args = extra
    return request


def configured(setup: VllmSetup, config: dict[str, Any], asynchronous: bool = False) -> Any:
    """A scheduler under some settings; the set-up is shared, so they are put back."""
    additional = setup.vllm_config.additional_config
    before = dict(additional)
    try:
        additional["ewsjf"] = config
        return build_scheduler(setup, ours(asynchronous))
    finally:
        additional.clear()
        additional.update(before)


def test_the_scheduler_takes_hints_and_counts_bad_ones() -> None:
    setup = make_setup(kv_blocks=60, asynchronous=False)
    scheduler = configured(setup, {"tenants": {"max_tenants": 2}})
    scheduler.ewsjf.install(parse_policy("ewsjf(w_output=1)"))
    for name, extra in (
        ("a", {"ewsjf": {"output_tokens": 30, "tenant": "gold"}}),
        ("b", {"ewsjf": {"output_tokens": "many"}}),
        ("c", {"ewsjf_output_tokens": 10_000, "ewsjf_tenant": "gold"}),
    ):
        scheduler.add_request(with_extra(make_request(setup, name, 50, 40, 0.0), extra))
    entries = {r.request_id: scheduler.waiting.entry(r) for r in scheduler.waiting}
    assert [entries[name].output_hint for name in "abc"] == [30, None, 256]  # max_model_len
    assert [entries[name].tenant for name in "abc"] == ["gold", "", "gold"]
    state = scheduler.ewsjf.state()
    assert state["hints"] == {"given": 2, "ignored": 1}
    assert {row["tenant"] for row in state["tenants"]} == {"gold", ""}


@pytest.mark.parametrize("asynchronous", [False, True])
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    events=st.lists(EVENT, min_size=3, max_size=50),
    kv_blocks=st.sampled_from([20, 34, 200]),
    priorities=st.lists(st.integers(0, 3), min_size=1, max_size=5),
    caching=st.booleans(),
    policy=st.sampled_from(["fcfs", "ewsjf(w_cached=1;w_output=1)"]),
)
def test_with_tenants_all_is_served_and_charged_to_the_token(
    asynchronous: bool,
    events: list[Any],
    kv_blocks: int,
    priorities: list[int],
    caching: bool,
    policy: str,
) -> None:
    """Preemption, aborts and cache resets included; tenants come as priorities."""
    setup = make_setup(kv_blocks=kv_blocks, asynchronous=asynchronous, caching=caching)
    scheduler = configured(setup, {"tenants": {"by": "priority", "prompt_weight": 0}}, asynchronous)
    scheduler.ewsjf.install(parse_policy(policy))
    generated = {"tokens": 0}
    update = scheduler.update_from_output

    def counted(*arguments: Any) -> Any:
        outputs = update(*arguments)
        for client in outputs.values():
            generated["tokens"] += sum(len(one.new_token_ids) for one in client.outputs)
        return outputs

    scheduler.update_from_output = counted
    play(scheduler, setup, events, 2 if asynchronous else 1, priorities)
    scheduler.schedule()  # reports what ended last
    told = scheduler.waiting.tenants.describe()
    assert all(row["waiting"] == row["here"] == 0 for row in told)
    assert sum(row["served"] for row in told) == 2 * generated["tokens"]


def test_tenants_are_refused_beside_vllms_own_priorities() -> None:
    setup = make_setup(kv_blocks=60, asynchronous=False)
    scheduler_config = setup.vllm_config.scheduler_config
    before = scheduler_config.policy
    try:
        scheduler_config.policy = "priority"
        with pytest.raises(ConfigError, match="tenants: expected vLLM's scheduling policy 'fcfs'"):
            configured(setup, {"tenants": {}})
    finally:
        scheduler_config.policy = before


def test_tenant_settings_come_with_the_others() -> None:
    found = SchedulerSettings.from_additional_config(
        {"ewsjf": {"order": "hrrn", "tenants": {"by": "lora", "weights": {"gold": 2}}}}
    )
    assert found.tenants == TenantSettings(by="lora", weights={"gold": 2.0})
    with pytest.raises(ConfigError, match="tenants: unknown key 'bye'; nearest valid name: 'by'"):
        SchedulerSettings.from_additional_config({"ewsjf": {"tenants": {"bye": "lora"}}})


@pytest.mark.parametrize("seed", range(3))
def test_a_remembered_look_at_the_prefix_cache_is_always_that_of_a_whole_one(seed: int) -> None:
    """Conversations that share prefixes, in a cache that is far too small for all of them."""
    load_vllm()
    setup = make_setup(kv_blocks=40, asynchronous=False, seqs=4, caching=True)
    scheduler = build_scheduler(setup, ours(False))
    scheduler.ewsjf.install(parse_policy("ewsjf(w_cached=1)"))
    cache = scheduler.ewsjf.reader.prefix
    assert cache.block_tokens == 16  # else nothing is remembered
    rng, in_flight, added = random.Random(seed), [], 0
    probes: list[tuple[Any, Any]] = []
    stale = 0
    for step in range(250):
        if rng.random() < 0.4 and len(scheduler.waiting) < 12:
            request = make_request(setup, f"r{added}", rng.randint(1, 12) * 16 + 1, 4, float(step))
            topic = rng.randint(0, 3)  # the first token decides the hash of every block
            request.prompt_token_ids[0] = 1000 + topic
            request._all_token_ids[0] = 1000 + topic
            request.block_hashes = []
            request.update_block_hashes()
            scheduler.add_request(request)
            probes.append((request, cache.probe(request)))
            added += 1
        if rng.random() < 0.02:
            scheduler.reset_prefix_cache(reset_running_requests=True)
        run_step(scheduler, in_flight, 1)
        for request, probe in probes:
            before = probe._hit_blocks
            assert probe() == request.num_prompt_tokens - cache.whole_look(request)
            stale += before is not None and before != probe._hit_blocks
    assert stale > 50  # the cache did change under the probes
