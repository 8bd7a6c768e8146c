"""A policy file from what an agent has learnt.

    static  one recommendation, whatever the traffic
    table   kinds of traffic seen in the run (k-means over the contexts of its windows), each
            with the agent's recommendation for its centre
    mlp     the network of an agent that acts by one, on the whole observation

An adaptive policy acts as often as the run's windows were apart, on as long a window, within
the values that the run has tried.  Until it has seen a window it serves as the run began.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol, get_args, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.vq import kmeans, vq

from agents.core.agent import Agent
from agents.core.outsider import own_agent
from agents.runs.view import RunView
from ewsjf_env.config import ConfigError
from ewsjf_env.parameters import Value
from ewsjf_env.policy.adaptive import Adaptive, bounds_of
from ewsjf_env.policy.policy import Policy
from ewsjf_env.policy.rules import Layer, Network, Rule, Table

Kind = Literal["auto", "static", "table", "mlp"]
KINDS: tuple[Kind, ...] = get_args(Kind)

MAX_KINDS = 6  # of traffic
ALIKE = 0.1  # root mean square distance from a centre, per feature: about 50 % in the rate
LEAST_WINDOWS = 3  # that a kind of traffic must have been seen in

_SQUASH_LAYER = {"identity": "none"}  # the actor's word for a layer without activation


@runtime_checkable
class NetworkAgent(Protocol):
    """An agent that acts by a network of the whole observation."""

    def actor_network(self) -> Any:
        """`layers` (each with `weight`, `bias` and `activation`) and `squash`."""
        ...


def build_policy(run: RunView, agent: Agent, kind: Kind = "auto") -> Policy:
    """What `agent`, as it was at the end of `run`, would serve; without provenance.

    Args:
        run: the run.
        agent: see `RunView.agent`.
        kind: see the module; `auto` takes the network where there is one, else a table where
            the agent sees a context, else one recommendation.

    Raises:
        ConfigError: the agent cannot give that kind, or its network is too large.
    """
    if kind not in KINDS:
        raise ConfigError(f"kind: {kind!r} is not one of {', '.join(KINDS)}")
    network_agent = own_agent(agent)
    has_network = isinstance(network_agent, NetworkAgent)
    if kind == "auto":
        kind = "mlp" if has_network else "table" if run.config.context else "static"
    start = run.task.start_policy()
    name = f"{run.config.agent} {run.name}"
    if kind == "mlp":
        if not isinstance(network_agent, NetworkAgent):
            raise ConfigError(f"kind: agent {run.config.agent!r} has no network, expected another")
        network = network_of(network_agent)
        return dataclasses.replace(start, name=name, adaptive=_adaptive(run, network))
    if kind == "table":
        if has_network or not run.config.context:
            raise ConfigError(f"kind: agent {run.config.agent!r} sees no context, expected another")
        table = table_of(agent, np.array([r.agent.context for r in run.measured], dtype=np.float64))
        if any(values != table.values[0] for values in table.values):
            return dataclasses.replace(start, name=name, adaptive=_adaptive(run, table))
        return start.with_parameters(table.values[0], name)
    return start.with_parameters(agent.recommend(), name)


def table_of(agent: Agent, contexts: NDArray[np.float64]) -> Table:
    """The agent's recommendation for each kind of traffic, the most usual first.

    Args:
        agent: with a context of n features.
        contexts: of the windows, (windows, n), at least one.
    """
    found = centres(contexts)
    return Table(
        centres=tuple(tuple(centre) for centre in found.tolist()),
        values=tuple(agent.recommend(tuple(centre)) for centre in found.tolist()),
    )


def centres(contexts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Kinds of traffic among `contexts` (windows, n): (k, n), those of most windows first.

    As many as it takes to have every window near one, at most 6; a kind that was hardly seen is
    left out, for nothing is known of what suits it.
    """
    for count in range(1, min(MAX_KINDS, len(contexts)) + 1):
        found = kmeans(contexts, count, iter=20, rng=np.random.default_rng(0))[0]
        nearest, distances = vq(contexts, found)
        if np.sqrt(np.mean(distances**2) / contexts.shape[1]) <= ALIKE:
            break
    windows = np.bincount(nearest, minlength=len(found))
    order = [i for i in np.argsort(-windows, kind="stable") if windows[i] >= LEAST_WINDOWS]
    kept = found[order] if order else contexts.mean(axis=0, keepdims=True)
    return np.asarray(np.clip(kept, -1.0, 1.0), dtype=np.float64)


def network_of(agent: NetworkAgent) -> Network:
    """The agent's network as plain numbers.

    Weights are float32: nine digits give each of them back exactly.
    """
    actor = agent.actor_network()
    layers = tuple(
        Layer(
            weights=tuple(_decimals(row) for row in layer.weight),
            bias=_decimals(layer.bias),
            activation=_SQUASH_LAYER.get(layer.activation, layer.activation),
        )
        for layer in actor.layers
    )
    return Network(layers, actor.squash)


def _decimals(row: NDArray[np.float32]) -> tuple[float, ...]:
    return tuple(float(str(number)) for number in np.asarray(row, dtype=np.float32))


def _adaptive(run: RunView, rule: Rule) -> Adaptive:
    task = run.task
    space = task.space()
    tried: list[Mapping[str, Value]] = [space.defaults]
    tried += [space.validate(r.served.values) for r in run.measured]
    recommended: Sequence[Mapping[str, Value]] = rule.values if isinstance(rule, Table) else ()
    return Adaptive(
        space=space,
        inputs=run.config.sees,
        rule=rule,
        fallback=space.defaults,
        bounds=bounds_of([*tried, *recommended], space),
        period_s=task.settle_s + task.window_s,
        window_s=task.window_s,
        metrics=task.metric_settings,
    )
