import json
from copy import deepcopy
from functools import partial
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env as check_gymnasium
from gymnasium.utils.env_checker import data_equivalence
from stable_baselines3.common.env_checker import check_env as check_sb3
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import SubprocVecEnv

import ewsjf_env  # noqa: F401 (registers the ids)
from ewsjf_env.config import ConfigError
from ewsjf_env.engine.base import EngineError
from ewsjf_env.env.env import SchedulerTuningEnv
from ewsjf_env.env.episode import AbortRule
from ewsjf_env.env.guard import make_env
from ewsjf_env.env.registration import (
    ENGINE_IDS,
    FAKE_ID,
    REAL_TIME,
    SIMULATED_ID,
)
from ewsjf_env.measure.objective import relative_objective
from ewsjf_env.measure.records import WindowMetrics
from ewsjf_env.seeds import TRAINING
from ewsjf_env.workload import load_workload

SHORT: dict[str, Any] = {
    "windows": 4,
    "window_s": 6.0,
    "settle_s": 2.0,
    "warmup_s": 3.0,
    "rates_per_s": [4.0, 5.0],
}
FAKE = {**SHORT, "engine": "fake", "fake": {"noise_sigma": 0.1}}


def fake(**changes: Any) -> SchedulerTuningEnv:
    return SchedulerTuningEnv({**FAKE, **changes})


def actions(env: SchedulerTuningEnv, count: int) -> list[np.ndarray]:
    random = np.random.default_rng(0)
    return [random.uniform(-1, 1, env.action_space.shape).astype(np.float32) for _ in range(count)]


@pytest.mark.parametrize("env_id", (SIMULATED_ID, FAKE_ID))
def test_both_checkers_pass(env_id: str) -> None:
    config = {**SHORT, "windows": 12}  # SB3's checker takes ten steps without a reset
    env = gymnasium.make(f"ewsjf_env:{env_id}", config=config)
    check_gymnasium(env.unwrapped)
    check_sb3(env)
    env.close()


@pytest.mark.parametrize("env_id", (SIMULATED_ID, FAKE_ID))
def test_equal_seeds_give_equal_trajectories(env_id: str) -> None:
    def trajectory() -> list[Any]:
        env = gymnasium.make(env_id, config=SHORT).unwrapped
        assert isinstance(env, SchedulerTuningEnv)
        steps: list[Any] = [env.reset(seed=7)]
        steps += [env.step(action) for action in actions(env, 3)]
        steps.append(env.reset())
        env.close()
        return steps

    first, second = trajectory(), trajectory()
    assert data_equivalence(first, second, exact=True)
    assert first[0][1]["trace"] != first[-1][1]["trace"]  # the stream goes on


def test_specs_are_plain_and_say_what_repeats() -> None:
    for engine, env_id in ENGINE_IDS.items():
        # Making one contacts no server and starts no vLLM.
        spec = gymnasium.make(env_id, config=SHORT).spec
        assert spec is not None
        assert gymnasium.envs.registration.EnvSpec.from_json(spec.to_json()).kwargs == spec.kwargs
        assert spec.max_episode_steps is None  # `windows` of the task says it
        assert spec.nondeterministic is (engine in REAL_TIME)


def test_making_builds_no_engine_and_close_is_idempotent() -> None:
    env = fake()
    assert env._engine is None
    env.close()
    env.reset(seed=0)
    assert env._engine is not None
    env.close()
    env.close()
    assert env._engine is None
    env.reset(seed=0)  # closed environments can be used again


def test_spawned_workers_find_the_id() -> None:
    env = make_vec_env(
        f"ewsjf_env:{FAKE_ID}",
        n_envs=2,
        seed=3,
        vec_env_cls=SubprocVecEnv,
        vec_env_kwargs={"start_method": "spawn"},
        env_kwargs={"config": SHORT},
    )
    try:
        observations = env.reset()
        assert observations.shape == (2, *env.observation_space.shape)
        assert not np.array_equal(*observations)
        _, rewards, dones, infos = env.step(np.zeros((2, *env.action_space.shape)))
        assert np.isfinite(rewards).all()
        assert not dones.any()
        assert infos[0]["metrics"]["window_s"] == pytest.approx(6.0)
    finally:
        env.close()


