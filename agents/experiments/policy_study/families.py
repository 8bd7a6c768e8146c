"""Families of policies that the study compares: an order, what of it is tuned, and for whom.

A family is known by its label, most often the name of its order.  Another label is a second way
to tune an order: its values are `<label> tuned`, while its defaults are those of the order.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from dataclasses import field
from typing import Annotated

from agents.experiments.objectives import REFERENCE
from ewsjf_env.config import Among, ConfigError, Names, Range, nearest, settings
from ewsjf_env.policy.policy import parse_policy
from ewsjf_env.scheduling.orders.registry import ORDERS

MAIN = "ewsjf"
OURS = ("ewsjf", "ewsjf_normalised", "ewsjf_hrrn")
"""Orders of this project; all others, the authors' own code and the published score among them,
are rivals unless a family says otherwise."""
RIVAL, OUR, CONTROL = "rival", "ours", "control"
ROLES = (RIVAL, OUR, CONTROL)


@settings
class FamilyConfig:
    """An order and how it is tuned: by Sobol points, by a grid, or not at all."""

    order: str = ""
    """Order of the queue; empty: the label."""
    parameters: Names = ()
    """Parameters that move over Sobol points."""
    points: Annotated[int, Range(0, 4096)] = 0
    """Sobol points of their space, besides the defaults."""
    grid: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """Values by name of the parameter, of which all combinations are tried besides the defaults."""
    grids: tuple[Mapping[str, tuple[float, ...]], ...] = ()
    """More grids, besides `grid` or `points`: where other orders are points of this one, it should
    not have to find by chance what they are given.
    """
    partition: bool = False
    """Whether the points have the queues that Refine-and-Prune makes of training traffic, not
    those that ship.
    """
    per_load: bool = True
    """Whether the best at each training load is an arm of its own."""
    role: Annotated[str, Among("role", lambda: ("", *ROLES))] = ""
    """Part of the family in the comparison; empty: that of the order. A control is another order
    with something of ours: judged like all, but no rival.
    """
    frontier: bool = False
    """Whether points are set aside that a rival's point dominates on the training traffic (see
    `frontier`); where none is left, the defaults remain.
    """

    def __post_init__(self) -> None:
        if bool(self.parameters) != bool(self.points):
            raise ConfigError("parameters, points: give both, or neither")
        if self.grid and self.parameters:
            raise ConfigError("grid, parameters: give at most one of them")
        for grid in self.all_grids:
            for name, values in grid.items():
                if not values:
                    raise ConfigError(f"grid: {name}: the list is empty")
        if self.grids and not self.tuned:
            raise ConfigError("grids: needs a grid, or parameters and points")
        if self.partition and not self.tuned:
            raise ConfigError("partition: true needs a grid, or parameters and points")
        if self.frontier and not self.tuned:
            raise ConfigError("frontier: true needs a grid, or parameters and points")

    @property
    def tuned(self) -> bool:
        """False for an order that stays at its defaults."""
        return bool(self.parameters or self.grid)

    @property
    def all_grids(self) -> tuple[Mapping[str, tuple[float, ...]], ...]:
        """`grid`, where there is one, and `grids`."""
        return (*((self.grid,) if self.grid else ()), *self.grids)

    @property
    def size(self) -> int:
        """Number of points with the defaults, at most."""
        points = self.points
        points += sum(math.prod(len(v) for v in grid.values()) for grid in self.all_grids)
        # A family with queues of its own has the default values with both kinds of queues.
        return 1 + points + (self.partition and not self.grid)


def completed(families: Mapping[str, FamilyConfig]) -> dict[str, FamilyConfig]:
    """The families with their orders and roles, checked.

    Raises:
        ConfigError: naming the family, and what is wrong with it.
    """
    for label in (REFERENCE, MAIN):
        if label not in families:
            raise ConfigError(f"families: {label!r} is missing")
    found = {}
    for label, family in families.items():
        try:
            found[label] = _completed(label, family)
        except ConfigError as error:
            raise ConfigError(f"families: {label}: {error}") from None
    if not found[MAIN].tuned:
        raise ConfigError(f"families: {MAIN}: needs a grid, or parameters and points")
    for label, family in found.items():
        if family.role == CONTROL and family.order not in found:
            raise ConfigError(
                f"families: {label}: role: a control is told beside the family "
                f"{family.order!r}, which is missing"
            )
    return found


def _completed(label: str, family: FamilyConfig) -> FamilyConfig:
    if not re.fullmatch("[A-Za-z0-9_]+", label):
        raise ConfigError(f"the label {label!r} may hold letters, digits and _ only")
    order = family.order or label
    if order not in ORDERS:
        raise ConfigError(f"order: unknown {order!r}{nearest(order, ORDERS)}")
    if label != order and label in ORDERS:
        raise ConfigError(f"order: {order!r} under the name of another order")
    if label != order and not family.tuned:
        raise ConfigError(
            f"needs a grid, or parameters and points: the defaults are those of {order!r}"
        )
    space = parse_policy(order).space
    space.subset(family.parameters)
    for grid in family.all_grids:
        for name, values in grid.items():
            for value in values:
                space[name].check(value)
    if family.partition and not ORDERS[order].partitioned:
        raise ConfigError("partition: the order has no queues")
    role = family.role or (OUR if order in OURS else RIVAL)
    if family.frontier and role == RIVAL:
        raise ConfigError("frontier: true: a rival is not kept from what rivals do")
    if role == CONTROL and label == order:
        raise ConfigError("role: a control needs a label that is not the name of its order")
    for fixed, wanted in ((REFERENCE, RIVAL), (MAIN, OUR)):
        if label == fixed and role != wanted:
            raise ConfigError(f"role: {role!r} is not {wanted!r}, on which the study depends")
    return dataclasses.replace(family, order=order, role=role)
