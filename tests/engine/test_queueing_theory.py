"""One request at a time, prefill only: the engine against exact results of queueing theory.

X service time, rho = lambda E[X], W0 = lambda E[X^2]/2, W mean wait in the queue (RIVALS D).
Prompts have few lengths, so X is one `prefill_s` a length and every formula is a finite sum.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pytest

from agents.theory.predictor import kleinrock_waits
from ewsjf_env.engine.simulated.config import SimulatedConfig
from ewsjf_env.engine.simulated.engine import SimulatedEngine
from ewsjf_env.policy.policy import Policy, parse_policy
from ewsjf_env.scheduling.orders.registry import ORDERS
from ewsjf_env.scheduling.partition.partition import Partition
from ewsjf_env.workload.trace import Trace

LENGTHS = {150: 0.6, 600: 0.3, 2000: 0.1}  # prompt tokens: probability
LOAD = 0.6
SEEDS = 10
REQUESTS = 2000
WARM_UP = 100  # requests left out at the start, when the queue is still shorter than usual
T_998 = 4.3  # quantile of Student's t with 9 degrees of freedom, two-sided 99.8 %


@pytest.fixture(scope="module")
def engine() -> SimulatedEngine:
    return SimulatedEngine(
        SimulatedConfig(
            async_scheduling=False,
            max_num_seqs=1,
            max_num_batched_tokens=8192,
            max_model_len=8192,
        )
    )


@dataclass(frozen=True)
class Model:
    """An M/G/1 queue with classes by prompt length, ascending."""

    tokens: tuple[int, ...]
    service_s: tuple[float, ...]
    rate_per_s: tuple[float, ...]

    @property
    def residual_s(self) -> float:
        return sum(r * x * x / 2 for r, x in zip(self.rate_per_s, self.service_s, strict=True))

    @property
    def loads(self) -> list[float]:
        return [r * x for r, x in zip(self.rate_per_s, self.service_s, strict=True)]

    def fcfs(self) -> list[float]:
        """Pollaczek-Khinchine."""
        return [self.residual_s / (1 - sum(self.loads))] * len(self.tokens)

    def strict(self, lanes: Sequence[Sequence[int]]) -> list[float]:
        """Cobham: lanes of class indices, most urgent first; FCFS inside a lane."""
        waits = [0.0] * len(self.tokens)
        before = 0.0
        for lane in lanes:
            after = before + sum(self.loads[i] for i in lane)
            for i in lane:
                waits[i] = self.residual_s / ((1 - before) * (1 - after))
            before = after
        return waits

    def weighted(self, weights: Sequence[float]) -> list[float]:
        """Kleinrock's delay-dependent priorities: score of a class is weight times wait."""
        return kleinrock_waits(self.loads, weights, self.residual_s)


def make_model(engine: SimulatedEngine) -> Model:
    service = {b: engine.prefill_cost_s(b) for b in LENGTHS}
    rate = LOAD / sum(p * service[b] for b, p in LENGTHS.items())
    return Model(tuple(LENGTHS), tuple(service.values()), tuple(rate * p for p in LENGTHS.values()))


def make_trace(model: Model, seed: int, lengths: Mapping[int, float] = LENGTHS) -> Trace:
    rng = np.random.default_rng(seed)
    tokens = rng.choice(list(lengths), size=REQUESTS, p=list(lengths.values()))
    gaps = rng.exponential(1 / sum(model.rate_per_s), size=REQUESTS)
    ranks = {b: i for i, b in enumerate(lengths)}
    return Trace(
        name="theory",
        arrival_s=np.cumsum(gaps),
        prompt_tokens=tokens.astype(np.int64),
        output_tokens=np.ones(REQUESTS, dtype=np.int64),
        priority=np.array([ranks[int(b)] for b in tokens], dtype=np.int64),
    )


