"""What an agent has learnt becomes a policy: static, table and network, acting as the agent."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from agents.runs.config import RunConfig
from agents.runs.export import build_policy, centres, network_of
from agents.runs.view import RunView, open_view
from ewsjf_env.config import ConfigError
from ewsjf_env.measure.features import feature_names
from ewsjf_env.policy.policy import Policy
from ewsjf_env.policy.rules import Table
from tests.agents.run_folders import TASK, make_run

CONTEXT = ("arrival_rate_per_s",)


@pytest.fixture(scope="module")
def two_rates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of an agent that models the context, on traffic of two rates that want different
    values."""
    return make_run(
        tmp_path_factory.mktemp("runs") / "two_rates",
        "random_modelled",
        28,
        CONTEXT,
        {"drift": {"enabled": False}, "caution": 0.0, "startup_radius": 1.0},
        rates_per_s=[2.0, 20.0],
        fake={**TASK["fake"], "context_gain": 0.25},
    )


@pytest.fixture(scope="module")
def one_rate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "one_rate", "sobol", 16)


def test_without_a_context_it_is_the_recommendation(one_rate: Path) -> None:
    run = open_view(one_rate)
    agent = run.agent()
    policy = build_policy(run, agent)
    recommended = agent.recommend()
    assert policy.kind == "static"
    assert policy.parameters == {**run.task.start_policy().parameters, **recommended}
    assert policy.partition == run.task.start_policy().partition
    assert recommended != run.task.space().defaults


def test_a_table_acts_as_the_agent_does_in_each_kind_of_traffic(two_rates: Path) -> None:
    run = open_view(two_rates)
    agent = run.agent()
    policy = build_policy(run, agent)
    assert policy.kind == "table"
    assert policy.adaptive is not None
    rule = policy.adaptive.rule
    assert isinstance(rule, Table)
    assert 2 <= len(rule.centres) <= 3
    for centre in rule.centres:
        acted = policy.act(centre)
        assert {n: acted[n] for n in run.task.space().names} == agent.recommend(centre)
    asked = [agent.recommend(centre) for centre in rule.centres]
    for x in np.random.default_rng(3).uniform(-1, 1, (1000, 1)):
        nearest = int(np.argmin(np.abs(np.array(rule.centres)[:, 0] - x[0])))
        acted = policy.act(x)
        assert {n: acted[n] for n in run.task.space().names} == asked[nearest]
    # It begins, and falls back to, what the run began with.
    assert policy.parameters == run.task.start_policy().parameters
    assert policy.act(None) == run.task.start_policy().parameters
    assert policy.adaptive.period_s == 24.0
    assert policy.adaptive.window_s == 20.0
    assert policy.adaptive.inputs == CONTEXT


def test_a_table_whose_rows_agree_is_static(two_rates: Path) -> None:
    run = open_view(two_rates)

    class Settled:
        def recommend(self, context: Any = None) -> dict[str, Any]:
            return run.task.space().defaults

    policy = build_policy(run, Settled())  # type: ignore[arg-type]
    assert policy.kind == "static"
    assert policy.adaptive is None


def test_kinds_of_traffic() -> None:
    random = np.random.default_rng(0)
    calm = random.normal((-0.5, 0.0), 0.02, (30, 2))
    busy = random.normal((0.5, 0.5), 0.02, (10, 2))
    rare = np.array([[0.9, -0.9]])
    found = centres(np.concatenate([busy, rare, calm]))
    np.testing.assert_allclose(found, [calm.mean(axis=0), busy.mean(axis=0)])  # usual ones first
    np.testing.assert_array_equal(found, centres(np.concatenate([busy, rare, calm])))
    np.testing.assert_allclose(centres(calm), [calm.mean(axis=0)])
    np.testing.assert_allclose(centres(calm[:1]), calm[:1])
    assert len(centres(random.uniform(-1, 1, (200, 2)))) == 6


def layers_of(linear: list[Any], activation: str) -> tuple[Any, ...]:
    """SB3's linear layers as `actor_network` gives them."""
    return tuple(
        SimpleNamespace(
            weight=layer.weight.detach().numpy(),
            bias=layer.bias.detach().numpy(),
            activation="identity" if layer is linear[-1] else activation,
        )
        for layer in linear
    )


