import dataclasses
import importlib.util
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from agents.baselines import DrawnAgent, DrawnConfig
from agents.bayes.agent import StudyAgent
from agents.bayes.config import DriftConfig, SamplerName
from agents.bayes.journal import JOURNAL
from agents.bayes.trials import CHANGE, ROLE
from agents.core.agent import Agent, Transition
from ewsjf_env.config import ConfigError
from ewsjf_env.env.task import load_tuning
from ewsjf_env.parameters import Parameter, ParameterSpace
from tests.agents.bayes.study_agents import (
    ARMS,
    CONFIG,
    arm,
    make,
    params,
    shown_again,
    transition,
)
from tests.agents.toys import MIXED_SPACE, SMALL, bowl, cube_space, play


def test_is_an_agent():
    assert isinstance(make(cube_space(2)), Agent)


def test_starts_with_the_incumbent_and_sobol_then_measures_it_again_and_again():
    config = dataclasses.replace(CONFIG, startup_points=3, control_every=3, confirm=1)
    agent = make(cube_space(2), config=config)
    play(agent, bowl([0.2, 0.8]), 10)
    trials = agent.study.trials
    assert [t.user_attrs[ROLE] for t in trials] == (
        ["start"] + ["opening"] * 3 + ["candidate", "candidate", "control"] * 2
    )
    assert trials[0].params == {"x0": 0.5, "x1": 0.5}
    assert len({tuple(t.params.values()) for t in trials[:6]}) == 6
    for control in (trials[6], trials[9]):
        assert control.params in [t.params for t in trials[: control.number]]


def test_what_looks_better_is_tried_again_before_it_is_recommended():
    config = dataclasses.replace(CONFIG, startup_points=3)
    log: list[Transition] = []
    agent = make(cube_space(2), config=config)
    for window in range(30):
        before = agent.recommend()
        values = agent.act()
        # As an action the values come back rounded, and luck is large.
        rounded = {name: float(np.float32(value)) for name, value in values.items()}
        luck = 3.0 * math.sin(17.0 * window)
        reward = bowl([0.2, 0.8])(values, 0) + luck
        told = {"reward": reward, "proposed": values, "role": agent.role}
        log.append(transition(agent, rounded, **told))
        agent.observe(log[-1])
        role = agent.study.trials[-1].user_attrs[ROLE]
        seen = [t.params for t in agent.study.trials]
        assert (role == "confirm") == (seen.count(values) == 2 and values != before)
        assert agent.recommend() == {"x0": 0.5, "x1": 0.5} or seen.count(agent.recommend()) >= 2
    assert [t.user_attrs[ROLE] for t in agent.study.trials].count("confirm") >= 3
    again = shown_again(make(cube_space(2), config=config), log)
    assert params(again) == params(agent)
    assert again.act() == agent.act()


def test_a_recommendation_is_what_was_tried_to_the_digit():
    space = load_tuning({"policy": "ewsjf", "tuned": ["k", "prefill_share"]}).space()
    quarter = {**space.defaults, "prefill_share": 0.25}
    config = dataclasses.replace(CONFIG, startup_points=1, confirm=1)
    agent = StudyAgent("bayes", space, config, known=[quarter])
    for _ in range(2):
        values = agent.act()
        agent.observe(transition(agent, values, reward=1.0 - values["prefill_share"]))
    assert agent.recommend() == quarter


def test_what_a_guard_does_not_let_run_is_not_asked_for_again():
    config = dataclasses.replace(CONFIG, startup_points=2)
    log: list[Transition] = []
    agent = make(cube_space(2), config=config)
    asked = []
    for _ in range(14):
        values = agent.act()
        refused = agent.role == "confirm"
        asked += [values] if refused else []
        executed = agent._space.defaults if refused else values
        told = {"reward": bowl([0.2, 0.8])(executed, 0), "proposed": values, "role": agent.role}
        log.append(transition(agent, executed, **told))
        agent.observe(log[-1])
    assert len(asked) == len({tuple(values.values()) for values in asked}) >= 1
    again = shown_again(make(cube_space(2), config=config), log)
    assert again.act() == agent.act()