def waits_by_length(
    engine: SimulatedEngine, policy: Policy, trace: Trace
) -> tuple[dict[int, float], float]:
    """Mean wait per length after the warm-up, and the sum of service x wait over all."""
    engine.reset(trace)
    engine.install(policy)
    engine.run_window(float(trace.arrival_s[-1]) + 1.0)
    engine.drain()
    waits: dict[int, list[float]] = {}
    total = 0.0
    for index, record in enumerate(engine.records()):
        assert record.first_token_s is not None
        service = engine.prefill_cost_s(record.prompt_tokens)
        wait = record.first_token_s - record.arrival_s - service
        assert wait > -1e-9
        total += service * wait
        if index >= WARM_UP:
            waits.setdefault(record.prompt_tokens, []).append(wait)
    return {b: float(np.mean(w)) for b, w in waits.items()}, total


def one_queue_a_length(order: str, values: Mapping[str, object]) -> Policy:
    cuts = (300, 1000)
    partition = Partition(cuts, tuple(float(b) for b in LENGTHS), tuple(LENGTHS.values()))
    return Policy(order, order, ORDERS[order].space.validate(values), partition)


CASES = {
    "fcfs": parse_policy("fcfs"),
    "random": parse_policy("random"),
    "sjf": parse_policy("sjf"),
    "priority": parse_policy("priority"),
    "srf": parse_policy("srf(short_tokens=256)"),
    "hrrn": parse_policy("hrrn"),
    "hrrn squared": parse_policy("hrrn(exponent=2)"),
    "ewsjf_authors": parse_policy("ewsjf_authors"),
    "ewsjf_hrrn": one_queue_a_length("ewsjf_hrrn", {}),
}


def expected_waits(engine: SimulatedEngine, name: str, model: Model) -> list[float]:
    # The scheduler knows C(b) from its prior; one step a request never teaches it better.
    cost_s = engine.scheduler.waiting.cost_model.cost_s
    costs = [cost_s(b) for b in model.tokens]
    if name in ("fcfs", "random"):
        return model.fcfs()  # any order blind to size has the mean wait of FCFS
    if name in ("sjf", "priority"):
        return model.strict([[0], [1], [2]])
    if name == "srf":
        return model.strict([[0], [1, 2]])
    if name == "hrrn squared":
        return model.weighted([1 / c**2 for c in costs])
    if name == "ewsjf_authors":
        return model.weighted([(1 + 0.5 * math.log(b + 1)) / (b // 200 + 1) for b in model.tokens])
    return model.weighted([1 / c for c in costs])


@pytest.mark.parametrize("name", list(CASES))
def test_mean_waits_match_the_closed_form(engine: SimulatedEngine, name: str) -> None:
    model = make_model(engine)
    samples: list[dict[int, float]] = []
    for seed in range(SEEDS):
        waits, _ = waits_by_length(engine, CASES[name], make_trace(model, seed))
        samples.append(waits)
    expected = expected_waits(engine, name, model)
    for tokens, wanted in zip(model.tokens, expected, strict=True):
        values = np.array([s[tokens] for s in samples])
        error = T_998 * values.std(ddof=1) / math.sqrt(SEEDS)
        assert abs(values.mean() - wanted) < error, f"{name}, {tokens} tokens"
        assert error < 0.35 * wanted  # the interval is narrow enough to mean something


def test_service_weighted_wait_is_conserved_on_every_path(engine: SimulatedEngine) -> None:
    """sum(service x wait) does not depend on the order, if no order idles while work waits."""
    model = make_model(engine)
    trace = make_trace(model, 99, {60: 0.3, 150: 0.3, 600: 0.2, 1200: 0.1, 3000: 0.1})
    totals = {
        order: waits_by_length(engine, parse_policy(order), trace)[1] for order in sorted(ORDERS)
    }
    for order, total in totals.items():
        assert total == pytest.approx(totals["fcfs"], rel=1e-9), order
    assert totals["fcfs"] > 0


def test_the_theory_itself_agrees_where_two_results_meet(engine: SimulatedEngine) -> None:
    model = make_model(engine)
    equal = model.weighted([1.0, 1.0, 1.0])
    assert equal == pytest.approx(model.fcfs())
    extreme = model.weighted([1.0, 1e-9, 1e-18])
    assert extreme == pytest.approx(model.strict([[0], [1], [2]]), rel=1e-6)
    for waits in (equal, extreme, model.weighted([5.0, 2.0, 1.0])):
        conserved = sum(r * w for r, w in zip(model.loads, waits, strict=True))
        assert conserved == pytest.approx(LOAD * model.residual_s / (1 - LOAD))
