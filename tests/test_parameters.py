"""The parameter space: cube <-> values, hash, refusals."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ewsjf_env.config import ConfigError
from ewsjf_env.parameters import Parameter, ParameterSpace
from ewsjf_env.scheduling.orders.registry import ORDERS

SPACE = ParameterSpace(
    (
        Parameter("linear", 0.5, -1.0, 2.0),
        Parameter("log", 1.0, 0.01, 100.0, "log", unit="s"),
        Parameter("whole", 3, 1, 7, "integer"),
        Parameter("choice", 16, scale="choice", choices=(4, 8, 16, 32)),
        Parameter("word", "b", scale="choice", choices=("a", "b"), tunable=False),
    )
)


@given(st.lists(st.floats(0.0, 1.0), min_size=5, max_size=5))
def test_every_point_of_the_cube_is_legal_and_its_values_map_back(point: list[float]) -> None:
    values = SPACE.from_unit(point)
    assert SPACE.validate(values) == values
    again = SPACE.from_unit(SPACE.to_unit(values))
    for name, value in values.items():
        if isinstance(value, float):
            assert again[name] == pytest.approx(value, rel=1e-9, abs=1e-9)
        else:
            assert again[name] == value


@given(st.lists(st.floats(-1.0, 1.0, width=32), min_size=5, max_size=5))
def test_the_box_is_the_cube_stretched(action: list[float]) -> None:
    values = SPACE.from_box(np.array(action, dtype=np.float32))
    assert SPACE.from_box(SPACE.to_box(values))["choice"] == values["choice"]
    assert SPACE.to_box(values).dtype == np.float32
    assert np.abs(SPACE.to_box(values)).max() <= 1.0


def test_edges_reach_the_bounds() -> None:
    assert SPACE.from_unit([0, 0, 0, 0, 0]) == {
        "linear": -1.0,
        "log": pytest.approx(0.01),
        "whole": 1,
        "choice": 4,
        "word": "a",
    }
    high = SPACE.from_unit([1, 1, 1, 1, 1])
    assert (high["linear"], high["whole"], high["choice"], high["word"]) == (2.0, 7, 32, "b")
    assert high["log"] == pytest.approx(100.0) and float(high["log"]) <= 100.0


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"linaer": 1.0}, "unknown parameter 'linaer'; nearest valid name: 'linear'"),
        ({"linear": 2.5}, "2.5 is outside [-1, 2]"),
        ({"linear": math.nan}, "nan is outside"),
        ({"log": math.inf}, "inf is outside [0.01, 100] (log) s"),
        ({"log": 10**400}, "is outside [0.01, 100] (log) s"),
        ({"whole": 2.5}, "2.5 is not whole"),
        ({"whole": True}, "True is not a number"),
        ({"choice": 5}, "5 is not one of 4, 8, 16, 32"),
        ({"word": "c"}, "'c' is not one of a, b"),
        ({"linear": "1"}, "'1' is not a number"),
        ({"linear": None}, "None is not a number"),
    ],
)
def test_bad_values_are_refused_by_name(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        SPACE.validate(values, "here")
    assert message in str(caught.value)
    assert str(caught.value).startswith("here")


def test_the_hash_follows_the_content_not_the_default() -> None:
    changed = ParameterSpace((Parameter("linear", 0.5, -1.0, 2.1), *SPACE.parameters[1:]))
    assert changed.content_hash != SPACE.content_hash
    assert SPACE.with_defaults({"linear": 1.0}).content_hash == SPACE.content_hash
    hashes = {spec.space.content_hash for spec in ORDERS.values() if len(spec.space)}
    assert len(hashes) >= 8


def test_subsets_and_frozen_parameters() -> None:
    assert SPACE.subset(["whole", "linear"]).names == ("linear", "whole")
    assert SPACE.tunable(frozen=["log"]).names == ("linear", "whole", "choice")
    with pytest.raises(ConfigError, match="nearest valid name: 'whole'"):
        SPACE.subset(["whol"])


@pytest.mark.parametrize("point", [[0.1], [math.nan] * 5, [[0.1] * 5], "x", {}, None])
def test_a_point_of_the_wrong_shape_is_refused(point: object) -> None:
    with pytest.raises(ConfigError, match=r"^point: expected 5 finite numbers"):
        SPACE.from_unit(point)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"^action: expected 5 finite numbers"):
        SPACE.from_box(point)  # type: ignore[arg-type]


def test_every_order_has_legal_defaults_and_described_parameters() -> None:
    for spec in ORDERS.values():
        assert spec.space.validate({}) == spec.space.defaults
        for parameter in spec.space.parameters:
            assert parameter.description


def test_parameters_that_were_added_belong_to_a_later_generation() -> None:
    added = Parameter("added", 0.0, named=True, generation=2)
    space = ParameterSpace((*SPACE.parameters, added))
    assert list(space.generations()) == [space.content_hash, SPACE.content_hash]
    assert space.needed(space.defaults) == SPACE
    assert space.needed({**space.defaults, "added": 0.5}) is space
    assert SPACE.needed(SPACE.defaults) is SPACE
    assert list(SPACE.generations()) == [SPACE.content_hash]
    assert space.tunable().names == SPACE.tunable().names
    assert space.tunable(asked=["added"]).names == (*SPACE.tunable().names, "added")
    assert space.tunable(frozen=["added"], asked=["added"]).names == SPACE.tunable().names