class Actor:
    """An agent that acts by the network of a model of SB3."""

    def __init__(self, kind: str, inputs: int, outputs: int) -> None:
        import gymnasium
        from gymnasium.spaces import Box
        from stable_baselines3 import PPO, SAC
        from torch import nn

        class Blank(gymnasium.Env[Any, Any]):
            observation_space = Box(-1.0, 1.0, (inputs,), np.float32)
            action_space = Box(-1.0, 1.0, (outputs,), np.float32)

        net = {"net_arch": [32, 16]}
        if kind == "sac":
            self.model: Any = SAC("MlpPolicy", Blank(), policy_kwargs=net, seed=1, buffer_size=10)
            actor = self.model.policy.actor
            parts = [*actor.latent_pi, actor.mu]
        else:
            self.model = PPO("MlpPolicy", Blank(), policy_kwargs=net, seed=1, device="cpu")
            parts = [*self.model.policy.mlp_extractor.policy_net, self.model.policy.action_net]
            self.model.policy.action_net.weight.data *= 200.0  # so that some actions are clipped
        self.linear = [part for part in parts if isinstance(part, nn.Linear)]
        self.kind = kind

    def actor_network(self) -> Any:
        activation, squash = ("relu", "tanh") if self.kind == "sac" else ("tanh", "clip")
        return SimpleNamespace(layers=layers_of(self.linear, activation), squash=squash)

    def recommend(self, context: Any = None) -> dict[str, Any]:
        raise AssertionError("a network is asked for its weights")


def observing(run: RunView, monkeypatch: pytest.MonkeyPatch) -> RunView:
    """The run, as if its agent saw the whole observation."""
    names = feature_names(run.task.space())
    monkeypatch.setattr(RunConfig, "sees", property(lambda _: names))
    return run


@pytest.mark.parametrize("kind", ["sac", "ppo"])
def test_a_network_acts_as_the_model_predicts(
    one_rate: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    run = observing(open_view(one_rate), monkeypatch)
    space = run.task.space()
    names = feature_names(space)
    agent: Any = Actor(kind, len(names), len(space))
    build_policy(run, agent).save(tmp_path / "policy.json")
    policy = Policy.load(tmp_path / "policy.json")
    part = policy.adaptive
    assert part is not None
    assert policy.kind == "mlp"
    assert part.inputs == names
    observations = np.random.default_rng(2).uniform(-1, 1, (1000, len(names))).astype(np.float32)
    predicted, _ = agent.model.predict(observations, deterministic=True)
    clipped = 0
    for x, action in zip(observations, predicted, strict=True):
        np.testing.assert_allclose(
            part.rule.action(x.astype(float)),  # type: ignore[union-attr]
            action,
            atol=2e-6,
        )
        values, expected = policy.act(x), space.from_box(action)
        for name in space.names:
            low, high = (float(v) for v in part.bounds[name])  # two numbers: both are linear
            inside = min(max(float(expected[name]), low), high)
            assert values[name] == pytest.approx(inside, abs=4e-6)
            clipped += inside != expected[name]
    assert clipped > 0 or kind == "sac"


def test_weights_keep_their_bits(one_rate: Path) -> None:
    random = np.random.default_rng(0)
    weight = random.normal(0, 1, (2, 50)).astype(np.float32)
    layer = SimpleNamespace(weight=weight, bias=weight[:, 0], activation="identity")
    actor: Any = SimpleNamespace(
        actor_network=lambda: SimpleNamespace(layers=(layer,), squash="clip")
    )
    kept = network_of(actor).layers[0].weights
    np.testing.assert_array_equal(np.array(kept, dtype=np.float32), weight)
    assert max(len(repr(number)) for row in kept for number in row) < 16


def test_what_an_agent_cannot_give_is_refused(
    one_rate: Path, two_rates: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = open_view(one_rate)
    agent = run.agent()
    with pytest.raises(ConfigError, match="'sobol' has no network"):
        build_policy(run, agent, "mlp")
    with pytest.raises(ConfigError, match="'sobol' sees no context"):
        build_policy(run, agent, "table")
    with pytest.raises(ConfigError, match="kind: 'tree' is not one of auto, static"):
        build_policy(run, agent, "tree")  # type: ignore[arg-type]
    assert build_policy(open_view(two_rates), open_view(two_rates).agent(), "static").kind == (
        "static"
    )
    wide = np.zeros((300, len(feature_names(run.task.space()))), dtype=np.float32)
    layer = SimpleNamespace(weight=wide, bias=wide[:, 0], activation="relu")
    actor: Any = SimpleNamespace(
        actor_network=lambda: SimpleNamespace(layers=(layer,), squash="tanh")
    )
    with pytest.raises(ConfigError, match="300 outputs, expected 1 to 256"):
        build_policy(observing(run, monkeypatch), actor)


def test_a_run_is_replayed(one_rate: Path) -> None:
    run = open_view(one_rate)
    half = dataclasses.replace(run, records=run.records[:5])
    assert half.agent().windows == 5
    assert run.agent().windows == 16
    assert run.agent().recommend() == run.agent().recommend()
    assert set(run.versions["git"] or {"commit", "dirty"}) == {"commit", "dirty"}
