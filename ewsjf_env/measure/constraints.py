"""Constraints of a window: metrics give a margin, <= 0 where the constraint holds.

A margin is a logarithm, ln(value / limit): 0.18 is 20 % over the limit whatever the unit, so
margins of different metrics compare, and a surrogate models them on one scale.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated

from ewsjf_env.config import Among, ConfigError, Positive, settings
from ewsjf_env.measure.objective import METRIC_NAMES, SMALLEST_S
from ewsjf_env.measure.records import WindowMetrics


@settings
class Constraint:
    """An upper limit of one metric."""

    metric: Annotated[str, Among("metric", lambda: METRIC_NAMES)]
    """A metric of `WindowMetrics` of which less is better."""
    limit: Positive
    """Largest allowed value; with `relative`, largest multiple of the reference's."""
    relative: bool = True
    """Compare with the reference policy's window on the same traffic."""
    floor: Positive = SMALLEST_S
    """A reference below this counts as this, in the unit of the metric: twice of nearly nothing
    harms nobody.
    """

    @property
    def name(self) -> str:
        """What it is called in `info` and logs."""
        return f"{self.metric}_vs_reference" if self.relative else self.metric

    def margin(self, metrics: WindowMetrics, reference: WindowMetrics | None) -> float:
        """ln(value / allowed value); 0, just feasible, when nothing was measured.

        Raises:
            ConfigError: the constraint is relative and there is no reference.
        """
        value, allowed = float(getattr(metrics, self.metric)), self.limit
        if self.relative:
            if reference is None:
                raise ConfigError(f"constraint {self.name!r} needs the window of a reference")
            base = float(getattr(reference, self.metric))
            allowed = math.nan if math.isnan(base) else self.limit * max(self.floor, base)
        if math.isnan(value) or math.isnan(allowed):
            return 0.0
        return math.log(max(value, SMALLEST_S) / allowed)


DEFAULT_CONSTRAINTS = (
    Constraint("ttft_short_p95_s", 1.2, floor=0.5),
    Constraint("slowdown_long_p95", 1.2, floor=2.0),
    Constraint("wait_max_s", 1.5, floor=10.0),
)
"""Short first tokens and long slowdowns at most 1.2 x, the longest wait 1.5 x the reference."""


def margins(
    constraints: Sequence[Constraint], metrics: WindowMetrics, reference: WindowMetrics | None
) -> dict[str, float]:
    """The margin of every constraint, by name."""
    return {c.name: c.margin(metrics, reference) for c in constraints}
