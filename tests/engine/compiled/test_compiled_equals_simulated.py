"""Every request of the compiled engine is served at the moments of the simulated one."""

import dataclasses

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ewsjf_env.engine.compiled.engine import CompiledEngine
from ewsjf_env.engine.compiled.policy import ORDER_CODES
from ewsjf_env.engine.simulated.config import SimulatedConfig
from ewsjf_env.engine.simulated.engine import SimulatedEngine
from ewsjf_env.measure.features import feature_names
from ewsjf_env.measure.service import ServiceLevel
from ewsjf_env.parameters import Value
from ewsjf_env.policy.adaptive import Adaptive, whole_bounds
from ewsjf_env.policy.policy import Policy, parse_policy
from ewsjf_env.scheduling.orders.registry import ORDERS
from ewsjf_env.scheduling.partition.partition import Partition
from ewsjf_env.workload.trace import Trace
from tests.engine.compiled.both_engines import assert_equal, small_traffic
from tests.policy.adaptive_policies import network

SMALL = SimulatedConfig(max_model_len=8192, kv_blocks=900, max_num_seqs=32, noise_sigma=0.1)


def test_every_order_is_compiled() -> None:
    assert set(ORDER_CODES) == set(ORDERS)


@pytest.mark.parametrize("order", ORDERS)
def test_order(order: str) -> None:
    records = assert_equal(SMALL, [order, None, "fcfs", order], small_traffic(bursts=True))
    assert sum(r.preemptions for r in records) > 0


@pytest.mark.parametrize(
    "changes",
    [
        {"async_scheduling": False},
        {"scheduler": "stock"},
        {"scheduler": "stock", "async_scheduling": False},
        {"long_prefill_token_threshold": 100},
        {"long_prefill_token_threshold": 1, "max_model_len": 1000, "kv_blocks": 70},
        {"max_num_batched_tokens": 128},
        {"max_num_batched_tokens": 8192, "chunked_prefill": False},
        {"max_model_len": 1000, "kv_blocks": 70},
        {"max_num_seqs": 2},
        {"block_tokens": 32},
        {"kv_blocks": None, "latency": "llama3-8b_h100", "max_num_seqs": 256},
        {"noise_sigma": 0.0},
        {"hint_correlation": 0.5},
    ],
    ids=str,
)
def test_engine_setting(changes: dict[str, object]) -> None:
    config = dataclasses.replace(SMALL, **changes)  # type: ignore[arg-type]
    policies = [None, None] if config.scheduler == "stock" else ["hrrn", "ewsjf"]
    assert_equal(config, policies, small_traffic(1), 12.0)


@pytest.mark.parametrize(
    "policy",
    [
        "ewsjf(overdue_share=0.3,overdue_floor_s=1,overdue_kappa=2)",
        "ewsjf(overtake_window_s=2)",
        "ewsjf(overtake_window_s=3,overdue_share=0.4,overdue_floor_s=1,overdue_kappa=2)",
        "ewsjf(backfill=none)",
        "ewsjf(backfill=adjacent)",
        "ewsjf(backfill=adjacent,overtake_window_s=2)",
        "ewsjf_authors(backfill=none)",
        "ewsjf(delta=0.3,w_fair=0.5)",
        "ewsjf(lambda=0,mu=0,k=1)",
        "ewsjf_normalised(delta=0.3,a_u=0.5,a_f=0.2)",
        "ewsjf_paper(a_u=0.0005)",
        "ewsjf(w_output=1.5)",
        "ewsjf(w_output=1.5,output_from=learned,output_quantile=0.9)",
        "ewsjf(w_output=1,route_by=prompt)",
        "ewsjf(prefill_share=0.25,yield_share=0.8)",
        "hrrn(prefill_share=0.5)",
        "ewsjf(step_s=0.06,yield_share=0.8)",
        "fcfs(step_s=0.1)",
        "hrrn(step_s=0.1,prefill_share=0.5)",
        "sjf(step_s=0.005)",
        "ewsjf(kv_reserve=0.05)",
        "hrrn(kv_reserve=0.1,reserve_above_tokens=100)",
        "ewsjf(kv_reserve=0.1,step_s=0.06,yield_share=0.8)",
        "ewsjf(kv_reserve=0.1,backfill=none)",
        "ewsjf_paper(kv_reserve=0.1,routing=bubble,backfill=adjacent,overtake_window_s=4)",
        "srf(kv_reserve=0.3)",
        "fcfs(kv_reserve=0.02)",
        "srf(long_max_wait_s=2)",
        "residual_sjf(max_wait_s=1)",
    ],
)
def test_feature(policy: str) -> None:
    config = dataclasses.replace(SMALL, hint_correlation=0.7 if "w_output" in policy else None)
    assert_equal(config, [policy, None], small_traffic(2, bursts=True), 12.0)


