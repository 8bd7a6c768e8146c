import numpy as np
import pytest
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from agents.core.encoding import Encoding, distributions, sobol_points
from tests.agents.toys import MIXED_SPACE

KINDS: list[BaseDistribution] = [
    FloatDistribution(-2.0, 3.0),
    FloatDistribution(1e-6, 10.0, log=True),
    FloatDistribution(-1.0, 1.0, step=0.2),
    IntDistribution(-3, 7),
    IntDistribution(2, 20, step=3),
    IntDistribution(1, 5000, log=True),
    CategoricalDistribution([4, 8, 16]),
    CategoricalDistribution(["a", None, 2, True]),
    FloatDistribution(5.0, 5.0),
]


@pytest.mark.parametrize("distribution", KINDS, ids=str)
def test_round_trip(distribution: BaseDistribution):
    encoding = Encoding({"p": distribution})
    for u in np.linspace(0.0, 1.0, 41):
        value = encoding.to_values([u])["p"]
        assert distribution._contains(distribution.to_internal_repr(value))
        point = encoding.to_point({"p": value})
        again = encoding.to_values(point)["p"]
        assert again == pytest.approx(value) if isinstance(value, float) else again == value
        assert encoding.snap(np.array([[u]]))[0] == pytest.approx(point)
        assert encoding.snap(point[np.newaxis])[0] == pytest.approx(point)


@pytest.mark.parametrize("distribution", KINDS, ids=str)
def test_ends_of_the_cube_are_the_bounds(distribution: BaseDistribution):
    if isinstance(distribution, (FloatDistribution, IntDistribution)):
        encoding = Encoding({"p": distribution})
        ends = [encoding.to_values([u])["p"] for u in (0.0, 1.0)]
        assert ends == pytest.approx([distribution.low, distribution.high])


def test_whole_numbers_share_the_cube_evenly():
    encoding = Encoding({"p": IntDistribution(1, 4)})
    values = [encoding.to_values([u])["p"] for u in np.linspace(0, 1, 4000)]
    assert np.bincount(values)[1:].tolist() == pytest.approx([1000] * 4, abs=2)


def test_values_beyond_a_bound_count_as_the_bound():
    encoding = Encoding({"p": FloatDistribution(1.0, 8.0, log=True)})
    assert encoding.to_point({"p": 1e9}).tolist() == [1.0]
    assert encoding.to_point({"p": -5.0}).tolist() == [0.0]


def test_inputs_of_ordered_and_unordered_choices():
    encoding = Encoding(
        {
            "size": CategoricalDistribution([4, 8, 16]),
            "mode": CategoricalDistribution(["a", "b", "c"]),
            "x": FloatDistribution(0.0, 1.0),
        }
    )
    assert (encoding.dimensions, encoding.inputs) == (3, 5)
    a, b, c = (
        encoding.to_inputs(encoding.to_point({"size": 4, "mode": mode, "x": 0.3})[np.newaxis])[0]
        for mode in "abc"
    )
    assert np.linalg.norm(a - b) == pytest.approx(1.0)
    assert np.linalg.norm(a - c) == pytest.approx(1.0)
    assert a[0] == pytest.approx(1 / 6)
    assert encoding.continuous_inputs == [(2, 4)]
    assert encoding.levels(0) == pytest.approx([1 / 6, 1 / 2, 5 / 6])
    assert encoding.levels(2) is None


def test_spaces_become_distributions():
    found = distributions(MIXED_SPACE)
    assert found == {
        "rate": FloatDistribution(0.1, 10.0, log=True),
        "share": FloatDistribution(0.0, 1.0),
        "queues": CategoricalDistribution((4, 8, 16, 32)),
        "depth": IntDistribution(1, 6),
        "mode": CategoricalDistribution(("a", "b")),
    }


def test_sobol_points_extend():
    assert sobol_points(3, 5, 1).tolist() == sobol_points(3, 40, 1)[:5].tolist()
    assert sobol_points(3, 5, 1).tolist() != sobol_points(3, 5, 2).tolist()
    assert sobol_points(2, 1, 0).shape == (1, 2)


def test_start_points_move_only_what_decides():
    columns = {name: FloatDistribution(0.0, 1.0) for name in "abc"}
    encoding = Encoding(columns, minor={"b"})
    center = np.array([0.1, 0.7, 0.5])
    points = encoding.start_points(8, center, 0.3, seed=4)
    assert (points[:, 1] == 0.7).all()
    assert points[:, 0].min() >= 0.0 and points[:, 0].max() <= 0.4
    assert points[:, 2].min() >= 0.2 and points[:, 2].max() <= 0.8
    assert len(np.unique(points, axis=0)) == 8


def test_a_space_of_minor_columns_only_is_searched_in_all_of_them():
    encoding = Encoding({"a": FloatDistribution(0.0, 1.0)}, minor={"a"})
    assert len(np.unique(encoding.start_points(4, np.array([0.5]), 0.5, seed=0))) == 4


def test_every_input_of_a_minor_choice_is_minor():
    choice, number = CategoricalDistribution(["x", "y", "z"]), FloatDistribution(0.0, 1.0)
    assert Encoding({"c": choice, "n": number}, minor={"c"}).minor == (True, True, True, False)
