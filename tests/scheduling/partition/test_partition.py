"""Refine-and-Prune: gaps are found, noise is left alone, and every length has a queue."""

import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ewsjf_env.config import ConfigError
from ewsjf_env.scheduling.partition.gaps import local_means, significant_gaps
from ewsjf_env.scheduling.partition.partition import (
    Partition,
    PartitionSettings,
    refine_and_prune,
    remeasure,
    ward_cost,
)

GAPS_ONLY = PartitionSettings(cost_homogeneity=False)
PAPER_MIX = ((0.8, 32, 256), (0.2, 1024, 4096))
THREE_CLASSES = ((0.5, 50, 100), (0.3, 500, 800), (0.2, 3000, 4000))


def mixture(parts, count, seed):
    """Uniform whole lengths of several classes (share, low, high), in random order."""
    rng = np.random.default_rng(seed)
    kind = rng.choice(len(parts), count, p=[share for share, _, _ in parts])
    low, high = (np.array([part[i] for part in parts])[kind] for i in (1, 2))
    return rng.integers(low, high + 1)


NOISE = {
    "uniform": lambda rng, n: rng.integers(32, 4097, n),
    "uniform_sparse": lambda rng, n: rng.integers(1, 100_001, n),
    "uniform_dense": lambda rng, n: rng.integers(1, 201, n),
    "lognormal": lambda rng, n: np.ceil(rng.lognormal(6, 1, n)),
    "lognormal_wide": lambda rng, n: np.ceil(rng.lognormal(6, 2, n)),
    "geometric": lambda rng, n: rng.geometric(1 / 2000, n),
    "pareto": lambda rng, n: np.ceil(np.minimum(20 * (1 + rng.pareto(1, n)), 1e6)),
    "gamma": lambda rng, n: np.ceil(rng.gamma(0.5, 2000, n)),
    "normal": lambda rng, n: np.ceil(np.maximum(rng.normal(5000, 1000, n), 1)),
    "log_uniform": lambda rng, n: np.ceil(np.exp(rng.uniform(0, np.log(30_000), n))),
}


@pytest.mark.parametrize("count", [300, 1000, 4096])
def test_noise_is_split_in_at_most_one_per_cent_of_the_samples(count):
    seeds = 40
    split = {
        name: sum(
            refine_and_prune(draw(np.random.default_rng(seed), count), None, GAPS_ONLY).queues > 1
            for seed in range(seeds)
        )
        for name, draw in NOISE.items()
    }
    assert sum(split.values()) <= 0.01 * seeds * len(NOISE), split
    assert max(split.values()) <= 1, split


def test_a_lower_severity_splits_noise_more_often():
    rng = np.random.default_rng(1)
    samples = [rng.integers(1, 100_001, 1000) for _ in range(20)]
    loose = PartitionSettings(alpha=0.6, cost_homogeneity=False)
    assert sum(refine_and_prune(b, None, loose).queues > 1 for b in samples) >= 10


@pytest.mark.parametrize("count", [200, 1000, 4096])
@pytest.mark.parametrize("parts", [PAPER_MIX, THREE_CLASSES])
def test_the_gaps_of_a_mixture_are_found_and_nothing_else(parts, count):
    for seed in range(5):
        partition = refine_and_prune(mixture(parts, count, seed), None, GAPS_ONLY)
        assert partition.queues == len(parts)
        for cut, (left, right) in zip(partition.cuts, itertools.pairwise(parts), strict=True):
            assert left[2] <= cut < right[1]


def test_the_papers_mix_has_a_cut_in_its_gap_and_one_for_the_cost():
    partition = refine_and_prune(mixture(PAPER_MIX, 4096, 0))
    assert partition.cuts[0] == pytest.approx(111, abs=5)
    assert partition.cuts[1] == pytest.approx(512, abs=4)
    assert partition.queues == 3
    assert sum(partition.masses[:2]) == pytest.approx(0.8, abs=0.03)


def test_a_gap_below_a_heavy_tail_is_found():
    rng = np.random.default_rng(3)
    tail = np.ceil(2000 * (1 + rng.pareto(1.2, 2000))).clip(max=1e6)
    partition = refine_and_prune(np.concatenate([rng.integers(100, 200, 2000), tail]))
    assert any(200 <= cut < 2000 for cut in partition.cuts)


def test_constant_lengths_are_one_queue():
    assert refine_and_prune(np.full(4096, 777)) == Partition((), (777.0,), (1.0,))