def test_beats_random_search_in_forty_windows():
    truth = bowl([0.2, 0.75, 0.6])
    final, online = [], []
    for seed in range(3):
        bayes = make(cube_space(3), seed)
        random = DrawnAgent("random", cube_space(3), DrawnConfig(), seed)
        played = [np.mean(play(a, truth, 40, noise=0.3, seed=seed)) for a in (bayes, random)]
        online.append(played[0] - played[1])
        final.append([truth(agent.recommend(), 0) for agent in (bayes, random)])
    ours, theirs = np.mean(final, axis=0)
    assert ours > theirs + 0.1
    assert ours > -0.25
    assert min(online) > 1.0


def contextual_truth(values: Mapping[str, Any], context: float) -> float:
    best = 0.5 + 0.3 * context
    return -12.0 * float((values["x0"] - best) ** 2 + (values["x1"] - 0.4) ** 2)


def two_loads(window: int) -> tuple[float, ...]:
    return (1.0 if np.random.default_rng([7, window]).random() < 0.5 else -1.0,)


def test_context_helps():
    late = {}
    for size in (0, 1):
        agent = make(cube_space(2), context_size=size)
        rewards = []
        for window in range(36):
            context = two_loads(window)
            given = context[:size]
            values = agent.act(given)
            rewards.append(contextual_truth(values, context[0]))
            error = 0.2 * float(np.random.default_rng([5, window]).standard_normal())
            agent.observe(Transition(window, values, rewards[-1] + error, 0.2, context=given))
        late[size] = np.mean(rewards[18:])
    assert late[1] > late[0] + 0.3
    low, high = agent.recommend((-1.0,)), agent.recommend((1.0,))
    assert low["x0"] < 0.4
    assert high["x0"] > 0.6


def test_stays_off_a_cliff():
    truth = bowl([0.8, 0.5, 0.5])  # rises towards the cliff at x0 = 0.55
    agent, random = make(cube_space(3)), DrawnAgent("random", cube_space(3), DrawnConfig())
    over = []
    for tuner in (agent, random):
        tried: list[float] = []

        def margin(values: Mapping[str, Any], tried: list[float] = tried) -> float:
            tried.append(values["x0"])
            return float(values["x0"]) - 0.55

        play(tuner, truth, 30, margin=margin)
        over.append(sum(x > 0.55 for x in tried[7:]))
    assert over[0] <= 4 < over[1]
    assert agent.recommend()["x0"] <= 0.55
    assert truth(agent.recommend(), 0) > truth({"x0": 0.5, "x1": 0.5, "x2": 0.5}, 0)
    assert agent.study.best_trial.params["x0"] <= 0.55


@pytest.mark.parametrize("sampler", ARMS)
def test_kill_and_resume_equals_uninterrupted(sampler: SamplerName):
    config = arm(sampler, startup_points=4)
    noisy = bowl([0.3, 0.6])
    whole = make(cube_space(2), 3, config)
    play(whole, noisy, 20)
    log: list[Transition] = []
    first = make(cube_space(2), 3, config)
    play(first, noisy, 10, log=log)
    first.act()  # killed while window 10 runs
    second = shown_again(make(cube_space(2), 3, config), log)
    assert second.windows == 10
    play(second, noisy, 10, log=log)
    third = shown_again(make(cube_space(2), 3, config), log)
    assert params(third) == params(second) == params(whole)
    assert third.recommend() == second.recommend() == whole.recommend()
    assert third.act() == whole.act()
    assert [t.state for t in second.study.trials] == [TrialState.COMPLETE] * 20


