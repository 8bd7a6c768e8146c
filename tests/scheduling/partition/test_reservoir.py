"""The length sample is bounded, repeatable, decays as stated and survives long uptimes."""

import heapq
import math
import random

import numpy as np
import pytest

from ewsjf_env.config import ConfigError
from ewsjf_env.scheduling.partition.reservoir import LengthReservoir


def test_all_arrivals_are_kept_up_to_the_capacity():
    reservoir = LengthReservoir(capacity=10, half_life_s=100.0)
    for i in range(10):
        reservoir.add(i + 1, 0.0)
    lengths, weights = reservoir.sample()
    assert sorted(lengths) == list(range(1, 11))
    assert weights == pytest.approx(np.ones(10))
    reservoir.add(11, 0.0)
    assert len(reservoir) == 10


def test_weights_halve_with_each_half_life():
    reservoir = LengthReservoir(capacity=10, half_life_s=100.0)
    for length, now_s in ((1, 0.0), (2, 100.0), (3, 300.0)):
        reservoir.add(length, now_s)
    lengths, weights = reservoir.sample()
    by_length = dict(zip(lengths.tolist(), weights, strict=True))
    assert by_length[3] / by_length[2] == pytest.approx(4)
    assert by_length[2] / by_length[1] == pytest.approx(2)


def test_same_seed_same_sample():
    def draw(seed):
        reservoir = LengthReservoir(capacity=64, half_life_s=10.0, seed=seed)
        for i in range(1000):
            reservoir.add(1 + i, 0.05 * i)
        return reservoir.sample()

    for first, second in zip(draw(3), draw(3), strict=True):
        np.testing.assert_array_equal(first, second)
    assert not np.array_equal(draw(3)[0], draw(4)[0])


def test_the_decayed_share_is_estimated_without_bias():
    # One class a second, halves of the run: the late half weighs 2**5 / (1 + 2**5) of all.
    shares = []
    for seed in range(40):
        reservoir = LengthReservoir(capacity=200, half_life_s=100.0, seed=seed)
        for i in range(4000):
            reservoir.add(1 if i < 2000 else 2, 0.25 * i)
        lengths, weights = reservoir.sample()
        shares.append(weights[lengths == 2].sum() / weights.sum())
    assert np.mean(shares) == pytest.approx(32 / 33, abs=0.01)


@pytest.mark.parametrize("start_s", [0.0, 1.7e9])
def test_years_of_uptime_do_not_overflow(start_s):
    reservoir = LengthReservoir(capacity=32, half_life_s=1.0, seed=0)
    for i in range(1000):
        reservoir.add(1 + i, start_s + 1e6 * i)
    lengths, weights = reservoir.sample()
    assert np.isfinite(weights).all() and weights.sum() == pytest.approx(len(weights))
    assert lengths[np.argmax(weights)] == 1000


def test_a_snapshot_does_not_change():
    reservoir = LengthReservoir(capacity=4, half_life_s=1.0)
    reservoir.add(7, 0.0)
    snapshot = reservoir.snapshot()
    reservoir.add(8, 0.0)
    assert snapshot.sample()[0].tolist() == [7]


def test_an_empty_sample():
    lengths, weights = LengthReservoir().sample()
    assert len(lengths) == len(weights) == 0


@pytest.mark.parametrize("change", [{"capacity": 0}, {"half_life_s": 0.0}])
def test_bad_settings_are_refused(change):
    with pytest.raises(ConfigError, match=next(iter(change))):
        LengthReservoir(**change)


@pytest.mark.parametrize("count", [0, 1, 63, 64, 65, 5000])
@pytest.mark.parametrize("pieces", [1, 7])
def test_arrivals_offered_at_once_are_those_offered_one_by_one(count, pieces):
    draw = np.random.default_rng(count)
    lengths, times_s = draw.integers(1, 5000, count), np.sort(draw.uniform(0, 1e3, count))
    single, many = (LengthReservoir(capacity=64, half_life_s=50.0, seed=7) for _ in range(2))
    for part in np.array_split(np.arange(count), pieces):
        for length, now_s in zip(lengths[part].tolist(), times_s[part].tolist(), strict=True):
            single.add(length, now_s)
        many.add_many(lengths[part], times_s[part])
        assert len(single) == len(many)
    for first, second in zip(single.sample(), many.sample(), strict=True):
        np.testing.assert_array_equal(first, second)


def test_the_sample_is_that_of_a_heap_of_priorities():
    """Priority sampling as defined: the largest are kept, tau is the largest that was dropped."""
    generator, capacity, half_life_s = random.Random(3), 50, 20.0
    reservoir = LengthReservoir(capacity, half_life_s, seed=3)
    heap, dropped = [], -math.inf
    for i in range(2000):
        length, now_s = 1 + i * 37 % 4001, 0.1 * i
        reservoir.add(length, now_s)
        log_weight = now_s * math.log(2.0) / half_life_s
        heapq.heappush(heap, (log_weight + generator.expovariate(1.0), length, log_weight))
        if len(heap) > capacity:
            dropped = max(dropped, heapq.heappop(heap)[0])
        if i % 301 == 0:
            snapshot = reservoir.snapshot()
            kept = sorted((length, log_weight) for _, length, log_weight in heap)
            assert sorted(snapshot.lengths.tolist()) == [length for length, _ in kept]
            assert snapshot.log_threshold == pytest.approx(dropped, rel=1e-14)
