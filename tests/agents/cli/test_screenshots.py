"""Pictures of real runs: which pages are asked for, and how they are put together."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from agents.cli.project import screenshots
from agents.cli.project.screenshots import WIDTH_PX, main

CURVES, TABLE, TRIALS = (200, 0, 0), (0, 200, 0), (0, 0, 200)


def test_a_folder_without_a_study_is_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path), str(tmp_path / "run"), "--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err == (
        f"error: {tmp_path / 'run'}: not a run with a study.journal\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_the_pages_are_put_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "runs" / "quickstart" / "seed_0"
    run.mkdir(parents=True)
    (run / "study.journal").touch()
    asked = []

    def page(folder: Path, command: list[str], page: str, width: int, height: int) -> Image.Image:
        asked.append((folder, command[0], page))
        colour = TRIALS if command[0] != "tensorboard" else TABLE if "hparams" in page else CURVES
        return Image.new("RGB", (width, height), colour)

    monkeypatch.setattr(screenshots, "shot", page)
    assert main([str(run.parent), str(run), "--out", str(tmp_path)]) == 0
    assert [(folder, tool) for folder, tool, _ in asked] == [
        (run, "tensorboard"),
        (run.parent, "tensorboard"),
        (run, "optuna-dashboard"),
    ]
    board = Image.open(tmp_path / "tensorboard.png").convert("RGB")
    # The table is wider than the curves: it is made as wide as they are, below them.
    assert board.size == (WIDTH_PX, 1600 + 600 * WIDTH_PX // 2100)
    assert [board.getpixel((WIDTH_PX - 1, y)) for y in (0, 1599, 1600, board.height - 1)] == [
        CURVES, CURVES, TABLE, TABLE
    ]  # fmt: skip
    trials = Image.open(tmp_path / "optuna_dashboard.png").convert("RGB")
    assert (trials.size, trials.getpixel((0, 0))) == ((WIDTH_PX, 1170), TRIALS)
    assert capsys.readouterr().out.splitlines()[0].startswith(f"{tmp_path / 'tensorboard.png'}  ")
