import dataclasses
import json
import math
import random
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
import torch

from agents.core.agent import Transition
from agents.core.registry import AgentSetting, agent_config, make_agent
from agents.rl.agent import SB3Agent
from ewsjf_env.config import ConfigError, from_dict, to_dict
from ewsjf_env.env.guard import make_env
from ewsjf_env.parameters import ParameterSpace
from tests.agents.toys import MIXED_SPACE, bowl, cube_space

SPACE = cube_space(2)
VIEW_SIZE = 3
TRACE_WINDOWS = 5
TRUTH = bowl([0.2, 0.8])
NAMES = ("sac", "ppo", "td3", "tqc")
# As the defaults, but learning starts within the few windows of a test.
QUICK: dict[str, dict[str, Any]] = {
    "sac": {"learning_starts": 4, "batch_size": 8, "gradient_steps": 1, "net_arch": [8]},
    "td3": {"learning_starts": 4, "batch_size": 8, "gradient_steps": 1, "net_arch": [8]},
    "tqc": {"learning_starts": 4, "batch_size": 8, "gradient_steps": 1, "net_arch": [8]},
    "ppo": {"n_steps": 8, "batch_size": 4, "n_epochs": 2, "net_arch": [8]},
}
ODD = {"void": {3, 9, 10, 14}, "failed": {7}}  # window 9 ends its trace, and so does 14


def agent_of(name: str, seed: int = 0, space: ParameterSpace = SPACE, **more: Any) -> SB3Agent:
    config = agent_config(name, QUICK[name] | more)
    agent = make_agent(name, AgentSetting(space, VIEW_SIZE, seed), config)
    assert isinstance(agent, SB3Agent)
    return agent


def view_of(*key: int) -> tuple[float, ...]:
    return tuple(np.random.default_rng(key).uniform(-1.0, 1.0, VIEW_SIZE).tolist())


def before(window: int) -> tuple[float, ...]:
    return view_of(window, 0)


def play(
    agent: SB3Agent,
    windows: int,
    void: Iterable[int] = (),
    failed: Iterable[int] = (),
    reward: float | None = None,
) -> list[Transition]:
    """Run windows from the agent's next number on, in a world that depends on numbers only."""
    found = []
    for window in range(agent.windows, agent.windows + windows):
        ended = window % TRACE_WINDOWS == TRACE_WINDOWS - 1 or window in failed
        values = agent.act(before(window))
        transition = Transition(
            window,
            values,
            TRUTH(values, 0.0) if reward is None else reward,
            context=view_of(window, 1) if ended else before(window + 1),
            before=before(window),
            void=window in void,
            failure="hung" if window in failed else None,
            ended=ended and window not in failed,
        )
        agent.observe(transition)
        found.append(transition)
    return found


def proposals(transitions: list[Transition]) -> list[dict[str, Any]]:
    return [dict(t.values) for t in transitions]


def replay_rows(agent: SB3Agent) -> dict[str, np.ndarray]:
    buffer: Any = agent.model.replay_buffer
    names = ("observations", "next_observations", "rewards", "dones", "timeouts")
    return {name: getattr(buffer, name)[: buffer.size(), 0] for name in names}


@pytest.mark.parametrize("name", NAMES)
def test_first_the_defaults_then_legal_proposals_of_the_seed(name: str):
    agents = [agent_of(name, seed) for seed in (1, 1, 2)]
    one, two, other = (proposals(play(agent, 24, **ODD)) for agent in agents)
    assert one[0] == SPACE.defaults
    assert one == two
    assert one != other
    assert len({tuple(values.values()) for values in one}) > 15
    assert all(SPACE.validate(values) == values for values in one)


@pytest.mark.parametrize("name", NAMES)
def test_nobody_elses_draws_or_threads_matter(name: str):
    expected = proposals(play(agent_of(name), 20))
    agent, beside = agent_of(name), agent_of(name, 5)
    found = []
    threads = torch.get_num_threads()
    try:
        for window in range(20):
            np.random.seed(window)  # noqa: NPY002
            random.seed(window)
            torch.manual_seed(window)
            torch.set_num_threads(1 + window % 2)
            state = np.random.get_state()[1].tolist()  # type: ignore[index]  # noqa: NPY002
            drawn = random.getstate(), torch.get_rng_state().tolist(), torch.get_num_threads()
            found += proposals(play(agent, 1))
            play(beside, 1)
            assert state == np.random.get_state()[1].tolist()  # type: ignore[index]  # noqa: NPY002
            after = random.getstate(), torch.get_rng_state().tolist(), torch.get_num_threads()
            assert drawn == after
    finally:
        torch.set_num_threads(threads)
    assert found == expected


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("killed", [1, 4, 10, 17])
def test_resuming_by_replay_equals_going_on(name: str, killed: int):
    whole = play(agent_of(name), 24, **ODD)
    lines = [json.dumps(to_dict(t)) for t in whole[:killed]]
    resumed = agent_of(name)
    for line in lines + lines[-2:]:  # a window twice is learnt once
        resumed.observe(from_dict(Transition, json.loads(line), "line"))
    assert resumed.windows == killed
    play_on = play(resumed, 24 - killed, **ODD)
    assert proposals(play_on) == proposals(whole[killed:])


