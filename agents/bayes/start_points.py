"""Which policies are worth a look before anything is known?

Points that were found on other traffic cost a tuner one window each, and its twin one replay; a
source that knows none for a task gives none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from agents.bayes.config import Start
from agents.theory.start import start_values
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
    found: Points = [space.defaults]
    for source in SOURCES.values():
        for point in source(task):
            try:
                values: dict[str, Any] = space.validate(point)
            except ConfigError:
                continue
            if values not in found:
                found.append(values)
    return found


def theory_points(task: TuningConfig) -> Points:
    """What queueing theory would try first, which takes it seconds; none where it has no say."""
    if task.engine != "simulated":
        return []
    try:
        found = start_values(task)
    except ConfigError:
        return []
    return [] if found is None else [found]


def first_points(task: TuningConfig, start: Start) -> Points:
    """What an agent begins with, by its setting `start`.

    Raises:
        ConfigError: theory has no say on the task, and was asked.
    """
    if start == "known":
        return known_points(task)[1:]
    if start == "analytic":
        found = start_values(task)
        return [] if found is None else [found]
    return []
