"""What windows of a tuning run are for."""

from __future__ import annotations

import pytest

from agents.bayes.config import StudyConfig
from agents.bayes.phases import Phases

CONFIG = StudyConfig(startup_points=3, control_every=3)


def played(phases: Phases, windows: int, challenged: set[int], known: int = 0) -> list[str]:
    """Roles of the next windows; in those given something looks better than what is known."""
    found = []
    for window in range(windows):
        untried = 1 <= window <= known
        role = phases.next(0, lambda: untried, lambda: window in challenged)  # noqa: B023
        phases.add(role, void=False, breached=False)
        found.append(role)
    return found


def test_start_then_search_and_every_third_the_incumbent() -> None:
    assert played(Phases(CONFIG), 10, set()) == [
        "start", *["opening"] * 3,
        "candidate", "candidate", "control", "candidate", "candidate", "control",
    ]  # fmt: skip


def test_what_looks_better_is_tried_again_but_not_twice_in_a_row() -> None:
    found = played(Phases(CONFIG), 8, {2, 3, 5})
    assert found == [
        "start", "opening", "confirm", "opening", "opening", "confirm", "candidate", "candidate",
    ]  # fmt: skip


def test_named_points_are_all_tried_before_the_best_is_tried_again() -> None:
    found = played(Phases(CONFIG), 5, set(range(5)), known=2)
    assert found == ["start", "opening", "opening", "confirm", "opening"]


def test_windows_of_others_stand_for_the_start_but_for_our_own_incumbent() -> None:
    phases = Phases(CONFIG)
    assert phases.next(9, lambda: False, lambda: False) == "start"
    phases.add("start", void=False, breached=False)
    assert phases.next(9, lambda: False, lambda: False) == "candidate"
    assert phases.next(9, lambda: True, lambda: False) == "opening"  # nobody has tried it


@pytest.mark.parametrize(("recover", "then"), [(True, "control"), (False, "candidate")])
def test_the_incumbent_clears_up_after_a_breach(recover: bool, then: str) -> None:
    phases = Phases(StudyConfig(startup_points=0, recover=recover))
    phases.add("start", void=False, breached=False)
    phases.add("candidate", void=True, breached=True)  # counts for nothing, but left its queue
    assert phases.counted == 1
    assert phases.next(0, lambda: False, lambda: False) == then