def test_fewer_than_two_hundred_samples_are_one_queue():
    lengths = mixture(PAPER_MIX, 199, 0)
    assert refine_and_prune(lengths).cuts == ()
    assert refine_and_prune(lengths).means[0] == pytest.approx(lengths.mean())
    assert refine_and_prune(np.append(lengths, 100)).queues > 1


def test_few_effective_samples_are_one_queue():
    lengths = mixture(PAPER_MIX, 1000, 0)
    weights = np.where(np.arange(1000) < 50, 1.0, 1e-6)
    assert refine_and_prune(lengths, weights).queues == 1


def test_an_empty_sample_is_one_queue():
    assert refine_and_prune([]).queues == 1
    assert refine_and_prune([5, 6], [0.0, 0.0]).queues == 1


def test_outliers_get_no_queue():
    lengths = np.concatenate([np.full(4000, 100), np.full(5, 8000)])
    assert refine_and_prune(lengths).queues == 1


def test_an_unweighted_copy_counts_like_a_weight():
    lengths = mixture(THREE_CLASSES, 1000, 0)
    once = refine_and_prune(lengths)
    assert refine_and_prune(lengths, np.full(1000, 1e-200)) == once
    heavy = np.where(lengths < 200, 3.0, 1.0)
    repeated = np.repeat(lengths, heavy.astype(int))
    assert refine_and_prune(lengths, heavy).cuts == refine_and_prune(repeated).cuts


def test_cost_is_homogeneous_within_each_queue():
    lengths = NOISE["log_uniform"](np.random.default_rng(0), 4096)
    partition = refine_and_prune(lengths)
    for low, high in itertools.pairwise(partition.cuts):
        assert (1 + high) / (1 + low) < 5
    # Two neighbours that could be one queue are one.
    assert 5 <= partition.queues <= 14


@pytest.mark.parametrize("rule", ["ward", "paper_low", "paper_high"])
def test_each_prune_rule_keeps_the_limit(rule):
    lengths = NOISE["log_uniform"](np.random.default_rng(0), 4096)
    partition = refine_and_prune(lengths, None, PartitionSettings(max_queues=4, prune=rule))
    assert partition.queues == 4


def test_ward_pruning_costs_least():
    lengths = NOISE["log_uniform"](np.random.default_rng(0), 4096)
    cost = {
        rule: ward_cost(
            lengths,
            None,
            refine_and_prune(lengths, None, PartitionSettings(max_queues=4, prune=rule)),
        )
        for rule in ("ward", "paper_low", "paper_high")
    }
    assert cost["ward"] == min(cost.values())


def test_ward_cost_by_hand():
    partition = Partition((10,), (5.0, 100.0), (0.5, 0.5))
    x = np.log1p([4, 9, 99])
    inner = (x[0] - x[:2].mean()) ** 2 + (x[1] - x[:2].mean()) ** 2
    assert ward_cost([4, 9, 99], None, partition) == pytest.approx(inner / 3)
    assert ward_cost([4, 9, 99], [0, 1, 5], partition) == pytest.approx(0)
    assert ward_cost([], None, partition) == 0.0


def test_remeasure_keeps_cuts_and_empty_queues():
    before = Partition((10, 100), (5.0, 50.0, 500.0), (0.2, 0.3, 0.5))
    after = remeasure([2, 4, 10, 200], None, before)
    assert after.cuts == before.cuts
    assert after.means == pytest.approx((16 / 3, 50.0, 200.0))
    assert after.masses == pytest.approx((0.75, 0.0, 0.25))
    assert remeasure([], None, before) is before


LENGTHS = st.lists(
    st.one_of(st.integers(1, 300), st.integers(1, 20_000), st.sampled_from([128, 1024])),
    min_size=1,
    max_size=400,
)


