import numpy as np
import pytest

from agents.analysis.scores import iqm, probability_of_improvement, stratified
from agents.analysis.statistics import mean


def test_iqm_is_the_mean_of_the_middle_half() -> None:
    assert iqm([[-1000.0, 2.0], [3.0, 1000.0]]) == 2.5
    assert iqm([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 80.0]) == 4.5


def test_probability_of_improvement_known_answers() -> None:
    better, worse = [[2.0], [3.0]], [[0.0], [1.0], [1.5]]
    assert probability_of_improvement(better, worse) == 1.0
    assert probability_of_improvement(worse, better) == 0.0
    assert probability_of_improvement(better, better) == 0.5  # ties count half
    assert probability_of_improvement([[1.0], [3.0]], [[2.0], [2.0]]) == 0.5
    # Better in one workload, worse in the other: they count alike.
    assert probability_of_improvement([[9.0, 0.0]], [[1.0, 1.0]]) == 0.5


@pytest.mark.parametrize("shapes", [((2,), (2,)), ((2, 3), (2, 2))])
def test_probability_of_improvement_needs_tables_of_the_same_workloads(
    shapes: tuple[tuple[int, ...], tuple[int, ...]],
) -> None:
    with pytest.raises(ValueError, match="expected two tables"):
        probability_of_improvement(np.zeros(shapes[0]), np.zeros(shapes[1]))


def test_stratified_resamples_inside_workloads_only() -> None:
    # Without spread inside a workload nothing is uncertain, however far apart workloads are.
    apart = stratified(iqm, [[1.0, 100.0]] * 5, resamples=50)
    assert (apart.low, apart.value, apart.high) == (50.5, 50.5, 50.5)


def test_stratified_is_paired() -> None:
    scores = np.random.default_rng(0).normal(0.0, 10.0, (6, 3))

    def gap(ours: np.ndarray, theirs: np.ndarray) -> float:
        return float(ours.mean() - theirs.mean())

    sure = stratified(gap, scores + 1.0, scores, resamples=100)
    assert sure.low == pytest.approx(1.0)
    assert sure.high == pytest.approx(1.0)
    unsure = stratified(gap, scores + 1.0, scores[::-1], resamples=100)
    assert unsure.low < 0.0 < unsure.high
    assert unsure == stratified(gap, scores + 1.0, scores[::-1], resamples=100)


def test_stratified_of_one_workload_is_the_interval_of_its_mean() -> None:
    x = np.random.default_rng(4).normal(3.0, 1.0, 10)
    one, other = stratified(np.mean, x[:, np.newaxis], resamples=4000), mean(x)
    assert one.value == pytest.approx(other.value)
    width = other.high - other.low
    assert one.low == pytest.approx(other.low, abs=0.1 * width)
    assert one.high == pytest.approx(other.high, abs=0.1 * width)


@pytest.mark.parametrize("arms", [(), ([1.0, 2.0],), ([[1.0]], [[1.0], [2.0]]), ([[]],)])
def test_stratified_refuses_what_is_no_table(arms: tuple[list[object], ...]) -> None:
    with pytest.raises(ValueError, match="expected tables"):
        stratified(iqm, *arms)
