"""Our scheduler classes inside vLLM: parity with stock, side channels, bad settings."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ewsjf_env.config import ConfigError
from ewsjf_env.engine.simulated.vllm_config import (
    VllmSetup,
    build_scheduler,
    ewsjf_scheduler_class,
    load_vllm,
    stock_scheduler_class,
)
from ewsjf_env.policy.policy import Policy, parse_policy
from ewsjf_env.scheduling.orders.registry import ORDERS
from ewsjf_env.serving.settings import SchedulerSettings, check_vllm_version
from tests.serving.vllm_traffic import (
    fingerprint,
    finish_step,
    make_request,
    make_setup,
    run_step,
)

EVENT = st.one_of(
    st.tuples(st.just("add"), st.tuples(st.integers(1, 120), st.integers(1, 40))),
    st.tuples(st.just("step"), st.integers(1, 6)),
    st.tuples(st.just("abort"), st.integers(0, 30)),
    st.tuples(st.just("reset"), st.booleans()),
)


def ours(asynchronous: bool) -> type[Any]:
    load_vllm()
    from ewsjf_env.serving.scheduler import EWSJFScheduler, SyncEWSJFScheduler

    return EWSJFScheduler if asynchronous else SyncEWSJFScheduler


def play(
    scheduler: Any,
    setup: VllmSetup,
    events: list[tuple[str, Any]],
    depth: int,
    priorities: list[int],
) -> tuple[list[Any], int]:
    """The fingerprint of every step until all is served, and the number of preemptions."""
    from vllm.v1.request import RequestStatus

    steps: list[Any] = []
    in_flight: list[Any] = []
    added = 0
    preempted = 0
    for kind, value in events:
        if kind == "add":
            priority = priorities[added % len(priorities)]
            arrival_s = float(added // 2)
            request = make_request(setup, f"r{added}", *value, arrival_s, priority)
            scheduler.add_request(request)
            added += 1
        elif kind == "step":
            for _ in range(value):
                output = run_step(scheduler, in_flight, depth)
                steps.append(fingerprint(output))
                preempted += len(output.preempted_req_ids or ())
        elif kind == "abort":
            name = f"r{value}"
            if name in scheduler.requests:
                scheduler.finish_requests(name, RequestStatus.FINISHED_ABORTED)
        elif kind == "reset":
            scheduler.reset_prefix_cache(reset_running_requests=value)
    for _ in range(4000):
        if not scheduler.has_unfinished_requests():
            break
        steps.append(fingerprint(run_step(scheduler, in_flight, depth)))
    while in_flight:
        finish_step(scheduler, in_flight.pop(0))
    assert not scheduler.has_unfinished_requests()
    assert not scheduler.requests
    return steps, preempted


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("policy", ["fcfs", "priority"])
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    events=st.lists(EVENT, min_size=3, max_size=60),
    kv_blocks=st.sampled_from([20, 34, 200]),
    priorities=st.lists(st.integers(0, 2), min_size=1, max_size=5),
    caching=st.booleans(),
)
def test_fcfs_schedules_step_by_step_as_stock_vllm(
    asynchronous: bool,
    policy: str,
    events: list[Any],
    kv_blocks: int,
    priorities: list[int],
    caching: bool,
) -> None:
    setup = make_setup(kv_blocks=kv_blocks, asynchronous=asynchronous, caching=caching)
    scheduler_config = setup.vllm_config.scheduler_config
    additional = setup.vllm_config.additional_config
    depth = 2 if asynchronous else 1
    before = scheduler_config.policy, dict(additional)
    try:
        scheduler_config.policy = policy
        additional["ewsjf"] = {"order": "fcfs"}
        stock = build_scheduler(setup, stock_scheduler_class(asynchronous))
        our = build_scheduler(setup, ours(asynchronous))
        expected = play(stock, setup, events, depth, priorities)
        assert play(our, setup, events, depth, priorities) == expected
    finally:
        scheduler_config.policy = before[0]
        additional.clear()
        additional.update(before[1])


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("order", sorted(ORDERS))
def test_every_order_serves_everything_under_kv_pressure(asynchronous: bool, order: str) -> None:
    setup = make_setup(kv_blocks=20, asynchronous=asynchronous)
    scheduler = build_scheduler(setup, ours(asynchronous))
    clock = iter(range(10**9))
    scheduler.ewsjf.bind_clock(lambda: 0.05 * next(clock), lambda request: request.arrival_time)
    scheduler.ewsjf.install(parse_policy(order))
    events: list[tuple[str, Any]] = []
    for index in range(40):
        events += [("add", (1 + 37 * index % 120, 1 + index % 30)), ("step", 1)]
    events += [("abort", 3), ("abort", 39), ("reset", True), ("step", 20)]
    _, preempted = play(scheduler, setup, events, 2 if asynchronous else 1, [0])
    assert preempted > 0
    assert len(scheduler.waiting) == 0


def test_policy_swaps_while_requests_wait() -> None:
    setup = make_setup(kv_blocks=34, asynchronous=True)
    scheduler = build_scheduler(setup, ours(True))
    in_flight: list[Any] = []
    names = sorted(ORDERS)
    for index in range(60):
        scheduler.add_request(make_request(setup, f"r{index}", 1 + 31 * index % 110, 5, 0.0))
        run_step(scheduler, in_flight, 2)
        scheduler.ewsjf.install(parse_policy(names[index % len(names)]))
    while in_flight:
        finish_step(scheduler, in_flight.pop(0))
    assert scheduler.ewsjf.state()["policy_version"] == 60
    play(scheduler, setup, [("step", 1)], 2, [0])


def test_the_scheduler_learns_the_cost_of_prefill_from_its_own_steps() -> None:
    setup = make_setup(kv_blocks=400, asynchronous=False, budget=256, seqs=16)
    scheduler = build_scheduler(setup, ours(False))
    scheduler.ewsjf.install(parse_policy("ewsjf"))
    clock = [0.0]
    scheduler.ewsjf.bind_clock(lambda: clock[0], lambda request: request.arrival_time)
    in_flight: list[Any] = []
    for index in range(400):
        prompt = 10 + 61 * index % 240
        scheduler.add_request(make_request(setup, f"r{index}", prompt, 3, clock[0]))
        output = run_step(scheduler, in_flight, 1)
        clock[0] += 0.010 + 0.001 * output.total_num_scheduled_tokens
    model = scheduler.waiting.cost_model
    assert model.r2 > 0.9
    assert model.cost_s(200) == pytest.approx(0.010 + 0.200, rel=0.1)


@pytest.mark.parametrize("caching", [False, True])
def test_probing_the_prefix_cache_leaves_no_trace(caching: bool) -> None:
    setup = make_setup(kv_blocks=60, asynchronous=False, caching=caching)

    scheduler = build_scheduler(setup, ours(False))
    scheduler.ewsjf.install(parse_policy("spf"))

    scheduler.add_request(make_request(setup, "a", 100, 2, 0.0))
    in_flight: list[Any] = []
    for _ in range(6):
        run_step(scheduler, in_flight, 1)
    again = make_request(setup, "b", 100, 2, 0.0)
    pool = scheduler.kv_cache_manager.block_pool
    before = [block.block_id for block in pool.free_block_queue.get_all_free_blocks()]
    probe = scheduler.ewsjf.reader.prefix.probe(again)
    for _ in range(2):  # the second look takes the short way
        assert probe() == (100 - 96 if caching else 100)
    assert [block.block_id for block in pool.free_block_queue.get_all_free_blocks()] == before


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"ordr": "fcfs"}, "unknown key 'ordr'; nearest valid name: 'order'"),
        ({"order": "fcsf"}, "order: unknown 'fcsf'; nearest valid name: 'fcfs'"),
        ({"order": "hrrn", "parameters": {"exponnt": 2}}, "nearest valid name: 'exponent'"),
        ({"order": "hrrn", "parameters": {"exponent": float("nan")}}, "outside [0.25, 4]"),
        ({"order": "fcfs", "policy_file": "x.json"}, "give one of policy_file, order"),
        ({"policy_file": "/nowhere/x.json"}, "x.json: policy file cannot be read"),
        ({"policy_file": 3}, "policy_file: 3 is not a path"),
        ({"seed": -1}, "seed: -1 is outside [0, inf)"),
        ({"cost_prior": {"c0": 1}}, "unknown key 'c0'"),
        ("fcfs", "expected a mapping"),
    ],
)
def test_bad_settings_are_refused_by_name(config: object, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        SchedulerSettings.from_additional_config({"ewsjf": config})
    assert message in str(caught.value)


def test_without_settings_the_default_policy_is_served() -> None:
    assert SchedulerSettings.from_additional_config(None).policy.order == "ewsjf"
    inline = {"ewsjf": {"order": "boost", "parameters": {"gamma": 0.5}}, "other": 1}
    chosen = SchedulerSettings.from_additional_config(inline).policy
    assert chosen == Policy("boost", "boost", {"gamma": 0.5})


@pytest.mark.parametrize("version", ["0.25.1", "0.34.0", "1.0", "dev", "0.20.2+cpu"])
def test_an_untested_vllm_is_refused(version: str) -> None:
    with pytest.raises(ConfigError, match="outside the tested range"):
        check_vllm_version(version)


@contextlib.contextmanager
def listening(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Our lines of vLLM's log, which is quiet in tests and may or may not propagate."""
    logger = logging.getLogger("vllm.ewsjf")
    with caplog.at_level(logging.WARNING, logger.name), pytest.MonkeyPatch.context() as patch:
        patch.setattr(logger, "propagate", False)
        logger.addHandler(caplog.handler)
        try:
            yield
        finally:
            logger.removeHandler(caplog.handler)


