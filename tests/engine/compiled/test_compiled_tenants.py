"""Accounts of tenants in the compiled engine: each request, counter and service as simulated."""

import dataclasses

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ewsjf_env.config import ConfigError
from ewsjf_env.engine.compiled.engine import CompiledEngine
from ewsjf_env.engine.simulated.config import SimulatedConfig
from ewsjf_env.engine.simulated.engine import SimulatedEngine
from ewsjf_env.parameters import Value
from ewsjf_env.policy.policy import Policy, parse_policy
from ewsjf_env.scheduling.orders.registry import ORDERS
from ewsjf_env.scheduling.tenants import OTHERS, TenantSettings
from ewsjf_env.workload.trace import Trace
from tests.engine.compiled.both_engines import assert_equal, small_traffic
from tests.policy.adaptive_policies import adaptive, table
from tests.policy.adaptive_policies import policy as follower

SHARED = SimulatedConfig(
    max_model_len=4096,
    kv_blocks=600,
    max_num_seqs=32,
    noise_sigma=0.1,
    tenants=TenantSettings(by="priority", weights={"1": 3.0}),
)


def senders(trace: Trace, count: int, seed: int) -> Trace:
    """The same requests from so many tenants, who come and go."""
    random = np.random.default_rng(seed)
    places = np.arange(len(trace)) // 20
    names = random.integers(0, count, (places[-1] + 1, 3))
    chosen = names[places, random.integers(0, 3, len(trace))]
    return dataclasses.replace(trace, priority=chosen.astype(np.int64))


def assert_equal_accounts(
    config: SimulatedConfig, policies: list[Policy], trace: Trace, window_s: float
) -> list[dict[str, object]]:
    """Serve in both engines and compare every open account after each window."""
    compiled, simulated = CompiledEngine(config), SimulatedEngine(config)
    for engine in (compiled, simulated):
        engine.install(policies[0])
        engine.reset(trace)
    by_priority = config.tenants is not None and config.tenants.by == "priority"
    names = [str(one) for one in np.unique(trace.priority).tolist()] if by_priority else [""]
    names.append(OTHERS)
    for policy in policies:
        for engine in (compiled, simulated):
            engine.install(policy)
            engine.run_window(window_s)
        assert compiled.records() == simulated.records()
        expected = {a["tenant"]: a for a in simulated.scheduler.waiting.tenants.describe()}
        accounts = compiled.core.state.tenants[:-1]
        found = {
            name: {
                "tenant": name,
                "weight": one["weight"],
                "counter": one["counter"],
                "served": one["counted"],
                "waiting": one["waiting"],
                "here": one["here"],
            }
            for name, one in zip(names, accounts, strict=True)
            if one["there"]
        }
        assert found == {name: a for name, a in expected.items() if name in names}
    return list(expected.values())


@pytest.mark.parametrize("order", [name for name in ORDERS if not name.endswith("_late")])
def test_every_order_inside_a_tenant(order: str) -> None:
    trace = senders(small_traffic(21, 400, 40.0, bursts=True), 4, 21)
    assert_equal(SHARED, [order, None, "fcfs", order], trace, 12.0)
    alone = dataclasses.replace(SHARED, tenants=None)
    one, other = CompiledEngine(SHARED), CompiledEngine(alone)
    for engine in (one, other):
        engine.install(parse_policy(order))
        engine.reset(trace)
        engine.run_window(40.0)
    assert one.records() != other.records()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"max_tenants": 2},
        {"listed_only": True},
        {"prompt_weight": 0.0},
        {"output_weight": 0.0, "weights": {}},
        {"by": "extra_args"},
    ],
    ids=str,
)
def test_accounts(changes: dict[str, object]) -> None:
    assert SHARED.tenants is not None
    tenants = dataclasses.replace(SHARED.tenants, **changes)  # type: ignore[arg-type]
    config = dataclasses.replace(SHARED, tenants=tenants, kv_blocks=2000)
    trace = senders(small_traffic(22, 300, 120.0), 8, 22)
    policies = [parse_policy(name) for name in ("ewsjf", "sjf", "ewsjf", "hrrn")]
    accounts = assert_equal_accounts(config, policies, trace, 30.0)
    if changes == {"max_tenants": 2}:
        assert {a["tenant"] for a in accounts} > {"1", OTHERS}
    if changes == {}:
        assert len({a["served"] for a in accounts}) == 8


