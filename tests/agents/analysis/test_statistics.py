import math

import numpy as np
import pytest

from agents.analysis.statistics import UNKNOWN, difference, mean, ratio


def test_known_values():
    assert mean([1.0, 2.0, 6.0]).value == 3.0
    assert ratio([2.0, 4.0], [1.0, 2.0]).value == 2.0
    assert difference([2.0, 4.0], [1.0, 1.0]).value == 2.0


def test_constant_sample_has_no_width():
    assert (mean([5.0] * 4).low, mean([5.0] * 4).high) == (5.0, 5.0)
    share = ratio([2.0, 4.0, 6.0], [1.0, 2.0, 3.0])
    assert (share.low, share.high) == pytest.approx((2.0, 2.0))


def test_two_seeds_span_the_sample():
    found = mean([1.0, 3.0])
    assert (found.low, found.high) == (1.0, 3.0)


def test_one_seed_has_a_value_but_no_interval():
    for found in (mean([2.0]), difference([2.0], [0.0]), ratio([2.0], [1.0])):
        assert found.value == 2.0
        assert found.known
        assert not found.bounded


def test_nothing_can_be_said():
    for found in (mean([]), mean([math.nan]), ratio([1.0], [0.0]), ratio([], [])):
        assert found is UNKNOWN
        assert not found.known
    assert not difference([math.nan, 1.0], [1.0, math.nan]).known


def test_nan_drops_the_pair():
    assert mean([1.0, math.nan, 3.0]).value == 2.0
    assert difference([1.0, math.nan, 5.0], [0.0, 9.0, math.nan]).value == 1.0
    assert ratio([4.0, math.nan], [2.0, 100.0]).value == 2.0


def test_shapes_must_agree():
    with pytest.raises(ValueError, match=r"\(2,\) and \(3,\)"):
        ratio([1.0, 2.0], [1.0, 2.0, 3.0])


def test_repeats_to_the_bit():
    sample = [1.0, 5.0, 2.0, 9.0, 4.0]
    assert mean(sample) == mean(sample)


def test_pairing_matters():
    # Traces differ a lot, policies little: only seed by seed is the difference seen.
    reference = np.array([10.0, 50.0, 20.0, 90.0, 40.0])
    better = reference * 0.95
    paired = ratio(better, reference)
    assert (paired.low, paired.high) == pytest.approx((0.95, 0.95))
    shuffled = ratio(better[[1, 2, 3, 4, 0]], reference)
    assert shuffled.low < 0.7
    assert shuffled.high > 1.3
    assert difference(better, reference).high < 0
    assert difference(better[[1, 2, 3, 4, 0]], reference).high > 0


@pytest.mark.parametrize(
    ("seeds", "least", "most"), [(3, 0.70, 0.99), (5, 0.90, 0.99), (20, 0.92, 0.98)]
)
def test_coverage_of_simulated_samples(seeds: int, least: float, most: float):
    # The plain percentile interval of five normal values has their mean in about 83 of 100.
    samples = np.random.default_rng(7).normal(3.0, 1.0, size=(600, seeds))
    hits = [found.low <= 3.0 <= found.high for found in map(mean, samples)]
    assert least <= np.mean(hits) <= most


def test_interval_narrows_with_seeds():
    rng = np.random.default_rng(3)
    few, many = rng.normal(size=5), rng.normal(size=80)
    assert mean(many).high - mean(many).low < mean(few).high - mean(few).low
