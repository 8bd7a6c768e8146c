"""A closed-form stand-in for an engine, with a known best policy: for tests of tuners.

There is no scheduler and no queue: a request's first token comes after

    TTFT = C(b) * STRETCH * exp(sensitivity * loss) * cliff * noise,
    loss = sum_i w_i (u_i - u_i*(t))^2,   w_i = 2^-i, i = 0 .. active - 1,

u the tuned parameters in force at its arrival on the unit cube, u* the optimum, which may drift,
jump and depend on the arrival rate.  Both latency terms of the default objective are then linear
in the loss: J = sensitivity * (loss of the reference - loss), up to censoring and overdue waits.
All else (arrivals, records, metrics, censoring) is as in any engine, so loops, wrappers and
agents meet the same interface in milliseconds.  Numbers from it say nothing about vLLM.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import field
from typing import TYPE_CHECKING, Annotated, Literal
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from ewsjf_env.config import Count, Natural, NotNegative, Positive, Range, check_range, settings
from ewsjf_env.engine.base import EngineError, ShouldAbort
from ewsjf_env.measure.records import (
    MetricSettings,
    RequestRecord,
    WindowCounters,
    WindowMetrics,
    aggregate,
)
from ewsjf_env.measure.requests import Requests
from ewsjf_env.parameters import Value
from ewsjf_env.policy.adaptation import Adaptation
from ewsjf_env.policy.policy import Policy
from ewsjf_env.scheduling.history import HistoryTotals

if TYPE_CHECKING:
    from ewsjf_env.workload.trace import Trace

ABORT_CHECK_S = 1.0
STRETCH = 2.0  # TTFT over C(b) at the optimum
TPOT_S = 0.02


@settings
class FakeConfig:
    """The landscape."""

    optimum_seed: Natural = 0
    """Seed of the place of the optimum, in [0.2, 0.8] of every dimension."""
    active: Count = 3
    """How many of the first tuned parameters matter; the others are dead."""
    sensitivity: Annotated[float, Range(0.0, 100.0, low_open=True)] = 4.0
    """Natural logarithm of the latency per unit of loss."""
    noise_sigma: Annotated[float, Range(0.0, 2.0)] = 0.0
    """Spread of a lognormal latency factor, one per `noise_s` and policy; 0: none."""
    noise_s: Positive = 10.0
    """How long a factor lasts in seconds."""
    noise_seed: Natural = 0
    """Seed of these factors, together with the trace and the values in force."""
    drift_per_s: Annotated[float, Range(-1.0, 1.0)] = 0.0
    """Move of the optimum's first coordinate per second; the coordinate stays in [0, 1]."""
    jump_s: NotNegative | None = None
    """Moment from which on the optimum is mirrored, u* -> 1 - u*, seconds; null: never."""
    context_gain: Annotated[float, Range(-1.0, 1.0)] = 0.0
    """Move of that coordinate per factor e of the trace's mean arrival rate over
    `context_rate_per_s`.
    """
    context_rate_per_s: Positive = 8.0
    """Arrivals per second at which `context_gain` moves nothing."""
    cliff: NotNegative | None = None
    """The first coordinate above u* + cliff multiplies latencies by `cliff_factor`; null: no
    cliff.
    """
    cliff_factor: Annotated[float, Range(1.0)] = 5.0
    """Factor on latencies above the cliff."""
    fail_at_s: NotNegative | None = None
    """Moment at which the engine dies with an `EngineError`, seconds; null: never."""
    metrics: MetricSettings = field(default_factory=MetricSettings)
    """Class limits and service levels."""
    engine: Literal["fake"] = "fake"
    """What kind of engine these are the settings of."""