def test_a_kill_after_the_proposal_proposes_it_again():
    agent = agent_of("sac")
    log = play(agent, 12)
    values = agent.act(before(12))
    assert agent.act(before(12)) == values
    resumed = agent_of("sac")
    for transition in log:
        resumed.observe(transition)
    assert resumed.act(before(12)) == values


def test_what_was_executed_instead_is_credited_to_the_proposal():
    log = play(agent_of("sac"), 12)
    guarded, plain = agent_of("sac"), agent_of("sac")
    for t in log:
        plain.observe(t)
        guarded.observe(dataclasses.replace(t, values=SPACE.defaults))
    assert guarded.act(before(12)) == plain.act(before(12))


def test_the_replay_buffer_holds_what_counts():
    agent = agent_of("sac")
    play(agent, 16, **ODD)
    agent.act(before(16))  # the last window's trace ended: SB3 stores it with the next view
    rows = replay_rows(agent)
    counted = [w for w in range(1, 16) if w not in ODD["void"]]
    assert agent.model.num_timesteps == len(counted)
    expected = np.array([before(w) for w in counted], dtype=np.float32)
    np.testing.assert_array_equal(rows["observations"], expected)
    # What follows a trace's last window is its own last view, not the first of the next trace.
    ends = {4, 7}
    after = [view_of(w, 1) if w in ends else before(w + 1) for w in counted]
    np.testing.assert_array_equal(rows["next_observations"], np.array(after, dtype=np.float32))
    # An end of the traffic has a value after it, a failure has none.
    np.testing.assert_array_equal(rows["dones"], [w in ends for w in counted])
    np.testing.assert_array_equal(rows["timeouts"], [w == 4 for w in counted])


def test_a_failed_window_has_the_reward_given_or_does_not_count():
    agent = agent_of("sac")
    play(agent, 1)
    play(agent, 1, failed={1}, reward=-5.0)
    play(agent, 1, failed={2}, reward=math.nan)
    agent.act(before(3))
    assert replay_rows(agent)["rewards"].tolist() == [-5.0]


def test_a_failed_window_without_a_view_ends_where_it_began():
    agent = agent_of("sac")
    play(agent, 1)
    values = agent.act(before(1))
    agent.observe(Transition(1, values, -5.0, before=before(1), failure="engine gone"))
    agent.act(before(2))
    rows = replay_rows(agent)
    np.testing.assert_array_equal(rows["next_observations"], rows["observations"])
    assert rows["dones"].tolist() == [1.0]


def test_void_windows_at_the_defaults_are_repeated():
    agent = agent_of("sac")
    log = play(agent, 4, void={0, 1})
    assert proposals(log)[:3] == [SPACE.defaults] * 3
    assert proposals(log)[3] != SPACE.defaults
    assert agent.windows == 4


def test_nothing_but_void_windows_teaches_nothing():
    for name in NAMES:
        agent = agent_of(name)
        start = agent.recommend(before(0))
        play(agent, 20, void=range(1, 20))
        assert agent.recommend(before(0)) == start
        play(agent, 12)
        assert agent.recommend(before(0)) != start


def test_another_trace_without_a_word_is_not_bridged():
    agent = agent_of("sac")
    play(agent, 3)
    values = agent.act(view_of(3, 7))  # not what followed window 2
    agent.observe(Transition(3, values, 1.0, context=view_of(4, 7), before=view_of(3, 7)))
    rows = replay_rows(agent)
    np.testing.assert_array_equal(rows["observations"][-1], np.float32(view_of(3, 7)))
    np.testing.assert_array_equal(rows["next_observations"][-2], np.float32(before(3)))
    assert rows["dones"].tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("name", NAMES)
