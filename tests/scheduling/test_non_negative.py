"""Non-negative least squares: optimality, guesses, columns that say the same, SciPy's answer."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import nnls

from ewsjf_env.scheduling.non_negative import non_negative_least_squares, non_negative_solution


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(1, 5))
def test_non_negative_solution_meets_the_optimality_conditions(seed, count):
    rng = np.random.default_rng(seed)
    columns = rng.normal(size=(count + 3, count))
    gram, moment = columns.T @ columns, rng.normal(size=count)
    theta = non_negative_solution(gram, moment)
    slope = gram @ theta - moment
    size = 1e-8 * (1 + np.abs(gram).max() * np.abs(theta).max())
    assert (theta >= 0).all()
    assert (slope >= -size).all()
    assert np.abs(slope[theta > 0]).max(initial=0.0) <= size


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), likely=st.lists(st.booleans(), min_size=4, max_size=4))
def test_a_guess_does_not_change_the_solution(seed, likely):
    rng = np.random.default_rng(seed)
    columns = rng.normal(size=(9, 4))
    gram, moment = columns.T @ columns, rng.normal(size=4)
    theta = non_negative_solution(gram, moment)
    assert np.array_equal(non_negative_solution(gram, moment, likely=np.array(likely)), theta)
    assert np.array_equal(non_negative_solution(gram, moment, likely=theta > 0), theta)


def test_least_squares_stay_at_zero_where_the_optimum_is_negative():
    columns = np.array([[1.0, 0.0], [1.0, 1.0], [1.0, 2.0]])
    assert non_negative_least_squares(columns, np.array([3.0, 2.0, 1.0])) == pytest.approx([2, 0])
    assert non_negative_least_squares(columns, np.array([1.0, 3.0, 5.0])) == pytest.approx([1, 2])
    assert non_negative_least_squares(columns, -np.ones(3)) == pytest.approx([0, 0])


@settings(max_examples=200, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(1, 5))
def test_least_squares_are_those_of_scipy(seed, count):
    rng = np.random.default_rng(seed)
    columns = rng.normal(size=(count + 10, count)) * 10.0 ** rng.uniform(-6, 6, count)
    target = rng.normal(size=count + 10)
    expected, residual = nnls(columns, target)
    found = non_negative_least_squares(columns, target)
    assert (found >= 0).all()
    assert np.linalg.norm(columns @ found - target) == pytest.approx(residual, rel=1e-9)
    assert found == pytest.approx(expected, rel=1e-6, abs=1e-9 * max(1e-9, expected.max()))


def test_columns_that_say_the_same_are_no_trouble():
    ones = np.ones(6)
    found = non_negative_least_squares(np.stack([ones, 3 * ones, 0 * ones], axis=1), 6 * ones)
    assert found[0] + 3 * found[1] == pytest.approx(6.0)