@pytest.mark.parametrize("version", ["0.1.dev1+g0a1b2c3", "0.34.0rc1.dev9+gabc", "0.34.1", "main"])
def test_a_build_from_source_is_taken_by_a_variable_that_says_what_is_untested(
    version: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A source build is 0.1.dev..., a nightly the next minor: without a way round nobody tries."""
    for environment in ({}, {"EWSJF_UNTESTED_VLLM": ""}, {"EWSJF_UNTESTED_VLLM": "0"}):
        with pytest.raises(ConfigError, match="EWSJF_UNTESTED_VLLM=1 takes it"):
            check_vllm_version(version, environment)
    with pytest.raises(ConfigError, match="EWSJF_UNTESTED_VLLM: 'yes' is neither 0 nor 1"):
        check_vllm_version(version, {"EWSJF_UNTESTED_VLLM": "yes"})
    with listening(caplog):
        for _ in range(2):
            check_vllm_version(version, {"EWSJF_UNTESTED_VLLM": "1"})
    (line,) = [r.getMessage() for r in caplog.records]
    assert version in line and "untested with it: that fcfs schedules as stock" in line


def test_a_scheduler_on_an_untested_vllm_needs_the_variable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    setup = make_setup(kv_blocks=20, asynchronous=True)
    import vllm

    monkeypatch.setattr(vllm, "__version__", "0.1.dev77+gabcdef")
    with pytest.raises(ConfigError, match="EWSJF_UNTESTED_VLLM=1"):
        build_scheduler(setup, ours(True))
    monkeypatch.setenv("EWSJF_UNTESTED_VLLM", "1")
    assert build_scheduler(setup, ours(True)).ewsjf is not None


def test_a_server_with_the_rust_front_end_says_once_that_it_has_no_routes(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    setup = make_setup(kv_blocks=20, asynchronous=True)
    with listening(caplog):
        for value, lines in (("0", 0), ("1", 1)):
            caplog.clear()
            monkeypatch.setenv("VLLM_USE_RUST_FRONTEND", value)
            build_scheduler(setup, ours(True))
            assert len(caplog.records) == lines
        assert "cannot be seen, changed or tuned" in caplog.text
        caplog.clear()
        monkeypatch.setenv("EWSJF_SETTINGS", "/x.json")  # the launcher has told it
        build_scheduler(setup, ours(True))
        assert not caplog.records


@pytest.mark.parametrize("version", ["0.26.0", "0.32.0+empty", "0.33.1rc1"])
def test_a_tested_vllm_is_accepted(version: str) -> None:
    check_vllm_version(version)


def test_a_scheduler_that_was_never_initialised_updates_as_stock(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """vLLM's own tests make schedulers without __init__ and give them what they need."""
    cls = ewsjf_scheduler_class(async_scheduling=True)
    scheduler = cls.__new__(cls)
    seen: list[object] = []
    base = next(c for c in cls.__mro__ if c.__module__.startswith("vllm."))
    monkeypatch.setattr(base, "update_from_output", lambda _, *given: seen.extend(given) or {})
    assert scheduler.update_from_output("output", "tokens") == {}
    assert seen == ["output", "tokens"]