def test_the_reward_is_the_objective_of_what_info_says() -> None:
    env = fake()
    env.reset(seed=1)
    _, reward, terminated, truncated, info = env.step(actions(env, 1)[0])
    expected = relative_objective(
        WindowMetrics.from_dict(info["metrics"]), WindowMetrics.from_dict(info["reference"])
    )
    assert reward == expected.total == pytest.approx(sum(info["reward_terms"].values()))
    assert info["reward_terms"] == dict(expected.terms)
    assert type(reward) is float
    assert (terminated, truncated) == (False, False)
    assert info["end_s"] - info["start_s"] == pytest.approx(6.0)
    assert info["start_s"] == pytest.approx(3.0 + 2.0)  # warm-up, settle
    assert set(info["constraints"]) == {c.name for c in env.config.constraints}
    json.dumps({k: v for k, v in info.items() if k != "executed_action"}, allow_nan=False)


def test_the_start_values_are_as_good_as_the_reference() -> None:
    env = SchedulerTuningEnv(SHORT)
    env.reset(seed=1)
    _, reward, _, _, info = env.step(env.start_action)
    assert reward == pytest.approx(0.0, abs=1e-6)
    assert info["reward_se"] == pytest.approx(0.0, abs=1e-6)
    assert info["metrics"]["arrivals"] == info["reference"]["arrivals"] > 0
    env.close()


def test_a_better_action_gets_a_larger_reward() -> None:
    env = fake(fake={"noise_sigma": 0.0})
    env.reset(seed=1)
    engine = env._engine
    best = env.parameter_space.to_box(engine.optimum())  # type: ignore[union-attr]
    assert env.step(best)[1] > env.step(env.start_action)[1] + 0.1


def test_the_executed_action_is_what_was_in_force() -> None:
    env = fake(policy="ewsjf", tuned=["k", "q_max"])
    observation, info = env.reset(seed=1)
    assert info["parameters"]["q_max"] == 16
    proposed = np.array([0.3, 0.1], dtype=np.float32)
    observation, _, _, _, info = env.step(proposed)
    assert info["parameters"]["q_max"] == 16  # a cell of the choice, executed at its middle
    assert info["executed_action"] == pytest.approx([0.3, 0.25], abs=1e-6)
    assert observation[-2:] == pytest.approx(info["executed_action"])
    assert env.feature_names[-2:] == ("parameter_k", "parameter_q_max")
    assert info["parameters"]["lambda"] == env.config.start_policy().parameters["lambda"]


def test_actions_outside_the_box_are_clipped_and_nonsense_is_refused() -> None:
    env = fake(tuned=["k"])
    env.reset(seed=1)
    *_, info = env.step(np.array([7.0], dtype=np.float32))
    assert info["executed_action"] == pytest.approx([1.0])
    for nonsense in (np.array([np.nan]), np.zeros(2)):
        with pytest.raises(ConfigError, match="expected 1 finite numbers"):
            env.step(nonsense)


def test_episodes_draw_other_traces_unless_told() -> None:
    env = fake()
    seen = [env.reset(seed=1)[1]["trace"]] + [env.reset()[1]["trace"] for _ in range(5)]
    seeds = [trace["seed"] for trace in seen]
    assert len(set(seeds)) == 6
    assert min(seeds) >= TRAINING.start
    assert {trace["rate_per_s"] for trace in seen} == {4.0, 5.0}
    fixed = env.reset(seed=1, options={"trace_seed": 3, "rate_per_s": 2.0})[1]
    assert fixed["trace"] == {"name": "paper_mix", "seed": 3, "rate_per_s": 2.0}
    assert env.reset()[1]["trace"]["seed"] == seeds[1]  # options leave the stream alone
    with pytest.raises(ConfigError, match="options: unknown key 'trace_sed'"):
        env.reset(options={"trace_sed": 3})