class FakeEngine:
    """An `Engine` (see `engine/base.py`) in closed form, deterministic and without a queue."""

    def __init__(self, config: FakeConfig | None = None) -> None:
        self.config = config or FakeConfig()
        self._asked: Policy | None = None  # installed
        self._policy: Policy | None = None  # in force: with the values of its last act
        self._unit: NDArray[np.float64] = np.zeros(0)
        self._trace: Trace | None = None
        self._records: list[RequestRecord] = []
        self._noise: dict[int, float] = {}
        self._now_s = 0.0
        self._closed = False
        self._adaptation = self._new_adaptation()

    def reset(self, trace: Trace) -> None:
        """See `Engine.reset`."""
        self._check_open()
        self._trace = trace
        self._records = []
        self._noise = {}
        self._now_s = 0.0
        self._adaptation = self._new_adaptation()
        if self._asked is not None:
            self.install(self._asked)

    def install(self, policy: Policy) -> None:
        """See `Engine.install`."""
        self._check_open()
        self._asked = policy
        self._put_in_force(policy)

    def apply(self, parameters: Mapping[str, object]) -> Mapping[str, object]:
        """See `Engine.apply`."""
        policy = self._installed()
        self.install(policy.with_parameters(parameters))
        return dict(self._installed().parameters)

    def run_window(
        self, duration_s: float, should_abort: ShouldAbort | None = None
    ) -> WindowMetrics:
        """See `Engine.run_window`."""
        check_range("duration_s", duration_s, 0.0, low_open=True)
        self._running_trace()
        self._installed()
        start_s = self._now_s
        end_s = start_s + duration_s
        old = [r for r in self._records if r.finish_s is None or r.finish_s >= start_s]
        known, checks = len(self._records), 0
        while self._now_s < end_s:
            checks += 1
            check_s = start_s + checks * ABORT_CHECK_S
            self._advance(end_s if should_abort is None else min(end_s, check_s))
            metrics = self._measure(old + self._records[known:], start_s)
            if should_abort is not None and should_abort(metrics):
                break
        return metrics

    def records(self) -> list[RequestRecord]:
        """See `Engine.records`: as they stand by now, without what is still to come."""
        self._running_trace()
        return [_seen_at(record, self._now_s) for record in self._records]

    def requests(self, start_s: float, end_s: float) -> Requests:
        """See `Engine.requests`."""
        return Requests.of(self.records(), self.prefill_cost_s, start_s, end_s)

    def cuts(self) -> tuple[int, ...]:
        """See `Engine.cuts`: the partition of the installed policy."""
        return self._installed().partition.cuts

    def prefill_cost_s(self, prompt_tokens: int) -> float:
        """See `Engine.prefill_cost_s`: 10 ms and 0.1 ms per token."""
        return 0.01 + 1e-4 * prompt_tokens

    def now(self) -> float:
        """See `Engine.now`."""
        return self._now_s

    def close(self) -> None:
        """See `Engine.close`."""
        self._trace = None
        self._closed = True

    def optimum(self, at_s: float = 0.0) -> dict[str, Value]:
        """Values of the tuned parameters of least loss at a moment, up to rounding."""
        space = self._installed().space.tunable()
        return space.from_unit(self._optimum_unit(len(space), at_s))

    def loss(self, parameters: Mapping[str, object], at_s: float = 0.0) -> float:
        """The loss of some values, the others as installed; 0 is best."""
        unit = _unit_of(self._installed().with_parameters(parameters))
        return self._loss(unit - self._optimum_unit(len(unit), at_s))

    def _put_in_force(self, policy: Policy) -> None:
        self._policy = policy
        self._unit = _unit_of(policy)
        self._noise = {}
        self._adaptation.follow(policy, self._now_s)

    def _new_adaptation(self) -> Adaptation:
        """As of the scheduler; here it acts at the very moment, since there are no steps."""
        return Adaptation(_FakeHistory(self), self.prefill_cost_s, lambda: len(self.cuts()) + 1)

    def _advance(self, end_s: float) -> None:
        """Serve until `end_s`, and let the policy act on the way."""
        while True:
            self._serve_until(min(end_s, self._adaptation.next_s))
            self._adaptation.roll(self._now_s)
            values = self._adaptation.act(self._installed())
            if values is not None:
                self._put_in_force(self._installed().with_parameters(values))
            if self._now_s >= end_s:
                return

    def _serve_until(self, end_s: float) -> None:
        fail_at_s = self.config.fail_at_s
        if fail_at_s is not None and end_s >= fail_at_s:
            self._now_s = fail_at_s
            raise EngineError(f"the fake engine died at {fail_at_s:g} s, as configured")
        arrival_s = self._running_trace().arrival_s
        first, last = np.searchsorted(arrival_s, (self._now_s, end_s))
        self._records += [self._serve(i) for i in range(int(first), int(last))]
        self._now_s = end_s

    def _serve(self, index: int) -> RequestRecord:
        trace = self._running_trace()
        arrival_s = float(trace.arrival_s[index])
        prompt, output = int(trace.prompt_tokens[index]), int(trace.output_tokens[index])
        first_s = arrival_s + self.prefill_cost_s(prompt) * self._stretch(arrival_s)
        return RequestRecord(
            request_id=f"{index:08d}",
            arrival_s=arrival_s,
            prompt_tokens=prompt,
            output_tokens=output,
            generated_tokens=output,
            first_token_s=first_s,
            finish_s=first_s + TPOT_S * (output - 1),
        )

    def _stretch(self, at_s: float) -> float:
        config = self.config
        distances = self._unit - self._optimum_unit(len(self._unit), at_s)
        stretch = STRETCH * math.exp(config.sensitivity * self._loss(distances))
        if config.cliff is not None and distances[0] > config.cliff:
            stretch *= config.cliff_factor
        return stretch * self._noise_at(at_s)

    def _loss(self, distances: NDArray[np.float64]) -> float:
        index = np.arange(len(distances))
        weights = np.where(index < self.config.active, 0.5**index, 0.0)
        return float(weights @ distances**2)

    def _optimum_unit(self, dimensions: int, at_s: float) -> NDArray[np.float64]:
        config, trace = self.config, self._running_trace()
        unit = np.random.default_rng(config.optimum_seed).uniform(0.2, 0.8, dimensions)
        if config.context_gain and len(trace):
            rate = len(trace) / max(float(trace.arrival_s[-1]), ABORT_CHECK_S)
            unit[0] += config.context_gain * math.log(rate / config.context_rate_per_s)
        unit[0] += config.drift_per_s * at_s
        unit = np.clip(unit, 0.0, 1.0)
        if config.jump_s is not None and at_s >= config.jump_s:
            unit = 1.0 - unit
        return unit

    def _noise_at(self, at_s: float) -> float:
        """Other values in force draw other noise, so that it does not cancel in comparisons."""
        sigma = self.config.noise_sigma
        if sigma == 0.0:
            return 1.0
        interval = int(at_s / self.config.noise_s)
        if interval not in self._noise:
            values = json.dumps(dict(self._installed().parameters), sort_keys=True)
            trace = int(self._running_trace().digest(), 16)
            key = [self.config.noise_seed, trace, interval, crc32(values.encode())]
            z = float(np.random.default_rng(key).standard_normal())
            self._noise[interval] = math.exp(sigma * z)
        return self._noise[interval]

    def _measure(self, records: list[RequestRecord], start_s: float) -> WindowMetrics:
        end_s = self._now_s
        counters = WindowCounters(
            output_tokens=sum(
                _tokens_before(r, end_s) - _tokens_before(r, start_s) for r in records
            ),
            prefill_tokens=sum(
                r.prompt_tokens for r in records if start_s <= (r.first_token_s or 0.0) < end_s
            ),
            kv_usage_mean=0.0,
            prefix_hit_rate=0.0,
            queues=self._installed().partition.queues,
        )
        metrics = self.config.metrics
        return aggregate(records, counters, start_s, end_s, self.prefill_cost_s, metrics)

    def _installed(self) -> Policy:
        if self._policy is None:
            raise EngineError("no policy is installed; call install first")
        return self._policy

    def _running_trace(self) -> Trace:
        self._check_open()
        if self._trace is None:
            raise EngineError("no traffic: call reset with a trace first")
        return self._trace

    def _check_open(self) -> None:
        if self._closed:
            raise EngineError("the engine is closed")