def test_resume_equality_in_a_mixed_space_with_contexts_and_margins():
    def truth(values: Mapping[str, Any], context: float) -> float:
        return float(
            -abs(np.log(values["rate"])) + context * values["share"] + (values["mode"] == "b")
        )

    arguments: dict[str, Any] = {
        "contexts": two_loads,
        "margin": lambda values: 0.1 * values["queues"] - 2.0,
    }
    whole = make(MIXED_SPACE, context_size=1)
    play(whole, truth, 20, **arguments)
    log: list[Transition] = []
    for windows in (7, 6, 7):
        part = shown_again(make(MIXED_SPACE, context_size=1), log)
        play(part, truth, windows, log=log, **arguments)
    assert params(part) == params(whole)
    assert part.recommend((1.0,)) == whole.recommend((1.0,))
    assert part.recommend() == whole.recommend()
    assert whole.recommend((1.0,))["queues"] != 32
    for values in params(whole):
        assert MIXED_SPACE.validate(values) == values


def test_a_window_that_was_run_but_never_learnt_is_learnt_from_the_log():
    truth = bowl([0.3, 0.6])
    whole = make(cube_space(2))
    play(whole, truth, 14)
    log: list[Transition] = []
    killed = make(cube_space(2))
    play(killed, truth, 10, log=log)
    lost = killed.act()  # the window ran and was logged, the agent never heard of it
    error = 0.2 * float(np.random.default_rng([0, 10]).standard_normal())
    told = {"proposed": lost, "role": killed.role}
    log.append(Transition(10, lost, truth(lost, 0) + error, 0.2, **told))
    resumed = shown_again(make(cube_space(2)), [*log, log[-1]])
    assert resumed.windows == 11
    play(resumed, truth, 3)
    assert params(resumed) == params(whole)


def test_to_ask_again_changes_nothing():
    agent = make(cube_space(2))
    play(agent, bowl([0.3, 0.6]), 7)
    before = agent.study.trials
    assert agent.act() == agent.act()
    assert agent.study.trials == before
    assert agent.role == "candidate"


def test_the_journal_is_an_export_that_may_be_lost(tmp_path: Path):
    """It holds every window, void ones as failed, and is made anew by every process."""
    log: list[Transition] = []
    agent = make(cube_space(2), folder=tmp_path)
    play(agent, bowl([0.3, 0.6]), 4, log=log)
    values = agent.act()
    told = {"proposed": values, "role": agent.role, "void": True, "shifted": True}
    log.append(transition(agent, values, reward=float("nan"), **told))
    agent.observe(log[-1])
    exported = journal_of(tmp_path)
    assert [t.user_attrs["window"] for t in exported] == [0, 1, 2, 3, 4]
    assert [t.state for t in exported] == [*[TrialState.COMPLETE] * 4, TrialState.FAIL]
    assert exported[4].user_attrs["void"] and exported[4].user_attrs[CHANGE] == 4
    assert [t.params for t in exported[:4]] == params(agent)
    (tmp_path / JOURNAL).write_bytes(b"{half a li")
    again = shown_again(make(cube_space(2), folder=tmp_path), log)
    assert [t.user_attrs for t in journal_of(tmp_path)] == [t.user_attrs for t in exported]
    (tmp_path / JOURNAL).unlink()
    assert again.act() == agent.act()


def journal_of(folder: Path) -> list[optuna.trial.FrozenTrial]:
    """As optuna-dashboard reads it."""
    storage = JournalStorage(JournalFileBackend(str(folder / JOURNAL)))
    (name,) = optuna.get_all_study_names(storage)
    return optuna.load_study(study_name=name, storage=storage).trials


def test_void_windows_teach_nothing():
    still = dataclasses.replace(CONFIG, drift=DriftConfig(enabled=False))
    agents = make(cube_space(2), config=still), make(cube_space(2), config=still)
    for agent in agents:
        play(agent, bowl([0.3, 0.6]), 8)
    expected = agents[0].act()
    agents[1].observe(transition(agents[1], agents[1].act(), reward=float("nan"), void=True))
    assert agents[1].windows == 9
    assert agents[1].act() == expected
    assert agents[1].recommend() == agents[0].recommend()
    assert params(agents[1]) == params(agents[0])