PROMISED = dataclasses.replace(SMALL, service_levels=ServiceLevel(1.0, 5.0, 0.2))


@pytest.mark.parametrize(
    "policy",
    [
        "edf",
        "edf_late(step_tpot=0.5)",
        "sjf_late(late_share=0.3)",
        "fcfs(late=last)",
        "ewsjf(late=last,kv_reserve=0.1,step_s=0.08,yield_share=0.8)",
        "ewsjf(late=last,backfill=none,overtake_window_s=3,overdue_share=0.3,overdue_floor_s=1)",
        "ewsjf_paper(late=last,routing=bubble)",
        "srf(late=last,long_max_wait_s=2)",
        "boost_ada(late=last)",
    ],
)
def test_service_levels(policy: str) -> None:
    trace = small_traffic(2, 300, 30.0, bursts=True)
    assert_equal(PROMISED, [policy, None, "fcfs", policy], trace, 10.0)
    engines = CompiledEngine(PROMISED), CompiledEngine(SMALL)
    for engine in engines:
        engine.install(parse_policy(policy))
        engine.reset(trace)
        engine.run_window(30.0)
    assert engines[0].records() != engines[1].records()


@pytest.mark.parametrize("policy", ["ewsjf(repartition_s=5)", "ewsjf(repartition_s=5,q_max=4)"])
def test_repartition(policy: str) -> None:
    first, second = small_traffic(3, 300, 30.0), small_traffic(4, 600, 30.0)
    later = Trace(  # twice as many after half a minute, and four times as long
        name="drift",
        arrival_s=np.concatenate((first.arrival_s, 30.0 + second.arrival_s)),
        prompt_tokens=np.concatenate((first.prompt_tokens, 4 * second.prompt_tokens)),
        output_tokens=np.concatenate((first.output_tokens, second.output_tokens)) // 4 + 1,
    )
    config = dataclasses.replace(SMALL, max_model_len=4096, kv_blocks=4000)
    before = parse_policy(policy).partition.cuts
    engine = CompiledEngine(config)
    engine.install(parse_policy(policy))
    engine.reset(later)
    engine.run_window(60.0)
    assert engine.cuts() != before
    assert_equal(config, [policy, None], later, 30.0)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("policy", ["ewsjf(repartition_s=90)", "ewsjf(w_output=1)"])
def test_comparisons_of_lengths(policy: str, seed: int) -> None:
    """Both engines compare late lengths at the same moments, and see the same drifts."""
    random = np.random.default_rng(seed)
    count = 5000
    places = np.arange(count)
    scale = 5.0 + 0.4 * np.sin(places / 500.0) * (seed % 3)  # none, some and much drift
    trace = Trace(
        name="waves",
        arrival_s=np.sort(random.uniform(0.0, 500.0, count)),
        prompt_tokens=np.clip(np.exp(random.normal(scale, 0.8)), 1, 2000).astype(np.int64),
        output_tokens=random.integers(1, 4, count),
    )
    compiled, simulated = CompiledEngine(SimulatedConfig()), SimulatedEngine(SimulatedConfig())
    moments = []
    for engine in (compiled, simulated):
        engine.install(parse_policy(policy))
        engine.reset(trace)
    for window in range(10):
        for engine in (compiled, simulated):
            engine.run_window(50.0)
        if window == 6:
            for engine in (compiled, simulated):
                engine.apply({"k": 9.0})
        assert compiled.cuts() == simulated.cuts()
        assert compiled.core.queue is not None
        found = compiled.core.queue.repartitioner
        expected = simulated.scheduler.waiting.repartitioner
        assert found is not None
        assert (found.drifts, found.evaluations) == (expected.drifts, expected.evaluations)
        moments.append(expected.state().checked_s)
        assert compiled.core.state.policy[0]["checked_s"] == moments[-1]
        assert compiled.core.state.clock[0]["fresh"] == expected.state().fresh
    assert len(set(moments)) > 4
    assert compiled.records() == simulated.records()