class _FakeHistory:
    """What an engine knows of its requests, for `Adaptation`."""

    complete_since_s = -math.inf

    def __init__(self, engine: FakeEngine) -> None:
        self._engine = engine

    def records(self, since_s: float = -math.inf) -> list[RequestRecord]:
        """See `RequestHistory.records`."""
        return self._engine.records()

    def totals(self, now_s: float) -> HistoryTotals:
        """See `RequestHistory.totals`."""
        tokens = sum(_tokens_before(record, now_s) for record in self._engine.records())
        return HistoryTotals(output_tokens=tokens, preemptions=0, kv_usage_s=0.0)


def _unit_of(policy: Policy) -> NDArray[np.float64]:
    """The tuned parameters of a policy on the unit cube."""
    space = policy.space.tunable()
    return space.to_unit({name: policy.parameters[name] for name in space.names})


def _tokens_before(record: RequestRecord, at_s: float) -> int:
    """Output tokens produced before a moment; the k-th comes k TPOT_S after the first."""
    first_s = record.first_token_s
    if first_s is None or first_s >= at_s:
        return 0
    return min(record.output_tokens, math.ceil((at_s - first_s) / TPOT_S))


def _seen_at(record: RequestRecord, at_s: float) -> RequestRecord:
    """The record without what happens at `at_s` or later."""
    first_s, finish_s = record.first_token_s, record.finish_s
    return dataclasses.replace(
        record,
        generated_tokens=_tokens_before(record, at_s),
        first_token_s=first_s if first_s is not None and first_s < at_s else None,
        finish_s=finish_s if finish_s is not None and finish_s < at_s else None,
    )
