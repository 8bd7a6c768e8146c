"""The length sample is bounded, repeatable, decays as stated and survives long uptimes."""

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
