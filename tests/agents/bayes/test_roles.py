"""What windows of a tuning run are for."""

from __future__ import annotations

import optuna
import pytest

from agents.bayes.config import StudyConfig
from agents.bayes.roles import Roles
from agents.bayes.study import KILLED
from agents.bayes.trials import BREACHED, IGNORED, ROLE, SHARED

CONFIG = StudyConfig(startup_points=3, control_every=3)


def played(roles: Roles, windows: int, challenged: set[int], known: int = 0) -> list[str]:
    """Roles of the next windows; in those given something looks better than what is known."""
    found = []
    for window in range(windows):
        untried = 1 <= window <= known
        role = roles.next(0, lambda: untried, lambda: window in challenged)  # noqa: B023
        roles.add(role, void=False, breached=False)
        found.append(role)
    return found


def test_start_then_search_and_every_third_the_incumbent() -> None:
    assert played(Roles(CONFIG, []), 10, set()) == [
        *["startup"] * 4, "search", "search", "control", "search", "search", "control",
    ]  # fmt: skip


def test_what_looks_better_is_tried_again_but_not_twice_in_a_row() -> None:
    found = played(Roles(CONFIG, []), 8, {2, 3, 5})
    assert found == [
        "startup", "startup", "confirm", "startup", "startup", "confirm", "search", "search",
    ]  # fmt: skip


def test_named_points_are_all_tried_before_the_best_is_tried_again() -> None:
    found = played(Roles(CONFIG, []), 5, set(range(5)), known=2)
    assert found == ["startup", "startup", "startup", "confirm", "startup"]


def test_windows_of_others_stand_for_the_start_but_for_our_own_incumbent() -> None:
    roles = Roles(CONFIG, [])
    assert roles.next(9, lambda: False, lambda: False) == "startup"
    roles.add("startup", void=False, breached=False)
    assert roles.next(9, lambda: False, lambda: False) == "search"
    assert roles.next(9, lambda: True, lambda: False) == "startup"  # nobody has tried it


@pytest.mark.parametrize(("recover", "then"), [(True, "control"), (False, "search")])
def test_the_incumbent_clears_up_after_a_breach(recover: bool, then: str) -> None:
    roles = Roles(StudyConfig(startup_points=0, recover=recover), [])
    roles.add("startup", void=False, breached=False)
    roles.add("search", void=True, breached=True)  # counts for nothing, but left its queue
    assert roles.counted == 1
    assert roles.next(0, lambda: False, lambda: False) == then


def test_a_study_that_is_opened_goes_on_where_it_was() -> None:
    def trial(role: str, breached: bool, **more: object) -> optuna.trial.FrozenTrial:
        attributes = {ROLE: role, BREACHED: breached, **more}
        return optuna.create_trial(value=0.0, user_attrs=attributes)

    trials = [
        trial("startup", False),
        trial("search", False, **{SHARED: "another run"}),
        trial("confirm", True),
        trial("search", False, **{IGNORED: KILLED}),
    ]
    roles = Roles(CONFIG, trials)
    assert (roles.counted, roles.started, roles.breached) == (2, 1, True)
    assert roles.next(0, lambda: False, lambda: True) == "startup"  # "confirm" was the last one