NARROW = Partition((300, 2000), (250.0, 900.0, 3000.0), (0.6, 0.3, 0.1))
ODD_MEANS = Partition((40, 50, 2000), (5.0, 500.0, 1900.0, 1950.0), (0.1, 0.2, 0.3, 0.4))


@pytest.mark.parametrize("partition", [None, NARROW, ODD_MEANS], ids=["shipped", "narrow", "odd"])
@pytest.mark.parametrize(
    "policy",
    [
        "ewsjf(routing=bubble)",
        "ewsjf(routing=bubble,delta=0.4,repartition=off)",
        "ewsjf(routing=bubble,backfill=adjacent,repartition_s=5)",
        "ewsjf(routing=bubble,backfill=none,overtake_window_s=3)",
        "ewsjf(routing=bubble,w_output=1.5,overdue_share=0.3,overdue_floor_s=1)",
        "ewsjf_paper(routing=bubble,a_u=0.0005)",
        "ewsjf_paper(routing=bubble,a_u=0.0005,backfill=adjacent)",
        "ewsjf_normalised(routing=bubble,delta=0.3)",
    ],
)
def test_bubbles(policy: str, partition: Partition | None) -> None:
    served = parse_policy(policy)
    if partition is not None:
        served = dataclasses.replace(served, partition=partition)
    trace = small_traffic(11, 300, 40.0, bursts=True)
    assert_equal(SMALL, [served, None, "fcfs", served], trace, 11.0)
    assert_equal(SMALL, ["fcfs", served, None, None], trace, 11.0)


def test_bubbles_come_and_go() -> None:
    served = parse_policy("ewsjf(routing=bubble,repartition=off)")
    engine = CompiledEngine(SMALL)
    engine.install(dataclasses.replace(served, partition=NARROW))
    engine.reset(small_traffic(11, 300, 40.0))
    seen = set()
    for _ in range(40):
        engine.run_window(1.0)
        queues = engine.core.state.queues[3:]
        assert queues["bubble"].sum() == engine.core.state.clock[0]["bubbles"]
        seen.add(tuple(queues["key"][queues["bubble"] == 1].tolist()))
    assert {len(keys) for keys in seen} >= {0, 1, 2}


@pytest.mark.parametrize("threshold", [0, 1, 7])
@pytest.mark.parametrize("asynchronous", [True, False])
def test_both_cost_models_learn_from_the_same_steps(threshold: int, asynchronous: bool) -> None:
    """Chunks of one token of a prompt are prefill; coefficients agree to nine digits."""
    config = dataclasses.replace(
        SMALL, async_scheduling=asynchronous, long_prefill_token_threshold=threshold
    )
    compiled, simulated = CompiledEngine(config), SimulatedEngine(config)
    for engine in (compiled, simulated):
        engine.install(parse_policy("ewsjf(prefill_share=0.1,yield_share=0.8,repartition_s=5)"))
        engine.reset(small_traffic(16, 200, 30.0))
    for _ in range(8):
        for engine in (compiled, simulated):
            engine.run_window(5.0)
        policy = compiled.core.state.policy[0]
        model = simulated.scheduler.ewsjf.queue.cost_model
        assert [policy["c0"], policy["c1"], policy["c2"]] == pytest.approx(
            list(model.coefficients), rel=1e-9
        )
        assert compiled.core.state.model[0]["observed"] == model.observed // 32 * 32


def test_adaptive_boost_refits() -> None:
    trace = small_traffic(5, 500, 60.0)
    config = dataclasses.replace(SMALL, kv_blocks=4000)
    engine = CompiledEngine(config)
    engine.install(parse_policy("boost_ada"))
    engine.reset(trace)
    engine.run_window(60.0)
    assert engine.core.state.policy[0]["p0"] != 0.02
    assert_equal(config, ["boost_ada", None], trace, 30.0)


