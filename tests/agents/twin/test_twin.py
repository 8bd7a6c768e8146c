"""The digital twin: what it believes, and what the agent makes of it."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest

from agents.bayes.phases import known_points
from agents.bayes.surrogate import Observations, fit_surrogate
from agents.core.encoding import Encoding, distributions
from agents.core.registry import AgentSetting, agent_config, make_agent
from agents.runs.config import make_run_config
from agents.runs.session import Session
from agents.twin import replay
from agents.twin.agent import TwinAgent
from agents.twin.blocks import BlockWindow, recorded_block
from agents.twin.candidates import START, Candidates, Judgement
from agents.twin.config import TwinConfig
from agents.twin.prior_mean import Said, combine, trust_in
from ewsjf_env.config import ConfigError
from ewsjf_env.env.env import SchedulerTuningEnv
from ewsjf_env.env.task import load_tuning
from tests.agents.run_folders import TASK, go_on, make_run, records_of
from tests.agents.toys import cube_space
from tests.agents.twin.twin_records import FAKE, QUICK, ROWS, SIMULATED, recorded, segment


@pytest.fixture(autouse=True)
def quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)


# -- what it believes ----------------------------------------------------------------------------


def test_trust_follows_the_evidence() -> None:
    said = np.array([0.0, 0.3, 0.5, -0.4, 0.2])
    noise = np.full(5, 0.03)
    assert trust_in(said + 0.02, said, noise, 0.35)[0] == pytest.approx(1.0, abs=0.05)
    assert trust_in(np.zeros(1), np.zeros(1), noise[:1], 0.35)[0] == 1.0
    assert trust_in(-said, said, noise, 0.35)[0] < 0.3
    assert trust_in(np.zeros(5), said, noise, 0.35)[0] < 0.7


def test_one_live_window_confirms_a_twin_that_was_right() -> None:
    encoding = Encoding(distributions(cube_space(1)))
    points = np.linspace(0.0, 1.0, 9)[:, np.newaxis]
    truth = 0.6 - 2.0 * (points[:, 0] - 0.7) ** 2
    flat = {"limit": np.full(9, -0.3)}
    twin = fit_surrogate(
        Observations(points, np.zeros((9, 0)), truth, np.full(9, 0.02), flat, np.zeros(9)), encoding
    )
    live = Observations(
        points[[4]], np.zeros((1, 0)), truth[[4]], np.full(1, 0.05), {"limit": np.array([-0.2])},
        np.zeros(1),
    )  # fmt: skip
    said = Said(truth[[4]], {"limit": np.array([-0.2])})
    model, trust = combine(live, said, twin, encoding, 0.35)
    mean, deviation = model.predict(points, ())
    assert trust == 1.0
    assert np.abs(mean - truth).max() < 0.12
    assert deviation.max() < 0.25
    assert int(np.argmax(mean)) in (5, 6)
    assert model.feasibility(points, ()).min() > 0.8


def test_candidates_are_compared_window_by_window() -> None:
    encoding = Encoding(distributions(cube_space(2)))
    candidates = Candidates(encoding, {"x0": 0.5, "x1": 0.5})
    other = candidates.number({"x0": 0.2, "x1": 0.5})
    assert candidates.number({"x0": 0.2 + 1e-8, "x1": 0.5}) == other  # by way of an action
    windows = [
        BlockWindow(n, 10.0 * n, 10.0 * n, 10.0 * n, 10.0 * n + 9, 10.0 * n + 10) for n in (0, 1)
    ]
    block = dataclasses.replace(
        recorded_block([segment(recorded(ROWS))], 2.0, False), windows=tuple(windows)
    )
    candidates.note(START, block, [Judgement(0.0, {}), Judgement(-1.0, {})])
    candidates.note(other, block.first(1), [Judgement(0.1, {})])
    ids = [("", 0), ("", 1)]
    table = candidates.table(ids)
    # It was not there in the bad window, and must not gain by that.
    assert table.rewards == pytest.approx([-0.5, -0.4])
    assert table.windows == (2, 1)
    assert candidates.lacks(other, block)
    assert not candidates.lacks(other, block.first(1))


def test_known_points_are_of_the_tasks_own_space() -> None:
    points = known_points(load_tuning(SIMULATED))
    assert points[0] == {"lambda": 0.0, "k": 1.0}
    assert len(points) == 2
    assert points[1]["k"] == pytest.approx(4.945, abs=0.01)
    assert len(known_points(load_tuning({**FAKE, "policy": "hrrn", "tuned": []}))) == 1
    shaped = {**SIMULATED, "policy": "ewsjf", "tuned": ["k", "prefill_share", "yield_share"]}
    k = pytest.approx(4.945, abs=0.01)
    assert known_points(load_tuning(shaped))[1:] == [
        {"k": k, "prefill_share": share, "yield_share": 0.9} for share in (0.5, 0.25)
    ]


# -- the agent -----------------------------------------------------------------------------------


def session_of(
    agent: str, task: Mapping[str, Any], seed: int = 0, settings: Any = None, windows: int = 8
) -> Session:
    return Session(make_run_config(agent, task, settings, seed=seed, windows=windows, context=()))


def played(session: Session, windows: int) -> list[dict[str, Any]]:
    found = []
    try:
        for _ in range(windows):
            record, _ = session.run_window()
            session.show(record)
            found.append(record)
    finally:
        session.close()
    return found


def judge() -> Callable[[Mapping[str, Any]], float]:
    """Objective of a point in the fake landscape, without noise."""
    env = SchedulerTuningEnv(load_tuning({**FAKE, "fake": TASK["fake"] | {"noise_sigma": 0.0}}))

    def gain(values: Mapping[str, Any]) -> float:
        env.reset(options={"trace_seed": 0, "rate_per_s": 6.0})
        return env.step(env.parameter_space.to_box(values))[1]

    return gain


def best_gain(gain: Callable[[Mapping[str, Any]], float]) -> float:
    grid = itertools.product(np.linspace(0.0, 2.0, 7), np.linspace(-1.0, 1.0, 7))
    return max(gain({"lambda": float(x), "mu": float(y)}) for x, y in grid)


def test_the_twin_says_what_a_window_was_like() -> None:
    """The same machine, no unfinished outputs left open: to the last digit but for draws."""
    settings = {"twin": {"jobs": 0, "simulated_s_per_window": 120.0, "rounds": 0}}
    session = session_of("bayes_twin", SIMULATED, settings=settings)
    played(session, 3)
    assert isinstance(session.agent, TwinAgent)
    said = [t.user_attrs["twin"]["reward"] for t in session.agent.study.trials]
    live = [t.value for t in session.agent.study.trials]
    assert said == pytest.approx(live, abs=0.15)
    assert session.agent.twin.speed.error < 0.1


def test_the_budget_is_kept() -> None:
    for budget in (60.0, 200.0):
        twin = {**QUICK["twin"], "simulated_s_per_window": budget}
        session = session_of("bayes_twin", FAKE, settings={**QUICK, "twin": twin})
        records = played(session, 3)
        spent = [r.agent.diagnostics["twin/spent_s"] for r in records[1:]]
        longest = FAKE["warmup_s"] + 3 * (FAKE["settle_s"] + FAKE["window_s"])
        assert all(s <= budget + 2 * longest for s in spent)
        assert max(spent) > 0.5 * budget


def test_fewer_live_windows_with_a_twin() -> None:
    gain = judge()
    target = 0.9 * best_gain(gain)

    def windows_to(agent: str, seed: int, settings: Any, windows: int) -> float:
        records = played(session_of(agent, FAKE, seed, settings), windows)
        hits = [r.window for r in records if gain(r.plan.incumbent) >= target]
        return float(hits[0]) if hits else math.inf

    with_ = [windows_to("bayes_twin", seed, QUICK, 4) for seed in range(3)]
    without = [windows_to("bayes", seed, {"search": QUICK["search"]}, 8) for seed in range(3)]
    assert sorted(with_)[1] <= 3
    assert sorted(with_)[1] < sorted(without)[1]


def test_a_wrong_twin_is_not_believed_for_long() -> None:
    """Its ranking is reversed: the best is the worst.  One run of 16 windows is luck."""
    settings = agent_config("bayes_twin", QUICK)
    weights = {"throughput": -1.0, "ttft_short": -0.5, "slowdown_long": -0.5, "overdue": -1.0}
    wrong = load_tuning({**FAKE, "objective": {"weights": weights}})
    gain, gains = judge(), []
    for seed in range(5):
        session = session_of("bayes_twin", FAKE, seed, settings=QUICK)
        setting = AgentSetting(session.space, task=wrong, seed=seed)
        session.agent = make_agent("bayes_twin", setting, settings)
        records = played(session, 16)
        trust = [r.agent.diagnostics.get("twin/trust", 1.0) for r in records]
        assert trust[1] == 1.0
        assert trust[-1] < settings.twin.least_trust
        gains.append(gain(records[-1].plan.incumbent))
    assert np.mean(gains) > 0.6 * best_gain(gain)


def test_kill_and_resume_equals_uninterrupted(tmp_path: Path) -> None:
    arguments: dict[str, Any] = {"settings": QUICK, "seed": 3}
    whole = make_run(tmp_path / "whole", "bayes_twin", 7, **arguments)
    part = make_run(tmp_path / "part", "bayes_twin", 3, **arguments)
    go_on(part, 5)
    (part / replay.RESULTS).unlink()  # what it knew is only slower without
    go_on(part, 7)
    assert (part / "windows.jsonl").read_bytes() == (whole / "windows.jsonl").read_bytes()
    requests = records_of(whole)[0].requests
    assert requests is not None
    assert requests.prompt_tokens
    assert {r.window for r in records_of(whole)} == set(range(7))


def test_start_points_come_before_the_twin_where_they_are_asked_for() -> None:
    task = {**FAKE, "policy": "ewsjf(lambda=0;mu=0;k=1)", "tuned": ["lambda", "k"]}
    session = session_of("bayes_twin", task, settings={**QUICK, "startup_points": 1})
    values = [record.served.values for record in played(session, 2)]
    known = known_points(load_tuning(task))
    assert [v["k"] for v in values] == pytest.approx([known[0]["k"], known[1]["k"]])


def test_it_works_inside_the_guard(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", "bayes_twin", 4, settings=QUICK, safety={"enabled": True})
    modes = {r.guard.report.mode for r in records_of(folder) if r.guard is not None}
    assert modes <= {"candidate", "control", "rollback", "held"}
    assert records_of(folder)[-1].agent.diagnostics["twin/replays"] > 0


def test_without_a_task_there_is_no_twin() -> None:
    with pytest.raises(ConfigError, match="needs a task"):
        make_agent("bayes_twin", AgentSetting(cube_space(2)))


@pytest.mark.parametrize(
    "changes",
    [
        {"jobs": -1},
        {"cpu_s_per_window": 0.0},
        {"simulated_s_per_window": 0.0},
        {"recorded_windows": 0},
        {"block_windows": 0},
        {"drawn_blocks": -1},
        {"candidates": -1},
        {"radius": 0.0},
        {"rounds": -1},
        {"finalists": 0},
        {"trust": 0.0},
        {"least_trust": 1.5},
        {"fit_error": 0.0},
        {"latency_error": 1.0},
    ],
)
def test_bad_settings_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(changes))):
        TwinConfig(**changes)
