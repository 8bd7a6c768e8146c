"""The step shape of a policy, in vLLM's own schedulers."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest

from ewsjf_env.engine.simulated.vllm_config import build_scheduler
from ewsjf_env.policy.policy import parse_policy
from tests.serving.test_scheduler import ours, play
from tests.serving.vllm_traffic import finish_step, make_request, make_setup, run_step

BUDGET = 64
SHAPED = "ewsjf(prefill_share={:g};yield_share={:g})"


def scheduler_with(asynchronous: bool, policy: str, kv_blocks: int = 200) -> tuple[Any, Any]:
    setup = make_setup(kv_blocks=kv_blocks, asynchronous=asynchronous, budget=BUDGET)
    scheduler = build_scheduler(setup, ours(asynchronous))
    clock: Iterator[int] = iter(range(10**9))
    scheduler.ewsjf.bind_clock(lambda: 0.05 * next(clock), lambda request: request.arrival_time)
    scheduler.ewsjf.install(parse_policy(policy))
    return setup, scheduler


def steps_of(setup: Any, scheduler: Any, depth: int, requests: list[Any]) -> list[dict[str, int]]:
    """Token counts by request of all steps until everything is served."""
    in_flight: list[Any] = []
    steps = []
    for request in requests:
        scheduler.add_request(request)
        steps.append(dict(run_step(scheduler, in_flight, depth).num_scheduled_tokens))
    for _ in range(500):
        if not scheduler.has_unfinished_requests():
            break
        steps.append(dict(run_step(scheduler, in_flight, depth).num_scheduled_tokens))
    while in_flight:
        finish_step(scheduler, in_flight.pop(0))
    assert not scheduler.requests
    return steps


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("share", [0.1, 0.5, 1.0])
def test_a_step_has_no_more_prompt_tokens_than_the_share(asynchronous: bool, share: float) -> None:
    setup, scheduler = scheduler_with(asynchronous, SHAPED.format(share, 0.0))
    requests = [make_request(setup, f"r{i}", 30 + 40 * (i % 4), 12, 0.0) for i in range(8)]
    steps = steps_of(setup, scheduler, 2 if asynchronous else 1, requests)
    prompts = [sum(n for n in step.values() if n > 1) for step in steps]
    # With steps in flight, one that decodes may turn out to have ended: its place is a prompt's.
    ended = 2 if asynchronous else 0
    assert max(prompts) <= math.ceil(share * BUDGET) + ended
    assert max(prompts) > 0.9 * share * BUDGET
    assert max(sum(step.values()) for step in steps) <= BUDGET


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_short_prompt_enters_a_step_of_a_long_one(asynchronous: bool) -> None:
    """And a second long one does not."""

    def first_step_of(name: str, policy: str) -> tuple[int, dict[str, int]]:
        setup, scheduler = scheduler_with(asynchronous, policy)
        requests = [
            make_request(setup, "long", 240, 2, 0.0),
            make_request(setup, "short", 12, 2, 0.0),
            make_request(setup, "second", 200, 2, 0.0),
        ]
        steps = steps_of(setup, scheduler, 2 if asynchronous else 1, requests)
        return next((i, step) for i, step in enumerate(steps) if name in step)

    whole, shaped = "ewsjf", SHAPED.format(1.0, 0.5)
    assert first_step_of("short", whole)[0] == 3  # 240 tokens take 64 + 64 + 64 + 48
    index, step = first_step_of("short", shaped)
    assert index == 1
    assert step == {"long": BUDGET - 12, "short": 12}
    assert first_step_of("second", shaped)[0] >= 3


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("order", ["fcfs", "hrrn", "ewsjf"])
@pytest.mark.parametrize(("share", "yields"), [(0.05, 0.0), (0.3, 0.95), (1.0, 0.95)])
def test_everything_is_served_under_kv_pressure(
    asynchronous: bool, order: str, share: float, yields: float
) -> None:
    policy = f"{order}(prefill_share={share:g};yield_share={yields:g})"
    setup, scheduler = scheduler_with(asynchronous, policy, kv_blocks=20)
    events: list[tuple[str, Any]] = []
    for index in range(40):
        events += [("add", (1 + 37 * index % 120, 1 + index % 30)), ("step", 1)]
    events += [("abort", 3), ("abort", 39), ("reset", True), ("step", 20)]
    play(scheduler, setup, events, 2 if asynchronous else 1, [0])
    assert len(scheduler.waiting) == 0
    assert scheduler.waiting.tokens_below(1 << 20) == 0


def test_without_shaping_the_engines_limits_are_back() -> None:
    setup, scheduler = scheduler_with(True, SHAPED.format(0.1, 0.9))
    engines = setup.vllm_config.scheduler_config
    in_flight: list[Any] = []
    scheduler.add_request(make_request(setup, "long", 240, 2, 0.0))
    run_step(scheduler, in_flight, 2)
    scheduler.add_request(make_request(setup, "short", 12, 2, 0.0))
    run_step(scheduler, in_flight, 2)
    assert scheduler.max_num_scheduled_tokens == 7
    assert engines.long_prefill_token_threshold == 0  # the worker's view is never touched
    scheduler.ewsjf.install(parse_policy("ewsjf"))
    run_step(scheduler, in_flight, 2)
    assert scheduler.max_num_scheduled_tokens == BUDGET
    assert scheduler.scheduler_config.long_prefill_token_threshold == 0


def test_an_operators_own_threshold_is_kept() -> None:
    setup = make_setup(kv_blocks=200, asynchronous=False, budget=BUDGET)
    config = setup.vllm_config.scheduler_config
    before = config.long_prefill_token_threshold
    config.long_prefill_token_threshold = 20
    try:
        scheduler = build_scheduler(setup, ours(False))
        scheduler.ewsjf.install(parse_policy(SHAPED.format(0.9, 0.1)))
        in_flight: list[Any] = []
        for name, prompt in (("long", 240), ("short", 12)):
            scheduler.add_request(make_request(setup, name, prompt, 2, 0.0))
        first = dict(run_step(scheduler, in_flight, 1).num_scheduled_tokens)
        assert first["long"] == 20
    finally:
        config.long_prefill_token_threshold = before


def test_an_engine_that_takes_prompts_whole_is_left_alone() -> None:
    setup = make_setup(kv_blocks=200, asynchronous=False, budget=256)
    config = setup.vllm_config.scheduler_config
    config.enable_chunked_prefill = False
    try:
        scheduler = build_scheduler(setup, ours(False))
        scheduler.ewsjf.install(parse_policy(SHAPED.format(0.1, 0.9)))
        scheduler.add_request(make_request(setup, "long", 240, 2, 0.0))
        in_flight: list[Any] = []
        assert dict(run_step(scheduler, in_flight, 1).num_scheduled_tokens) == {"long": 240}
    finally:
        config.enable_chunked_prefill = True


def test_nobody_yields_to_who_cannot_come() -> None:
    setup, scheduler = scheduler_with(False, SHAPED.format(1.0, 0.5))
    in_flight: list[Any] = []
    short = make_request(setup, "short", 12, 2, 0.0)
    scheduler.add_request(make_request(setup, "long", 240, 2, 0.0))
    run_step(scheduler, in_flight, 1)
    scheduler.add_request(short)
    shaper, config = scheduler.ewsjf.shaper, scheduler.scheduler_config
    waiting = short.status
    for status, chunk in ((waiting, BUDGET - 12), (type(waiting).WAITING_FOR_REMOTE_KVS, 0)):
        short.status = status
        shaper.begin_step(scheduler.waiting, scheduler.ewsjf.now())
        assert config.long_prefill_token_threshold == chunk