@pytest.mark.parametrize("policy", ["fcfs", "spf", "residual_sjf", "ewsjf(w_cached=1)"])
@pytest.mark.parametrize("shared", [True, False])
def test_prefix_caching(policy: str, shared: bool) -> None:
    config = dataclasses.replace(SMALL, prefix_caching=True)
    records = assert_equal(config, [policy, None], small_traffic(6, shared=shared), 15.0)
    assert any(r.cached_tokens for r in records) == shared


def test_prefix_blocks_that_no_kv_block_divides() -> None:
    config = dataclasses.replace(SMALL, prefix_caching=True, block_tokens=48, kv_blocks=400)
    assert_equal(config, ["fcfs"], small_traffic(7, shared=True), 20.0)


def test_a_backlog_at_time_zero_and_its_drain() -> None:
    trace = dataclasses.replace(small_traffic(8), arrival_s=np.zeros(120))
    metrics, records = [], []
    for engine in (CompiledEngine(SMALL), SimulatedEngine(SMALL)):
        engine.install(parse_policy("ewsjf"))
        engine.reset(trace)
        engine.run_window(0.1)
        metrics.append(engine.drain().to_dict())
        records.append(engine.records())
    assert records[0] == records[1]
    assert metrics[0] == metrics[1]
    assert all(r.finish_s is not None for r in records[0])


def test_capacity() -> None:
    config = SimulatedConfig(max_model_len=4096, max_num_seqs=8)
    backlog = dataclasses.replace(small_traffic(9, 200), arrival_s=np.zeros(200))
    found = CompiledEngine(config).measure_capacity(backlog)
    assert found == SimulatedEngine(config).measure_capacity(backlog)


def _follower_of(policy: Policy, tuned: list[str], seed: int) -> Adaptive:
    """A network that sets some parameters of a policy every second."""
    space = policy.space.subset(tuned)
    inputs = [name for name in feature_names(space) if not name.startswith("parameter_")]
    return Adaptive(
        space=space,
        inputs=tuple(inputs),
        rule=network((len(inputs), 5, len(space)), seed=seed),
        fallback={name: policy.parameters[name] for name in space.names},
        bounds=whole_bounds(space),
        period_s=1.0,
        window_s=0.7,
    )


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    order=st.sampled_from(sorted(ORDERS)),
    routing=st.sampled_from(["cuts", "bubble"]),
    adapts=st.booleans(),
    asynchronous=st.booleans(),
    budget=st.sampled_from([64, 300, 2048]),
    seqs=st.sampled_from([3, 20, 64]),
    blocks=st.integers(130, 900),
    threshold=st.sampled_from([0, 0, 50, 1]),
    caching=st.booleans(),
    shape=st.tuples(
        st.sampled_from([1.0, 0.5]), st.sampled_from([0.0, 0.7]), st.sampled_from([10.0, 0.05])
    ),
    reserve=st.sampled_from([0.0, 0.02, 0.2]),
    late=st.sampled_from(["off", "last"]),
    seed=st.integers(0, 1000),
)
def test_any_configuration(
    order: str,
    routing: str,
    adapts: bool,
    asynchronous: bool,
    budget: int,
    seqs: int,
    blocks: int,
    threshold: int,
    caching: bool,
    shape: tuple[float, float, float],
    reserve: float,
    late: str,
    seed: int,
) -> None:
    config = SimulatedConfig(
        max_model_len=2048,
        async_scheduling=asynchronous,
        max_num_batched_tokens=budget,
        max_num_seqs=seqs,
        kv_blocks=blocks,
        long_prefill_token_threshold=threshold,
        prefix_caching=caching,
        noise_sigma=0.1,
        service_levels=ServiceLevel(0.5, 3.0, 0.2),
    )
    parameters: dict[str, Value] = dict(
        zip(("prefill_share", "yield_share", "step_s"), shape, strict=True)
    )
    parameters |= {"kv_reserve": reserve, "late": late}
    if ORDERS[order].partitioned:
        parameters["routing"] = routing
    policy = Policy.from_dict({"order": order, "parameters": parameters})
    tuned = [p.name for p in policy.space.parameters if p.scale != "choice" and p.tunable]
    if adapts and tuned:
        policy = dataclasses.replace(policy, adaptive=_follower_of(policy, tuned[:4], seed))
    trace = small_traffic(seed, 60, shared=caching, bursts=bool(seed % 2))
    assert_equal(config, [policy, None], trace, 6.0)
