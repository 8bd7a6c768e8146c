"""The traffic of an episode depends on seed and number alone."""

from __future__ import annotations

from agents.runs.episodes import episode_options
from ewsjf_env.env.task import Task
from ewsjf_env.seeds import TRAINING


def test_a_function_of_seed_and_number() -> None:
    task = Task(engine="fake", rates_per_s=(2.0, 4.0, 8.0))
    plans = [[episode_options(task, seed, e) for e in range(30)] for seed in (0, 1)]
    assert plans[0] == [episode_options(task, 0, e) for e in range(30)]
    seeds = [options["trace_seed"] for plan in plans for options in plan]
    assert len(set(seeds)) == 60
    assert min(seeds) >= TRAINING.start  # those below judge policies
    assert {options["rate_per_s"] for options in plans[0]} == {2.0, 4.0, 8.0}


def test_a_pool_of_traces() -> None:
    task = Task(engine="fake", trace_pool=3)
    seeds = {episode_options(task, 0, e)["trace_seed"] for e in range(50)}
    assert seeds == {TRAINING.start + i for i in range(3)}


def test_a_workload_of_its_own_rate() -> None:
    task = Task(engine="fake", rates_per_s=())
    assert set(episode_options(task, 0, 0)) == {"trace_seed"}