@pytest.mark.parametrize(
    "policy",
    [
        "ewsjf(overdue_share=0.3,overdue_floor_s=1,overdue_kappa=2,overtake_window_s=3)",
        "ewsjf(backfill=none)",
        "ewsjf_paper(routing=bubble,a_u=0.0005,backfill=none)",
        "ewsjf(routing=bubble,backfill=none,prefill_share=0.25,yield_share=0.8)",
        "ewsjf(routing=bubble,backfill=adjacent,repartition_s=5)",
        "ewsjf(w_output=1.5,output_from=learned,output_quantile=0.9)",
        "ewsjf(prefill_share=0.25,yield_share=0.8)",
    ],
)
@pytest.mark.parametrize("most", [64, 2])
def test_feature(policy: str, most: int) -> None:
    tenants = TenantSettings(by="priority", max_tenants=most)
    config = dataclasses.replace(SHARED, tenants=tenants, kv_blocks=1200)
    trace = senders(small_traffic(23, 500, 60.0, bursts=True), 9, 23)
    assert_equal(config, [policy, None, "fcfs", policy], trace, 16.0)


def test_boost_is_fitted_to_each_tenant() -> None:
    trace = senders(small_traffic(24, 1200, 100.0), 3, 24)
    config = dataclasses.replace(SHARED, kv_blocks=4000)
    assert_equal(config, ["boost_ada", None], trace, 50.0)
    engine = CompiledEngine(config)
    engine.install(parse_policy("boost_ada"))
    engine.reset(trace)
    engine.run_window(100.0)
    fitted = set(engine.core.state.tenants["p0"].tolist())
    assert len(fitted | {float(engine.core.state.policy[0]["p0"])}) > 2


def test_an_adaptive_policy_of_tenants() -> None:
    policy = follower(adaptive(table(1, -0.9, -0.6), period_s=4.0, window_s=4.0))
    trace = senders(small_traffic(25, 400, 45.0), 3, 25)
    assert_equal(SHARED, [policy, None, "fcfs", policy], trace, 11.0)


def test_more_tenants_than_are_compiled_are_refused() -> None:
    trace = dataclasses.replace(small_traffic(26), priority=np.arange(120))
    with pytest.raises(ConfigError, match=r"^tenants: the trace has 120, .*engine: simulated$"):
        CompiledEngine(SHARED).reset(trace)


def test_late_requests_of_tenants_are_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"^policy 'sjf_late': late: .*use engine: simulated$"):
        CompiledEngine(SHARED).install(parse_policy("sjf_late"))


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    order=st.sampled_from(sorted(name for name in ORDERS if not name.endswith("_late"))),
    routing=st.sampled_from(["cuts", "bubble"]),
    backfill=st.sampled_from(["score", "adjacent", "none"]),
    asynchronous=st.booleans(),
    budget=st.sampled_from([64, 300, 2048]),
    blocks=st.integers(130, 900),
    caching=st.booleans(),
    names=st.integers(1, 9),
    most=st.sampled_from([1, 3, 64]),
    listed_only=st.booleans(),
    prompt_weight=st.sampled_from([0.0, 1.0]),
    yield_share=st.sampled_from([0.0, 0.7]),
    reserve=st.sampled_from([0.0, 0.0, 0.02, 0.2]),
    seed=st.integers(0, 1000),
)
def test_any_tenants(
    order: str,
    routing: str,
    backfill: str,
    asynchronous: bool,
    budget: int,
    blocks: int,
    caching: bool,
    names: int,
    most: int,
    listed_only: bool,
    prompt_weight: float,
    yield_share: float,
    reserve: float,
    seed: int,
) -> None:
    config = SimulatedConfig(
        max_model_len=2048,
        async_scheduling=asynchronous,
        max_num_batched_tokens=budget,
        max_num_seqs=20,
        kv_blocks=blocks,
        prefix_caching=caching,
        tenants=TenantSettings(
            by="priority",
            weights={"0": 2.0, "3": 0.5},
            max_tenants=most,
            listed_only=listed_only,
            prompt_weight=prompt_weight,
        ),
    )
    parameters: dict[str, Value] = {"yield_share": yield_share, "kv_reserve": reserve}
    if ORDERS[order].partitioned:
        parameters |= {"routing": routing, "backfill": backfill}
    policy = Policy.from_dict({"order": order, "parameters": parameters})
    trace = senders(small_traffic(seed, 90, shared=caching, bursts=bool(seed % 2)), names, seed)
    assert_equal_accounts(config, [policy] * 3, trace, 5.0)
