"""Fits that are kept: the same model to the digit, whatever becomes of the file."""

from __future__ import annotations

from pathlib import Path

import pytest

from agents.bayes import trials
from agents.bayes.fits import FITS
from agents.core.agent import Transition
from tests.agents.bayes.study_agents import make, params, shown_again
from tests.agents.toys import bowl, cube_space, play


@pytest.mark.parametrize("lost", ["nothing", "half a line", "a damaged line", "everything"])
def test_an_agent_that_is_shown_its_windows_again_fits_what_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    log: list[Transition] = []
    whole = make(cube_space(2), folder=tmp_path)
    play(whole, bowl([0.3, 0.6]), 16, log=log)
    expected = whole.act()
    path = tmp_path / FITS
    lines = path.read_bytes().splitlines(keepends=True)
    kept = {"nothing": lines, "half a line": [*lines[:-1], lines[-1][:-9]], "everything": []}
    path.write_bytes(b"".join(kept.get(lost, [b'{"key": 7, "fit": []}\n', *lines[1:]])))
    fitted = []
    fit = trials.fit_surrogate

    def counting(observations: object, encoding: object, given: object = None) -> object:
        fitted.append(given is None)
        return fit(observations, encoding, given)  # type: ignore[arg-type]

    monkeypatch.setattr(trials, "fit_surrogate", counting)
    again = shown_again(make(cube_space(2), folder=tmp_path), log)
    assert again.act() == expected
    assert params(again) == params(whole)
    assert [t.user_attrs for t in again.study.trials] == [t.user_attrs for t in whole.study.trials]
    # The first fits were of windows in which no surprise could be told: they are not needed again.
    assert sum(fitted) <= {"nothing": 0, "everything": len(lines)}.get(lost, 1)
    assert sum(fitted) > 0 or lost in ("nothing", "a damaged line")


def test_fits_are_read_from_another_folder(tmp_path: Path) -> None:
    log: list[Transition] = []
    whole = make(cube_space(2), folder=tmp_path)
    play(whole, bowl([0.3, 0.6]), 14, log=log)
    before = (tmp_path / FITS).read_bytes()
    view = shown_again(make(cube_space(2), kept=tmp_path), log)
    assert view.recommend() == whole.recommend()
    assert (tmp_path / FITS).read_bytes() == before