def test_a_trace_may_begin_under_other_values() -> None:
    env = SchedulerTuningEnv(FAKE)
    own = env.reset(options={"trace_seed": 3})[1]["parameters"]
    other = env.reset(options={"trace_seed": 3, "values": {"lambda": 0.9}})[1]["parameters"]
    assert other == {**own, "lambda": 0.9}
    assert env.reset(options={"trace_seed": 3})[1]["parameters"] == own
    with pytest.raises(ConfigError, match="lambda"):
        env.reset(options={"values": {"lambda": 99.0}})
    for nonsense in (5, ["lambda"], {1: 1}):
        with pytest.raises(ConfigError, match="values: expected parameters by name"):
            env.reset(options={"values": nonsense})
    # What is refused changes nothing: the episode goes on with its own trace.
    action = env.parameter_space.to_box({n: own[n] for n in env.parameter_space.names})
    assert env.step(action)[4]["trace"]["seed"] == 3


def test_a_pool_repeats_its_traces() -> None:
    env = fake(trace_pool=2)
    seeds = [env.reset(seed=1)[1]["trace"]["seed"]]
    seeds += [env.reset()[1]["trace"]["seed"] for _ in range(9)]
    assert set(seeds) == {TRAINING.start, TRAINING.start + 1}


def test_every_arrival_is_served_once() -> None:
    env = fake(settle_s=0.0)
    _, info = env.reset(seed=1)
    arrivals = [info["metrics"]["arrivals"]]
    for action in actions(env, 4):
        arrivals.append(env.step(action)[-1]["metrics"]["arrivals"])
    seed, rate = info["trace"]["seed"], info["trace"]["rate_per_s"]
    trace = load_workload("paper_mix").draw(seed, env.config.episode_s, rate)
    assert sum(arrivals) == len(trace)


def test_stepping_needs_a_reset_and_traffic() -> None:
    env = fake(windows=2)
    with pytest.raises(ResetNeeded, match="call reset"):
        env.step(env.start_action)
    env.reset(seed=0)
    env.step(env.start_action)
    env.step(env.start_action)
    with pytest.raises(ResetNeeded, match="has ended after its 2 windows"):
        env.step(env.start_action)


def test_windows_is_the_length_of_an_episode_whatever_made_it() -> None:
    """With a limit in the registration alone, stepping past `windows` raised ResetNeeded."""
    for env in (
        gymnasium.make(FAKE_ID, config={**SHORT, "windows": 2}),
        make_env({**SHORT, "engine": "fake", "windows": 2}),
        fake(windows=2),
    ):
        action = np.zeros(env.action_space.shape, dtype=np.float32)
        for _ in range(2):
            env.reset(seed=0)
            assert env.step(action)[2:4] == (False, False)
            assert env.step(action)[2:4] == (False, True)


def test_more_than_the_usual_windows_are_no_limit() -> None:
    env = gymnasium.make(FAKE_ID, config={**SHORT, "windows": 22})
    env.reset(seed=0)
    action = np.zeros(env.action_space.shape, dtype=np.float32)
    assert [env.step(action)[3] for _ in range(22)] == [False] * 21 + [True]


@pytest.mark.parametrize("env_id", ENGINE_IDS.values())
def test_a_workload_that_does_not_exist_is_refused_when_made(env_id: str) -> None:
    """A worker process would only show an EOFError when it is reset."""
    with pytest.raises(ConfigError, match="workload: 'paper_mx' is neither"):
        gymnasium.make(env_id, config={**SHORT, "workload": "paper_mx"})


@pytest.mark.parametrize(
    ("config", "got"),
    [([], r"list \[\]"), (3, "int 3"), (False, "bool False"), (b"x", "bytes b'x'")],
)
def test_a_config_of_another_kind_is_one_clear_error(config: Any, got: str) -> None:
    with pytest.raises(
        ConfigError,
        match=f"^config: expected a Task, a mapping, the path or name of a YAML file, or "
        f"None, got {got}$",
    ):
        gymnasium.make(f"ewsjf_env:{SIMULATED_ID}", config=config)


