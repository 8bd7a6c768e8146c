"""Agents on a study, and the windows they are shown."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from agents.bayes.agent import StudyAgent
from agents.bayes.config import SamplerName, StudyConfig
from agents.bayes.trials import WINDOW
from agents.core.agent import Agent, Transition
from ewsjf_env.parameters import ParameterSpace
from tests.agents.toys import SMALL

CONFIG = StudyConfig(search=SMALL)
ARMS: tuple[SamplerName, ...] = ("contextual_gp", "tpe", "gp", "cmaes", "random")


def make(
    space: ParameterSpace, seed: int = 0, config: StudyConfig = CONFIG, **rest: Any
) -> StudyAgent:
    return StudyAgent("bayes", space, config, seed=seed, **rest)


def arm(sampler: SamplerName, **changes: Any) -> StudyConfig:
    if sampler == "cmaes":
        pytest.importorskip("cmaes")
    return dataclasses.replace(CONFIG, sampler=sampler, **changes)


def transition(agent: Agent, values: Mapping[str, Any], **changes: Any) -> Transition:
    return Transition(**({"window": agent.windows, "values": values, "reward": 0.0} | changes))


def shown_again(new: StudyAgent, log: Sequence[Transition]) -> StudyAgent:
    """A new agent that is shown what another one has seen, as a resumed run does."""
    for line in log:
        new.observe(line)
    return new


def params(agent: StudyAgent) -> list[dict[str, Any]]:
    return [t.params for t in agent.study.trials if WINDOW in t.user_attrs]
