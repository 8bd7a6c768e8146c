"""Toy problems with a known optimum, for the agents' tests: noisy, with contexts and cliffs."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from agents.bayes.config import SearchConfig
from agents.core.agent import CANDIDATE, Agent, Transition
from ewsjf_env.parameters import Parameter, ParameterSpace

SMALL = SearchConfig(candidates=128, refinements=1)

Truth = Callable[[Mapping[str, Any], float], float]


def cube_space(dimensions: int) -> ParameterSpace:
    return ParameterSpace(tuple(Parameter(f"x{i}", 0.5) for i in range(dimensions)))


MIXED_SPACE = ParameterSpace(
    (
        Parameter("rate", 1.0, 0.1, 10.0, "log"),
        Parameter("share", 0.5),
        Parameter("queues", 16, scale="choice", choices=(4, 8, 16, 32)),
        Parameter("depth", 3, 1, 6, "integer"),
        Parameter("mode", "a", scale="choice", choices=("a", "b")),
    )
)


def bowl(optimum: Sequence[float]) -> Truth:
    """-12 |x - optimum|^2: 0 at best, about -3 in a corner."""

    def truth(values: Mapping[str, Any], context: float) -> float:
        point = np.array([values[f"x{i}"] for i in range(len(optimum))])
        return -12.0 * float(np.sum((point - np.array(optimum)) ** 2))

    return truth


def play(
    agent: Agent,
    truth: Truth,
    windows: int,
    *,
    noise: float = 0.2,
    seed: int = 0,
    contexts: Callable[[int], tuple[float, ...]] = lambda window: (),
    margin: Callable[[Mapping[str, Any]], float] | None = None,
    log: list[Transition] | None = None,
) -> list[float]:
    """Run windows from the agent's own next number on; the true rewards of what was tried.

    What the agent is shown is added to `log`, as a run writes it.  Noise and context of a window
    depend on its number only, not on what was played before.
    """
    rewards = []
    for window in range(agent.windows, agent.windows + windows):
        context = contexts(window)
        values = agent.act(context)
        true = truth(values, context[0] if context else float(window))
        error = noise * float(np.random.default_rng([seed, window]).standard_normal())
        margins = {} if margin is None else {"limit": margin(values)}
        role = getattr(agent, "role", CANDIDATE)
        line = Transition(
            window, values, true + error, noise, margins, context, proposed=values, role=role
        )
        agent.observe(line)
        if log is not None:
            log.append(line)
        rewards.append(true)
    return rewards
