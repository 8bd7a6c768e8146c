import math

import numpy as np
import pytest

from ewsjf_env.config import ConfigError
from ewsjf_env.engine.base import EngineError
from ewsjf_env.engine.fake import STRETCH, TPOT_S, FakeConfig, FakeEngine
from ewsjf_env.measure.features import feature_names, observe
from ewsjf_env.measure.objective import relative_objective
from ewsjf_env.measure.records import MetricSettings, WindowMetrics
from ewsjf_env.measure.traffic import traffic_statistics
from ewsjf_env.policy.policy import default_policy, parse_policy
from ewsjf_env.workload.trace import Trace
from tests.engine.engine_contract import small_trace
from tests.policy.adaptive_policies import BUSY, CALM, SPACE, adaptive, table, whole_network
from tests.policy.adaptive_policies import policy as follower

PATIENT = MetricSettings(overdue_floor_s=1e6)  # nothing is overdue: J has latency terms alone


def started(config: FakeConfig, trace: Trace | None = None) -> FakeEngine:
    engine = FakeEngine(config)
    engine.install(parse_policy("ewsjf"))
    engine.reset(trace or small_trace(count=400, duration_s=60.0))
    return engine


def window(config: FakeConfig, values: dict[str, object], settle_s: float = 10.0) -> WindowMetrics:
    engine = started(config)
    engine.apply(values)
    engine.run_window(settle_s)
    return engine.run_window(30.0)


def test_one_request_by_hand() -> None:
    trace = Trace("one", np.array([1.0]), np.array([900]), np.array([3]))
    engine = started(FakeConfig(), trace)
    best = engine.optimum()
    engine.apply(best)
    stretch = STRETCH * math.exp(4.0 * engine.loss(best))
    first_s = 1.0 + (0.01 + 0.09) * stretch
    engine.run_window(10.0)
    (record,) = engine.records()
    assert record.first_token_s == pytest.approx(first_s)
    assert record.finish_s == pytest.approx(first_s + 2 * TPOT_S)
    assert engine.loss(best) < 1e-3  # rounding of q_max is not among the active parameters


def test_the_objective_is_linear_in_the_loss() -> None:
    config = FakeConfig(sensitivity=2.0, metrics=PATIENT)
    engine = started(config)
    near, far = {"lambda": 0.9, "k": 5.0}, {"lambda": 1.9, "mu": 0.8}
    gained = engine.loss(far) - engine.loss(near)
    terms = relative_objective(window(config, near), window(config, far)).terms
    assert gained > 0
    assert terms["ttft_short"] + terms["slowdown_long"] == pytest.approx(2.0 * gained, rel=1e-3)


def test_nothing_beats_the_optimum_and_dead_parameters_do_nothing() -> None:
    config = FakeConfig(active=2, metrics=PATIENT)
    engine = started(config)
    best = window(config, engine.optimum())
    space = parse_policy("ewsjf").space.tunable()
    random = np.random.default_rng(0)
    for _ in range(5):
        other = space.from_unit(random.uniform(size=len(space)))
        assert relative_objective(window(config, other), best).total < 0
    dead = {**engine.optimum(), "delta": 0.4, "q_max": 4}
    assert window(config, dead) == best


def test_noise_does_not_cancel_between_policies_but_repeats() -> None:
    config = FakeConfig(noise_sigma=0.3, active=1, metrics=PATIENT)
    same, dead = {"delta": 0.0}, {"delta": 0.3}
    assert window(config, same) == window(config, same)
    assert window(config, same).ttft_p95_s != window(config, dead).ttft_p95_s
    silent = FakeConfig(active=1, metrics=PATIENT)
    assert window(silent, same).ttft_p95_s == window(silent, dead).ttft_p95_s


