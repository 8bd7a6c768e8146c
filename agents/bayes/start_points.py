"""The known points: policies that did well on other traffic, worth a look before anything is known.

`shipped` is the policy that is served by default, `half` and `quarter` are the same with that
share of the token budget for prompts.  Each costs a tuner one window, and its twin one replay; a
source that knows no point for a task gives none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ewsjf_env.config import ConfigError
from ewsjf_env.env.task import TuningConfig
from ewsjf_env.parameters import ParameterSpace, Value
from ewsjf_env.policy.policy import Policy, parse_policy

Points = list[dict[str, Value]]


def _policy(text: str) -> Callable[[TuningConfig], Points]:
    def points(task: TuningConfig) -> Points:
        known: Policy = parse_policy(text)
        if known.order != task.start_policy().order:
            return []
        return [{name: known.parameters[name] for name in task.space().names}]

    return points


SOURCES: Mapping[str, Callable[[TuningConfig], Points]] = {
    "shipped": _policy("ewsjf"),
    # Half of the budget did least harm on an H200, a quarter is what training chose for most of the
    # shared traffic (README).  To a task that does not tune the share both are one.
    "half": _policy("ewsjf(prefill_share=0.5;yield_share=0.9)"),
    "quarter": _policy("ewsjf(prefill_share=0.25;yield_share=0.9)"),
}


def known_points(task: TuningConfig) -> Points:
    """Legal points of the task's space, each once, its own start first."""
    space: ParameterSpace = task.space()
    points: Points = [space.defaults]
    for source in SOURCES.values():
        for point in source(task):
            try:
                values: dict[str, Any] = space.validate(point)
            except ConfigError:
                continue
            if values not in points:
                points.append(values)
    return points