def test_failed_windows_count_as_bad():
    everywhere = dataclasses.replace(SMALL, radius=1.0)
    agent = make(
        cube_space(1),
        config=dataclasses.replace(CONFIG, startup_radius=1.0, search=everywhere),
    )
    for _ in range(16):
        values = agent.act()
        # The true reward rises, but everything above 0.6 crashes.
        crashed = values["x0"] > 0.6
        agent.observe(
            transition(
                agent, values, reward=float(values["x0"]), failure="hung" if crashed else None
            )
        )
    assert agent.recommend()["x0"] <= 0.6
    late = agent.study.trials[10:]
    assert sum(t.params["x0"] > 0.6 for t in late) <= 2
    failed = [t for t in agent.study.trials if t.state == TrialState.FAIL]
    assert {t.user_attrs["failure"] for t in failed} == {"hung"}


def test_the_executed_point_is_credited():
    agent = make(cube_space(2), config=dataclasses.replace(CONFIG, confirm=1))
    play(agent, bowl([0.3, 0.6]), 7)
    proposed = agent.act()
    executed = {"x0": 0.31, "x1": 0.62}
    assert proposed != executed
    agent.observe(transition(agent, executed, reward=9.0))
    last = agent.study.trials[-1]
    assert (last.params, last.value) == (executed, 9.0)
    assert len(agent.study.trials) == 8 and proposed not in params(agent)
    assert agent.recommend() == executed


def test_recommends_by_posterior_mean_not_by_luck():
    agent = make(
        cube_space(1), config=dataclasses.replace(CONFIG, drift=DriftConfig(enabled=False))
    )
    random = np.random.default_rng(0)
    for window in range(24):
        x = [0.2, 0.25, 0.3, 0.8][window % 4]
        lucky = 3.0 if window == 3 else 0.0  # one lucky window in a bad place
        reward = (1.0 if x < 0.5 else 0.0) + lucky + 0.3 * random.standard_normal()
        agent.observe(Transition(window, {"x0": x}, reward, 1.5 if lucky else 0.3))
    assert agent.study.best_trial.params["x0"] == 0.8
    assert agent.recommend()["x0"] < 0.5


def test_recommends_the_default_before_anything_is_known():
    assert make(cube_space(2)).recommend() == {"x0": 0.5, "x1": 0.5}


@pytest.mark.parametrize("sampler", ARMS)
def test_every_arm_runs_in_a_mixed_space(sampler: SamplerName):
    agent = make(MIXED_SPACE, config=arm(sampler, startup_points=2))
    play(agent, lambda values, _: float(values["share"]), 8)
    assert MIXED_SPACE.validate(agent.recommend()) == agent.recommend()
    assert [t.state for t in agent.study.trials] == [TrialState.COMPLETE] * 8


def test_cmaes_needs_its_package(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="needs the package cmaes"):
        make(cube_space(2), config=dataclasses.replace(CONFIG, sampler="cmaes"))


def test_diagnostics_are_numbers():
    agent = make(cube_space(2))
    play(agent, bowl([0.3, 0.6]), 8)
    agent.act()
    found = agent.diagnostics()
    assert set(found) == {"bo/changes", "bo/posterior_mean", "bo/posterior_std", "bo/feasibility"}
    assert found["bo/feasibility"] == 1.0


def test_bad_input_is_refused():
    agent = make(cube_space(2), context_size=1)
    with pytest.raises(ConfigError, match="context has 0 features, expected 1"):
        agent.act()
    with pytest.raises(ConfigError, match="not finite"):
        agent.act([float("nan")])
    with pytest.raises(ConfigError, match="unknown parameter 'x9'"):
        agent.observe(Transition(0, {"x9": 1.0}, 0.0, context=(0.0,)))
    single = ParameterSpace((Parameter("mode", "a", scale="choice", choices=("a",)),))
    with pytest.raises(ConfigError, match="no parameter of the space has two values"):
        make(single)


@pytest.fixture(autouse=True)
def quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
