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


YIELDS = SHAPED.format(1.0, 0.5)


def prefill_steps(policy: str, stop: str, config_changes: dict[str, Any]) -> list[dict[str, int]]:
    """Steps of a long prompt under way, with a short one that waits, where nobody is admitted."""
    setup = make_setup(kv_blocks=200, asynchronous=False, budget=BUDGET)
    config = setup.vllm_config.scheduler_config
    with pytest.MonkeyPatch.context() as patch:
        for name, value in config_changes.items():
            patch.setattr(config, name, value)
        scheduler = build_scheduler(setup, ours(False))
        scheduler.ewsjf.install(parse_policy(policy))
        in_flight: list[Any] = []
        if stop == "session":
            session = make_request(setup, "session", 8, 1, 0.0)
            session.resumable = True
            scheduler.add_request(session)
            run_step(scheduler, in_flight, 1)
            assert scheduler.num_waiting_for_streaming_input == 1 and not scheduler.running
        scheduler.add_request(make_request(setup, "long", 240, 2, 0.0))
        steps = [dict(run_step(scheduler, in_flight, 1).num_scheduled_tokens)]
        scheduler.add_request(make_request(setup, "short", 12, 2, 0.0))
        if stop == "pause":
            scheduler.set_pause_state(type(scheduler.pause_state).PAUSED_NEW)
        for _ in range(3):
            output = run_step(scheduler, in_flight, 1)
            steps.append(dict(output.num_scheduled_tokens))
        return steps


@pytest.mark.parametrize(
    ("stop", "config"),
    [
        ("seats", {"max_num_seqs": 1}),
        ("active", {"max_num_active_seqs": 1}),
        ("session", {"max_num_seqs": 2}),
        ("session", {"max_num_active_seqs": 2}),
        ("pause", {}),
    ],
)
def test_where_nobody_can_be_admitted_steps_are_the_unshaped_ones(
    stop: str, config: dict[str, Any]
) -> None:
    """vLLM 0.32 admits by `max_num_active_reqs`, counts sessions that wait, and can be paused."""
    setup = make_setup(kv_blocks=20, asynchronous=False)
    if "max_num_active_seqs" in config and not hasattr(
        setup.vllm_config.scheduler_config, "max_num_active_seqs"
    ):
        pytest.skip("this vLLM has no max_num_active_seqs")
    if stop == "session" and not hasattr(
        build_scheduler(setup, ours(False)), "max_num_active_reqs"
    ):
        pytest.skip("in this vLLM a session that waits has no place")
    shaped = prefill_steps(YIELDS, stop, config)
    assert shaped == prefill_steps("ewsjf", stop, config)
    assert shaped[1] == {"long": BUDGET}
    if stop != "pause":  # with one place more it is shaped
        more = {name: value + 1 for name, value in config.items()}
        assert prefill_steps(YIELDS, stop, more)[1] == {"long": BUDGET - 12, "short": 12}


@pytest.mark.parametrize(
    ("own", "first"),
    [
        (0, {"long": BUDGET - 12, "short": 12}),
        # A fair share of 64 tokens between two is 32: that is the operator's limit.
        (20, {"long": 32, "short": 12}),
        (60, {"long": BUDGET - 12, "short": 12}),
    ],
)
def test_an_adaptive_threshold_does_not_override_the_shape(own: int, first: dict[str, int]) -> None:
    """vLLM raises the threshold to a fair share of the step, after it was set for the step."""
    setup = make_setup(kv_blocks=200, asynchronous=False, budget=BUDGET)
    config = setup.vllm_config.scheduler_config
    if not hasattr(config, "long_prefill_token_threshold_adaptive"):
        pytest.skip("this vLLM has no adaptive threshold")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(config, "long_prefill_token_threshold", own)
        patch.setattr(config, "long_prefill_token_threshold_adaptive", True)
        scheduler = build_scheduler(setup, ours(False))
        scheduler.ewsjf.install(parse_policy(YIELDS))
        in_flight: list[Any] = []
        scheduler.add_request(make_request(setup, "long", 240, 2, 0.0))
        assert dict(run_step(scheduler, in_flight, 1).num_scheduled_tokens) == {"long": BUDGET}
        scheduler.add_request(make_request(setup, "short", 12, 2, 0.0))
        assert dict(run_step(scheduler, in_flight, 1).num_scheduled_tokens) == first
        assert not scheduler.adaptive_long_prefill_threshold
        scheduler.ewsjf.install(parse_policy("ewsjf"))
        run_step(scheduler, in_flight, 1)
        assert scheduler.adaptive_long_prefill_threshold
        assert scheduler.scheduler_config.long_prefill_token_threshold == own


