"""What every engine promises (`ewsjf_env.engine.base.Engine`), as tests to inherit.

A subclass gives `make_engine`.  One where a second takes a second makes the seconds of these
tests shorter with `time_scale`, and says with `repeats` that nothing happens twice.
"""

import dataclasses
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest

from ewsjf_env.config import ConfigError
from ewsjf_env.engine.base import Engine, EngineError
from ewsjf_env.measure.records import WindowMetrics
from ewsjf_env.measure.requests import Requests
from ewsjf_env.policy.policy import Policy, parse_policy
from ewsjf_env.workload.trace import Trace


def small_trace(
    seed: int = 0, count: int = 60, duration_s: float = 20.0, time_scale: float = 1.0
) -> Trace:
    random = np.random.default_rng(seed)
    return Trace(
        name="contract",
        arrival_s=time_scale * np.sort(random.uniform(0.0, duration_s, count)),
        prompt_tokens=random.integers(16, 2000, count),
        output_tokens=random.integers(2, 60, count),
    )


class EngineContract:
    clock_tolerance_s = 1e-9
    time_scale = 1.0
    repeats = True

    def make_engine(self) -> Engine:
        raise NotImplementedError

    def policy(self) -> Policy:
        return parse_policy("ewsjf")

    def trace(self, seed: int = 0) -> Trace:
        return small_trace(seed, time_scale=self.time_scale)

    @pytest.fixture
    def engine(self) -> Iterator[Engine]:
        engine = self.make_engine()
        engine.install(self.policy())
        engine.reset(self.trace())
        yield engine
        engine.close()

    def test_keeps_the_protocol(self, engine: Engine) -> None:
        assert isinstance(engine, Engine)

    def test_apply_returns_what_is_in_force(self, engine: Engine) -> None:
        in_force = engine.apply({"k": 3.0, "q_max": 8.0})
        expected = {**self.policy().parameters, "k": 3.0, "q_max": 8}
        assert dict(in_force) == expected
        assert isinstance(in_force["q_max"], int)
        assert dict(engine.apply({})) == expected  # later changes add up

    def test_apply_refuses_what_is_no_parameter(self, engine: Engine) -> None:
        with pytest.raises(ConfigError, match=r"unknown parameter 'lamda'.*'lambda'"):
            engine.apply({"lamda": 1.0})
        with pytest.raises(ConfigError, match="outside"):
            engine.apply({"lambda": 99.0})
        assert dict(engine.apply({})) == dict(self.policy().parameters)

    def test_a_window_advances_the_clock_by_its_duration(self, engine: Engine) -> None:
        assert engine.now() == 0.0
        end_s = 0.0
        for duration_s in (0.25, 3.0 * self.time_scale, 30.0 * self.time_scale):
            metrics = engine.run_window(duration_s)
            end_s += duration_s
            assert engine.now() == pytest.approx(end_s, abs=self.clock_tolerance_s)
            assert metrics.window_s == pytest.approx(duration_s, abs=self.clock_tolerance_s)

    def test_a_window_needs_a_duration(self, engine: Engine) -> None:
        with pytest.raises(ConfigError, match="duration_s"):
            engine.run_window(0.0)

    def test_every_arrival_is_in_one_window(self, engine: Engine) -> None:
        edges_s = [0.0]
        windows = []
        for _ in range(4):
            windows.append(engine.run_window(5.0 * self.time_scale))
            edges_s.append(engine.now())
        trace = self.trace()
        assert [m.arrivals for m in windows] == [
            int(((trace.arrival_s >= start_s) & (trace.arrival_s < end_s)).sum())
            for start_s, end_s in pairwise(edges_s)
        ]
        assert len(engine.records()) == len(trace)

    def test_columns_are_the_records_of_a_window(self, engine: Engine) -> None:
        engine.run_window(7.5 * self.time_scale)
        start_s = engine.now()
        engine.run_window(5.0 * self.time_scale)
        found = engine.requests(start_s, engine.now())
        wanted = Requests.of(engine.records(), engine.prefill_cost_s, start_s, engine.now())
        for column in dataclasses.fields(Requests):
            np.testing.assert_array_equal(
                getattr(found, column.name), getattr(wanted, column.name), column.name
            )

    def test_records_tell_no_future(self, engine: Engine) -> None:
        engine.run_window(7.5 * self.time_scale)
        records = engine.records()
        columns = engine.requests(0.0, engine.now())
        assert columns.position.tolist() == list(range(len(records)))
        assert columns.prompt_tokens.tolist() == [r.prompt_tokens for r in records]
        for record in records:
            moments = [record.arrival_s, record.first_token_s, record.finish_s]
            known = [moment for moment in moments if moment is not None]
            assert known == sorted(known)
            assert known[-1] <= engine.now()
            assert 0 <= record.generated_tokens <= record.output_tokens

    def test_the_same_traffic_gives_the_same_metrics(self, engine: Engine) -> None:
        def run(engine: Engine) -> list[WindowMetrics]:
            windows = []
            for k in (2.0, 20.0):
                engine.apply({"k": k})
                windows.append(engine.run_window(10.0))
            return windows

        if not self.repeats:
            pytest.skip("nothing happens twice")
        other = self.make_engine()
        other.install(self.policy())
        other.reset(self.trace())
        first = [m.to_dict() for m in run(engine)]
        assert first == [m.to_dict() for m in run(other)]
        engine.install(self.policy())
        engine.reset(self.trace())
        assert first == [m.to_dict() for m in run(engine)]
        engine.reset(self.trace(seed=1))
        assert first != [m.to_dict() for m in run(engine)]

    def test_an_abort_ends_the_window_there(self, engine: Engine) -> None:
        seen: list[float] = []

        def after_three(metrics: WindowMetrics) -> bool:
            seen.append(metrics.window_s)
            return len(seen) == 3

        metrics = engine.run_window(10.0, after_three)  # about once a second, on any clock
        assert seen == sorted(seen)
        assert metrics.window_s == seen[-1] == pytest.approx(engine.now())
        assert engine.now() < 10.0
        rest_s = 5.0 * self.time_scale
        assert engine.run_window(rest_s, lambda m: False).window_s == pytest.approx(rest_s)

    def test_reset_starts_at_zero_with_the_policy_kept(self, engine: Engine) -> None:
        engine.apply({"k": 3.0})
        engine.run_window(4.0 * self.time_scale)
        engine.reset(self.trace(seed=2))
        assert engine.now() == 0.0
        assert engine.records() == []
        assert engine.apply({})["k"] == 3.0

    def test_cuts_ascend(self, engine: Engine) -> None:
        cuts = engine.cuts()
        assert list(cuts) == sorted(set(cuts))
        assert engine.run_window(1.0).queues == len(cuts) + 1

    def test_cost_grows_with_the_prompt(self, engine: Engine) -> None:
        costs = [engine.prefill_cost_s(b) for b in (1, 100, 1000, 4000)]
        assert costs[0] > 0
        assert costs == sorted(costs)

    def test_closes_twice_and_then_refuses(self, engine: Engine) -> None:
        engine.close()
        engine.close()
        with pytest.raises(EngineError, match="closed"):
            engine.run_window(1.0)
        with pytest.raises(EngineError, match="closed"):
            engine.reset(self.trace())

    def test_needs_traffic_and_a_policy(self) -> None:
        engine = self.make_engine()
        with pytest.raises(EngineError, match="no policy"):
            engine.apply({})
        engine.install(self.policy())
        with pytest.raises(EngineError, match="no traffic"):
            engine.run_window(1.0)
        engine.close()
