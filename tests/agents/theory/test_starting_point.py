"""The point that theory would try first."""

from __future__ import annotations

from typing import Any

import pytest

from agents.theory.start import TaskPrior, search, start_values, starting_point
from ewsjf_env.config import ConfigError
from ewsjf_env.env.task import load_tuning
from tests.agents.toys import bowl, cube_space


@pytest.fixture(autouse=True)
def a_short_search(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agents.theory.start.POINTS", 16)
    monkeypatch.setattr("agents.theory.start.FINER_POINTS", 4)


BAD = "ewsjf(lambda=1;mu=0.5;k=0.05)"  # nearly first come first served
OVERLOAD = {"workload": "paper_mix", "rates_per_s": [6.5], "policy": BAD}


def test_moves_away_from_bad_values_and_always_to_the_same_point() -> None:
    task = load_tuning(OVERLOAD)
    point = starting_point(task)
    assert point.moved
    assert point.loads[0] > 1.1
    assert point.objective > point.own_objective + 1.0
    own = task.space().defaults
    assert {n for n, v in point.values.items() if v != own[n]} == {"lambda", "mu", "k"}
    assert starting_point(task) == point
    assert start_values(task) == point.values
    prior, names = TaskPrior(task), ("lambda", "mu", "k")
    objective, worst = prior.judge({name: point.values[name] for name in names})
    assert objective == pytest.approx(point.objective)
    # So few points may all break a constraint; the chosen one is no worse than where it began.
    assert worst <= max(0.0, prior.judge({name: own[name] for name in names})[1])


def test_stays_where_no_order_matters() -> None:
    point = starting_point(load_tuning({**OVERLOAD, "rates_per_s": [0.5]}))
    assert not point.moved
    assert point.values == load_tuning(OVERLOAD).space().defaults
    assert start_values(load_tuning({**OVERLOAD, "rates_per_s": [0.5]})) is None


def test_follows_the_objective_of_the_task() -> None:
    """A goodput of first tokens within 5 s, and a mean over several rates."""
    goodput: dict[str, Any] = {
        **OVERLOAD,
        "rates_per_s": [5.0, 7.0],
        "reference": None,
        "objective": {"kind": "goodput"},
        "constraints": [],
        "tuned": ["k", "q_max"],
    }
    point = starting_point(load_tuning(goodput))
    assert 0.0 < point.own_objective < point.objective <= 1.0
    assert len(point.loads) == 2
    assert set(point.values) == {"k", "q_max"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"policy": "ewsjf", "tuned": ["alpha"]}, r"none of the tuned parameters \['alpha'\]"),
        ({"policy": "linear_aging"}, "policy 'linear_aging' has no queues with scores"),
    ],
)
def test_refuses_what_theory_knows_nothing_of(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"theory: .*{message}"):
        starting_point(load_tuning({**OVERLOAD, **changes}))


def test_search_finds_the_top_of_a_hill() -> None:
    truth = bowl([0.62, 0.31])
    found = search(cube_space(2), lambda values: (truth(values, 0.0), -1.0))
    assert found[0][0] == cube_space(2).defaults
    assert max(objective for _, objective, _ in found) > -0.2