def test_a_small_share_of_many_is_below_the_shape() -> None:
    """Where the operator's adaptive limit is below the policy's chunk, it holds."""
    setup = make_setup(kv_blocks=200, asynchronous=False, budget=BUDGET)
    config = setup.vllm_config.scheduler_config
    if not hasattr(config, "long_prefill_token_threshold_adaptive"):
        pytest.skip("this vLLM has no adaptive threshold")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(config, "long_prefill_token_threshold", 8)
        patch.setattr(config, "long_prefill_token_threshold_adaptive", True)
        steps = []
        for policy in ("ewsjf", YIELDS):
            scheduler = build_scheduler(setup, ours(False))
            scheduler.ewsjf.install(parse_policy(policy))
            in_flight: list[Any] = []
            scheduler.add_request(make_request(setup, "long", 240, 2, 0.0))
            run_step(scheduler, in_flight, 1)
            for name in ("a", "b", "c"):
                scheduler.add_request(make_request(setup, name, 12, 2, 0.0))
            steps.append(dict(run_step(scheduler, in_flight, 1).num_scheduled_tokens))
        assert steps[0] == steps[1] == {"long": 16, "a": 12, "b": 12, "c": 12}


def interval_steps(policy: str, waiting: list[tuple[str, int]]) -> tuple[bool, list[set[str]]]:
    """Whether vLLM believes in want of capacity after a shaped step, and who is in throttled ones.

    A request decodes, and a long prompt is under way, when the others come.
    """
    setup = make_setup(kv_blocks=200, asynchronous=False, budget=BUDGET)
    config = setup.vllm_config.scheduler_config
    if not hasattr(config, "prefill_schedule_interval"):
        pytest.skip("this vLLM has no interval")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(config, "prefill_schedule_interval", 4)
        scheduler = build_scheduler(setup, ours(False))
        # The test says which steps are held back, as the core of a data-parallel engine does; from
        # 0.33 on an engine that is none holds them back itself.
        if hasattr(scheduler, "local_prefill_interval"):
            scheduler.local_prefill_interval = 1
        scheduler.ewsjf.install(parse_policy(policy))
        in_flight: list[Any] = []
        scheduler.add_request(make_request(setup, "decodes", 8, 40, 0.0))
        run_step(scheduler, in_flight, 1)
        scheduler.add_request(make_request(setup, "long", 240, 2, 0.0))
        run_step(scheduler, in_flight, 1)
        for name, prompt in waiting:
            scheduler.add_request(make_request(setup, name, prompt, 2, 0.0))
        run_step(scheduler, in_flight, 1)
        bound = bool(scheduler.prefill_capacity_bound)
        names = []
        for _ in range(2):
            output = scheduler.schedule(throttle_prefills=True)
            names.append(set(output.num_scheduled_tokens))
            sampled = {name: [7] if name == "decodes" else [] for name in names[-1]}
            finish_step(scheduler, (output, sampled))
        return bound, names


def test_a_queue_that_closes_by_choice_is_no_want_of_capacity() -> None:
    """It kept `--prefill-schedule-interval` from holding prompts back to its steps."""
    # The order has the short ones around a long one: the step closes with room left.
    waiting = [("a", 4), ("second", 230), ("b", 14)]
    bound, names = interval_steps("fcfs(prefill_share=1;yield_share=0.5)", waiting)
    assert not bound
    assert names == [{"decodes", "a"}, {"decodes"}]  # only what decodes


def test_want_of_capacity_is_still_told_to_vllm() -> None:
    """Waiting for tokens of the step: prompts are not held back, or the backlog would grow."""
    waiting = [("a", 30), ("b", 30), ("second", 230)]
    for policy in ("fcfs", "fcfs(prefill_share=1;yield_share=0.5)"):
        bound, names = interval_steps(policy, waiting)
        assert bound
        assert "long" in names[0]