def test_recommends_what_the_policy_does_without_noise(name: str):
    agent, beside = agent_of(name), agent_of(name)
    defaults = SPACE.to_box(SPACE.defaults)
    for window in range(5):
        start = SPACE.to_box(agent.recommend(before(window)))
        np.testing.assert_allclose(start, defaults, atol=0.05)
    play(agent, 18)
    found = agent.recommend(before(18))
    assert found == agent.recommend()  # for what was seen last
    action = agent.model.predict(np.float32(before(18)), deterministic=True)[0]
    assert found == SPACE.from_box(action)
    assert play(agent, 4) == play(beside, 22)[18:]  # asking changes nothing


@pytest.mark.parametrize("name", NAMES)
def test_actor_network_acts_as_the_policy(name: str):
    agent = agent_of(name, space=MIXED_SPACE, net_arch=[16, 8])
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():  # far from the start, where all views are answered alike
        for parameter in agent.model.policy.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    network = agent.actor_network()
    assert (network.view_size, network.action_size) == (VIEW_SIZE, len(MIXED_SPACE))
    assert [len(layer.bias) for layer in network.layers] == [16, 8, len(MIXED_SPACE)]
    views = np.random.default_rng(0).uniform(-1.0, 1.0, (1000, VIEW_SIZE)).astype(np.float32)
    expected = agent.model.predict(views, deterministic=True)[0]
    found = np.array([network(view) for view in views])
    np.testing.assert_allclose(found, expected, rtol=0.0, atol=1e-5)
    assert np.ptp(expected, axis=0).max() > 0.5
    values = agent.recommend(views[0].tolist())
    assert MIXED_SPACE.to_unit(values) == pytest.approx(
        MIXED_SPACE.to_unit(MIXED_SPACE.from_box(network(views[0]))), abs=1e-5
    )
    with torch.no_grad():
        for parameter in agent.model.policy.parameters():
            parameter.zero_()
    np.testing.assert_array_equal([network(view) for view in views], found)  # a copy


@pytest.mark.parametrize(
    ("name", "tags"),
    [
        ("sac", {"train/actor_loss", "train/critic_loss", "train/ent_coef"}),
        ("tqc", {"train/actor_loss", "train/critic_loss", "train/ent_coef"}),
        ("td3", {"train/actor_loss", "train/critic_loss"}),
        ("ppo", {"train/approx_kl", "train/clip_fraction", "train/value_loss", "train/std"}),
    ],
)
def test_diagnostics_are_the_algorithms(name: str, tags: set[str]):
    agent = agent_of(name)
    assert agent.diagnostics() == {}
    play(agent, 20)
    found = agent.diagnostics()
    assert tags <= set(found)
    assert all(tag.startswith("train/") and math.isfinite(v) for tag, v in found.items())


def test_sac_beats_its_own_start_on_the_fake_engine():
    """At its defaults, in the three parameters that matter there."""
    fake = {"noise_sigma": 0.1, "noise_s": 60.0}
    tuned = ["lambda", "mu", "k"]
    env = make_env({"engine": "fake", "fake": fake, "tuned": tuned, "rates_per_s": [2.0]})
    space = env.unwrapped.parameter_space  # type: ignore[attr-defined]
    size = len(env.unwrapped.feature_names)  # type: ignore[attr-defined]
    agent = make_agent("sac", AgentSetting(space, size, seed=0), agent_config("sac", {}))
    rewards: list[float] = []
    view: tuple[float, ...] = ()
    for window in range(120):
        if not view:
            view = tuple(env.reset(seed=None if window else 0)[0].tolist())
        values = agent.act(view)
        observation, reward, _, ended, _ = env.step(space.to_box(values))
        after = tuple(observation.tolist())
        rewards.append(float(reward))
        agent.observe(
            Transition(window, values, float(reward), context=after, before=view, ended=ended)
        )
        view = () if ended else after
    env.close()
    assert np.mean(rewards[-30:]) > np.mean(rewards[:30]) + 0.3
    assert np.mean(rewards[-30:]) > 0.3  # 0 is the reference: the defaults


def test_what_cannot_be_seen_or_tuned_is_refused():
    with pytest.raises(ConfigError, match="an observation of at least one number"):
        make_agent("sac", AgentSetting(SPACE))
    with pytest.raises(ConfigError, match="no parameter"):
        make_agent("ppo", AgentSetting(ParameterSpace(()), 3))
    agent = agent_of("sac")
    with pytest.raises(ConfigError, match="an observation of 2 numbers, expected 3"):
        agent.act((0.0, 0.0))
    with pytest.raises(ConfigError, match="not finite"):
        agent.act((0.0, 0.0, math.nan))
    with pytest.raises(ConfigError, match="an observation of 0 numbers"):
        agent.observe(Transition(0, SPACE.defaults, 0.0))
    assert agent.windows == 0