@settings(max_examples=60, deadline=None)
@given(
    lengths=LENGTHS,
    alpha=st.floats(0.2, 4),
    max_queues=st.integers(1, 16),
    prune=st.sampled_from(["ward", "paper_low", "paper_high"]),
    homogeneous=st.booleans(),
    seed=st.integers(0, 2**16),
    weighted=st.booleans(),
)
def test_properties(lengths, alpha, max_queues, prune, homogeneous, seed, weighted):
    rng = np.random.default_rng(seed)
    weights = rng.exponential(size=len(lengths)) if weighted else np.ones(len(lengths))
    chosen = PartitionSettings(
        alpha=alpha,
        max_queues=max_queues,
        min_samples=20,
        min_count=4,
        prune=prune,
        cost_homogeneity=homogeneous,
    )
    partition = refine_and_prune(lengths, weights, chosen)
    assert partition.queues <= max_queues
    assert list(partition.cuts) == sorted(set(partition.cuts))
    assert sum(partition.masses) == pytest.approx(1, abs=1e-9)
    queue = np.array([partition.route(b) for b in lengths])
    for index in range(partition.queues):
        inside = queue == index
        assert inside.any()
        mean = np.average(np.array(lengths)[inside], weights=weights[inside])
        assert partition.means[index] == pytest.approx(mean, rel=1e-6)
        share = weights[inside].sum() / weights.sum()
        assert partition.masses[index] == pytest.approx(share, abs=1e-6)
    order = rng.permutation(len(lengths))
    assert refine_and_prune(np.array(lengths)[order], weights[order], chosen) == partition


@given(
    cuts=st.lists(st.integers(1, 10_000), max_size=10, unique=True).map(sorted),
    tokens=st.integers(0, 20_000),
)
def test_every_length_has_exactly_one_queue(cuts, tokens):
    queues = len(cuts) + 1
    partition = Partition(tuple(cuts), (1.0,) * queues, (1 / queues,) * queues)
    index = partition.route(tokens)
    assert index == 0 or cuts[index - 1] < tokens
    assert index == len(cuts) or tokens <= cuts[index]


def test_round_trip_through_json():
    partition = refine_and_prune(mixture(PAPER_MIX, 1000, 0))
    data = json.loads(json.dumps(partition.to_dict()))
    assert Partition.from_dict(data, "policy.json: partition") == partition


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cuts": [500, 100]}, r"file: cuts\[1\]: 100 must be above the cut before it, 500"),
        ({"cuts": [0, 100]}, r"file: cuts\[0\]: 0 is outside \[1, inf\)"),
        ({"cuts": [100, 100]}, r"cuts\[1\]"),
        ({"cuts": [1.5, 100]}, r"cuts\[0\]: expected an integer"),
        ({"means": [1.0, 2.0]}, "means: 2 values for 3 queues"),
        ({"means": [1.0, 3.0, 2.0]}, r"means\[2\]: 2.0 is outside \[3, inf\)"),
        ({"means": [1.0, 2.0, float("nan")]}, r"means\[2\]"),
        ({"masses": [0.5, 0.5, 0.5]}, "masses: the sum 1.5 must be 1"),
        ({"masses": [1.5, -0.5, 0.0]}, r"masses\[0\]"),
        ({"mases": []}, "unknown key 'mases'; nearest valid name: 'masses'"),
    ],
)
def test_bad_partitions_are_refused(change, message):
    data = {"cuts": [10, 100], "means": [5, 50, 500], "masses": [0.2, 0.3, 0.5], **change}
    with pytest.raises(ConfigError, match=message):
        Partition.from_dict(data, "file")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"alpha": 0}, "alpha"),
        ({"alpha": float("nan")}, "alpha"),
        ({"max_queues": 0}, "max_queues"),
        ({"prune": "wart"}, "nearest valid name: 'ward'"),
    ],
)
def test_bad_settings_are_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        PartitionSettings(**change)


@pytest.mark.parametrize(
    ("lengths", "weights", "message"),
    [
        ([1, 0], None, "lengths: 0 is no whole number"),
        ([1.5], None, "lengths: 1.5"),
        ([float("nan")], None, "lengths: nan"),
        ([1, 2], [1, -1], "weights: -1"),
        ([1, 2], [1, float("inf")], "weights: inf"),
        ([1, 2], [1], "shape"),
    ],
)
def test_bad_samples_are_refused(lengths, weights, message):
    with pytest.raises(ConfigError, match=message):
        refine_and_prune(lengths, weights)


def test_local_means_leave_the_gap_itself_out():
    missing = np.arange(60.0)
    means, count = local_means(missing)
    assert count[0] == 25 and means[0] == 1 + np.arange(1, 26).mean()
    around = np.r_[5:30, 31:56]
    assert count[30] == 50 and means[30] == 1 + around.mean()


def test_one_distinct_length_has_no_gap():
    assert significant_gaps(np.array([5.0]), np.array([9.0]), 1.5, 1.0, 0).shape == (0,)