def test_a_dead_engine_ends_the_episode_not_the_run() -> None:
    env = fake(fake={"fail_at_s": 15.0})
    env.reset(seed=0)
    before, *_ = env.step(env.start_action)
    observation, reward, terminated, truncated, info = env.step(env.start_action)
    assert (reward, terminated, truncated) == (-5.0, True, False)
    assert "died at 15 s" in info["error"]
    assert info["reward_terms"] == {"failure": -5.0}
    assert np.array_equal(observation, before)
    with pytest.raises(ResetNeeded):
        env.step(env.start_action)
    env.reset()
    assert env.step(env.start_action)[2] is False
    with pytest.raises(EngineError, match="died"):
        fake(fake={"fail_at_s": 1.0}).reset(seed=0)


@pytest.mark.parametrize("config", [FAKE, SHORT], ids=["fake", "simulated"])
def test_an_aborted_window_is_finished_by_the_fallback(config: dict[str, Any]) -> None:
    env = SchedulerTuningEnv(config)
    env.reset(seed=0)
    first, second = actions(env, 2)
    rule = AbortRule(lambda m, r: m.window_s >= 3.0, env.parameter_space.defaults)
    outcome = env.run(env.plan(first, abort=rule))
    info = outcome.info()
    assert info["aborted"] is True
    assert info["metrics"]["window_s"] == info["reference"]["window_s"] == pytest.approx(3.0)
    assert info["metrics"]["arrivals"] == info["reference"]["arrivals"]
    assert info["executed_action"] == pytest.approx(first, abs=0.3)  # q_max moves to its cell
    *_, info = env.step(second)
    assert info["start_s"] == pytest.approx(3.0 + 8.0 + 2.0)  # windows keep their places
    assert info["aborted"] is False
    assert info["metrics"]["arrivals"] == info["reference"]["arrivals"]


def test_without_a_reference() -> None:
    env = fake(reference=None, objective={"kind": "goodput"}, constraints=[])
    _, info = env.reset(seed=0)
    assert info["reference"] is None
    _, reward, _, _, info = env.step(env.start_action)
    assert info["constraints"] == {}
    assert 0.0 <= reward <= 2.0


def test_nothing_returned_is_kept_by_the_environment() -> None:
    env = fake()
    env.render_mode = "ansi"
    env.reset(seed=0)
    observation, _, _, _, info = env.step(env.start_action)
    shown = deepcopy(observation)
    observation[:] = 9.0
    *_, second = env.step(env.start_action)
    assert second["parameters"] is not info["parameters"]
    assert second["trace"] is not info["trace"]
    assert not np.array_equal(shown, observation)


def test_rendering() -> None:
    env = SchedulerTuningEnv(FAKE, render_mode="ansi")
    assert env.render() is None
    env.reset(seed=0)
    text = env.render()
    assert "ttft_short_p95_s " in text
    assert "lambda" in text
    bars = SchedulerTuningEnv(FAKE, render_mode="rgb_array")
    observation, _ = bars.reset(seed=0)
    picture = bars.render()
    assert picture.shape == (96, 8 * len(observation), 3)
    assert picture.dtype == np.uint8
    silent = fake()
    silent.reset(seed=0)
    assert silent.render() is None
    with pytest.raises(ConfigError, match="render_mode: 'human'"):
        SchedulerTuningEnv(FAKE, render_mode="human")


def test_vectors_of_gymnasium_work() -> None:
    make = partial(gymnasium.make, f"ewsjf_env:{FAKE_ID}", config=SHORT)
    env = gymnasium.vector.SyncVectorEnv([make, make])
    observations, _ = env.reset(seed=[1, 1])
    assert np.array_equal(*observations)
    env.close()
