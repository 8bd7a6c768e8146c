"""What a tuner begins with: known points, then Sobol points near the incumbent."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from agents.bayes.agent import StudyAgent
from agents.bayes.config import StudyConfig
from tests.agents.toys import SMALL, bowl, cube_space, play

KNOWN = StudyConfig(search=SMALL, startup_points=3, start="known", confirm=1)
SOBOL = dataclasses.replace(KNOWN, start="sobol")


def opened(config: StudyConfig, known: Sequence[dict[str, Any]] = ()) -> list[dict[str, Any]]:
    agent = StudyAgent("bayes", cube_space(2), config, known=known)
    play(agent, bowl([0.2, 0.8]), 4)
    return [t.params for t in agent.study.trials]


def test_the_first_points_are_those_that_are_known() -> None:
    points = [cube_space(2).defaults, {"x0": 0.125, "x1": 0.75}]
    sobol = opened(SOBOL)
    assert opened(KNOWN, points) == [sobol[0], points[1], *sobol[2:]]  # no second look at the start
    assert opened(SOBOL, points) == sobol
    assert opened(KNOWN) == sobol
    many = [{"x0": x, "x1": x} for x in (0.125, 0.25, 0.625, 0.75)]
    assert opened(KNOWN, many)[1:] == many[:3]
