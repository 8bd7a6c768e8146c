"""Named parameter values as points of the unit cube and as model inputs, and back.

A search space has d columns, one a parameter.  A *point* lies in [0, 1]^d.  Whole numbers,
steps and choices are cells of equal width; a point is *snapped* to the middle of its cell before
the model sees it, so that two points of one effect are one point.  Model *inputs* are the
snapped coordinates, except that a choice without an order becomes one column per choice.
A *minor* column refines what the others decide, see `ewsjf_env.parameters.Parameter`.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from scipy.stats import qmc

from ewsjf_env.parameters import Parameter, ParameterSpace

MANY_LEVELS = 64  # a column of more levels is searched as if it were continuous, then snapped
POINT_TOLERANCE = 1e-6  # edges of the cube: points so near are one, by way of a float32 action
Points = NDArray[np.float64]


def distributions(space: ParameterSpace) -> dict[str, BaseDistribution]:
    """The Optuna distribution of every parameter, in cube order."""
    return {p.name: _distribution(p) for p in space.parameters}


def sobol_points(dimensions: int, count: int, seed: int) -> Points:
    """The first `count` points, (count, d), of a scrambled Sobol sequence."""
    sobol = qmc.Sobol(dimensions, rng=np.random.default_rng(seed))
    return np.asarray(sobol.random_base2(max(1, count - 1).bit_length())[:count], dtype=float)


def box_around(center: Points, radius: float) -> Points:
    """Lowest and highest point, (2, d), of the cube within `radius` of a point (d,)."""
    return np.clip(np.stack([center - radius, center + radius]), 0.0, 1.0)


class Encoding:
    """One search space: names -> distributions, none empty.

    Attributes:
        names: column names, in order.
        dimensions: d, number of columns.
        inputs: number of model inputs.
        minor: of each input, whether it is of a minor column.
    """

    def __init__(
        self, search_space: Mapping[str, BaseDistribution], minor: Collection[str] = ()
    ) -> None:
        self.search_space = dict(search_space)
        self.names = tuple(self.search_space)
        self._columns = tuple(self.search_space.values())
        self.dimensions = len(self.names)
        self._widths = tuple(
            len(c.choices) if isinstance(c, CategoricalDistribution) and not _is_ordered(c) else 1
            for c in self._columns
        )
        self.inputs = sum(self._widths)
        self.minor = tuple(
            name in minor
            for name, width in zip(self.names, self._widths, strict=True)
            for _ in range(width)
        )
        self._major = [c for c, name in enumerate(self.names) if name not in minor]
        if not self._major:
            self._major = list(range(self.dimensions))

    def start_points(self, count: int, center: Points, radius: float, seed: int) -> Points:
        """Sobol points, (count, d), round a point: minor columns stay where they are.

        Args:
            count: >= 1.
            center: (d,) a snapped point.
            radius: how far from it, in every coordinate.
            seed: of the sequence.
        """
        low, high = box_around(center[self._major], radius)
        points = np.tile(center, (count, 1))
        points[:, self._major] = low + sobol_points(len(self._major), count, seed) * (high - low)
        return points

    def levels(self, column: int) -> NDArray[np.float64] | None:
        """Coordinates of all values of a column, (k,); None when searched as continuous."""
        count = _cells(self._columns[column])
        if count is None or count > MANY_LEVELS:
            return None
        return (np.arange(count) + 0.5) / count

    @property
    def continuous_inputs(self) -> list[tuple[int, int]]:
        """(column, input) of every column that is searched as continuous."""
        starts = np.cumsum((0, *self._widths[:-1]))
        return [(c, int(s)) for c, s in enumerate(starts) if self.levels(c) is None]

    def to_point(self, values: Mapping[str, Any]) -> NDArray[np.float64]:
        """The snapped point, (d,), of named values; values beyond a bound count as the bound.

        Raises:
            ValueError: a choice that is not one of the distribution's.
            KeyError: a missing name.
        """
        return np.array(
            [_to_unit(d, values[n]) for n, d in zip(self.names, self._columns, strict=True)]
        )

    def is_same(self, values: Mapping[str, Any], others: Mapping[str, Any]) -> bool:
        """Whether two points are one, but for what values lose on their way as an action."""
        apart = self.to_point(values) - self.to_point(others)
        return bool(np.abs(apart).max() < POINT_TOLERANCE)

    def to_values(self, point: Sequence[float] | NDArray[np.float64]) -> dict[str, Any]:
        """Named values, in Python types, of a point (d,)."""
        return {
            name: _from_unit(column, float(u))
            for name, column, u in zip(self.names, self._columns, point, strict=True)
        }

    def snap(self, points: Points) -> Points:
        """Points (n, d), each coordinate at the middle of its cell."""
        snapped = np.clip(points, 0.0, 1.0)
        for c, distribution in enumerate(self._columns):
            count = _cells(distribution)
            if count is not None:
                cells = np.minimum(np.floor(snapped[:, c] * count), count - 1)
                snapped[:, c] = (cells + 0.5) / count
            elif isinstance(distribution, IntDistribution):
                snapped[:, c] = [
                    _to_unit(distribution, _from_unit(distribution, u)) for u in snapped[:, c]
                ]
        return snapped

    def to_inputs(self, points: Points) -> NDArray[np.float64]:
        """Model inputs (n, inputs) of snapped points (n, d)."""
        blocks: list[NDArray[np.float64]] = []
        for c, width in enumerate(self._widths):
            if width == 1:
                blocks.append(points[:, c : c + 1])
            else:
                cells = np.minimum((points[:, c] * width).astype(int), width - 1)
                # Two different choices are then at distance 1, like the ends of a range.
                blocks.append(np.eye(width)[cells] / math.sqrt(2.0))
        return np.hstack(blocks)


def _distribution(parameter: Parameter) -> BaseDistribution:
    if parameter.scale == "choice":
        return CategoricalDistribution(parameter.choices)
    if parameter.scale == "integer":
        return IntDistribution(math.ceil(parameter.low), math.floor(parameter.high))
    return FloatDistribution(parameter.low, parameter.high, log=parameter.scale == "log")


def _is_ordered(distribution: CategoricalDistribution) -> bool:
    """True for ascending numbers, such as 4, 8, 16, 32: neighbours resemble each other."""
    choices = distribution.choices
    numbers = [c for c in choices if isinstance(c, (int, float)) and not isinstance(c, bool)]
    return len(numbers) == len(choices) and sorted(set(numbers)) == list(choices)


def _cells(distribution: BaseDistribution) -> int | None:
    """Number of cells of equal width; None for a continuous column or logarithmic integers."""
    if isinstance(distribution, CategoricalDistribution):
        return len(distribution.choices)
    if isinstance(distribution, (FloatDistribution, IntDistribution)):
        if distribution.log or distribution.step is None:
            return None if distribution.low < distribution.high else 1
        return round((distribution.high - distribution.low) / distribution.step) + 1
    raise TypeError(f"unknown distribution {distribution!r}")


def _log_bounds(distribution: FloatDistribution | IntDistribution) -> tuple[float, float]:
    # Half a unit on either side gives the outermost whole numbers their full share of the cube.
    edge = 0.5 if isinstance(distribution, IntDistribution) else 0.0
    return math.log(distribution.low - edge), math.log(distribution.high + edge)


def _from_unit(distribution: BaseDistribution, u: float) -> Any:
    u = min(1.0, max(0.0, u))
    count = _cells(distribution)
    cell = min(count - 1, int(u * count)) if count is not None else 0
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[cell]
    assert isinstance(distribution, (FloatDistribution, IntDistribution))
    low, high = distribution.low, distribution.high
    if count is not None:
        value = low + cell * (distribution.step or 0)
    elif distribution.log:
        log_low, log_high = _log_bounds(distribution)
        value = math.exp(log_low + u * (log_high - log_low))
    else:
        value = low + u * (high - low)
    if isinstance(distribution, IntDistribution):
        return min(int(high), max(int(low), round(value)))
    return min(float(high), max(float(low), float(value)))


def _to_unit(distribution: BaseDistribution, value: Any) -> float:
    count = _cells(distribution)
    if isinstance(distribution, CategoricalDistribution):
        return (int(distribution.to_internal_repr(value)) + 0.5) / len(distribution.choices)
    assert isinstance(distribution, (FloatDistribution, IntDistribution))
    number = min(float(distribution.high), max(float(distribution.low), float(value)))
    if count is not None:
        return (round((number - distribution.low) / (distribution.step or 1)) + 0.5) / count
    if distribution.log:
        log_low, log_high = _log_bounds(distribution)
        return (math.log(number) - log_low) / (log_high - log_low)
    return (number - distribution.low) / (distribution.high - distribution.low)