def test_the_optimum_drifts_jumps_and_follows_the_context() -> None:
    still = started(FakeConfig()).optimum()
    drifting = started(FakeConfig(drift_per_s=0.01))
    assert drifting.optimum() == still
    assert drifting.optimum(10.0)["lambda"] == pytest.approx(still["lambda"] + 2.0 * 0.1)
    assert drifting.optimum(10.0)["mu"] == still["mu"]
    jumping = started(FakeConfig(jump_s=5.0))
    assert jumping.optimum(4.9) == still
    assert jumping.optimum(5.0)["lambda"] == pytest.approx(2.0 - still["lambda"])
    assert jumping.loss(still, 4.9) < 1e-9 < jumping.loss(still, 5.0)
    sparse, dense = small_trace(count=100), small_trace(count=200)
    config = FakeConfig(context_gain=0.1)
    moved = [started(config, trace).optimum()["lambda"] for trace in (sparse, dense)]
    rates = [len(t) / t.arrival_s[-1] for t in (sparse, dense)]
    assert moved[1] - moved[0] == pytest.approx(2.0 * 0.1 * math.log(rates[1] / rates[0]))


def test_beyond_the_cliff_latencies_jump() -> None:
    flat, steep = FakeConfig(metrics=PATIENT), FakeConfig(cliff=0.1, metrics=PATIENT)
    best = started(flat).optimum()
    inside, beyond = dict(best), {**best, "lambda": float(best["lambda"]) + 2.0 * 0.11}
    assert window(steep, inside) == window(flat, inside)
    ratio = window(steep, beyond).slowdown_long_p95 / window(flat, beyond).slowdown_long_p95
    assert ratio == pytest.approx(5.0, rel=0.05)


def test_tokens_are_counted_where_they_come() -> None:
    engine = started(FakeConfig())
    engine.apply(engine.optimum())
    windows = [engine.run_window(20.0) for _ in range(6)]
    produced = sum(m.output_tokens_per_s * m.window_s for m in windows)
    assert produced == pytest.approx(sum(r.output_tokens for r in engine.records()))
    assert windows[-1].outstanding == 0


def test_it_dies_when_told() -> None:
    engine = started(FakeConfig(fail_at_s=12.0))
    engine.run_window(10.0)
    with pytest.raises(EngineError, match="died at 12 s"):
        engine.run_window(10.0)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"active": 0}, "active"),
        ({"sensitivity": 0.0}, "sensitivity"),
        ({"noise_sigma": -1.0}, "noise_sigma"),
        ({"cliff": -0.1}, "cliff"),
        ({"cliff_factor": 0.5}, "cliff_factor"),
        ({"jump_s": math.nan}, "jump_s"),
    ],
)
def test_settings_out_of_range_are_refused(bad: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        FakeConfig(**bad)  # type: ignore[arg-type]


def test_an_adaptive_policy_acts_here_as_in_a_scheduler() -> None:
    part = adaptive(table(1, -0.9, 0.9), ("arrival_rate_per_s",), period_s=10.0, window_s=6.0)
    engine = FakeEngine()
    engine.install(follower(part))
    engine.reset(small_trace(count=4000, duration_s=30.0))  # 133 requests/s: busy
    for until_s, values in ((9.9, default_policy().parameters), (0.2, BUSY), (19.9, BUSY)):
        engine.run_window(until_s)
        in_force = engine.apply({})
        assert {name: in_force[name] for name in BUSY} == {name: values[name] for name in BUSY}
    engine.run_window(12.0)  # nothing has arrived since 30 s
    assert engine.apply({})["k"] == CALM["k"]
    engine.install(follower(part))
    engine.reset(small_trace())
    assert engine.apply({})["k"] == default_policy().parameters["k"]


def test_its_windows_are_those_of_the_environment() -> None:
    names = feature_names(SPACE)
    part = whole_network(period_s=10.0, window_s=6.0)
    engine = FakeEngine()
    engine.install(follower(part))
    engine.reset(small_trace(count=400, duration_s=40.0))
    in_force: dict[str, object] = {**default_policy().parameters}
    for _ in range(3):
        engine.run_window(4.0)
        metrics = engine.run_window(6.0)
        start_s, end_s = engine.now() - 6.0, engine.now()
        traffic = traffic_statistics(engine.requests(start_s, end_s), start_s, end_s)
        observation = observe(metrics, traffic, SPACE, in_force)
        in_force = dict(engine.apply({}))
        assert {name: in_force[name] for name in SPACE.names} == part.act(observation)
    assert part.inputs == names
