from __future__ import annotations

from pathlib import Path

import pytest
from matplotlib import pyplot as plt

from agents.experiments.policies.plots import frontier
from tests.agents.experiments.evaluations import run_record


@pytest.mark.parametrize("spread", [0.02, 3.0])  # of the near ones: a crowd, or a log axis
def test_names_of_18_policies_do_not_cover_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spread: float
) -> None:
    drawn = []
    waits = {f"policy_{i}": (1 + i % 4 * spread, 2 + i // 4 * spread) for i in range(16)}
    waits |= {"fcfs": (4.0, 5.0), "ewsjf": (1.0, 4.0)}
    with monkeypatch.context() as patched:
        patched.setattr(plt, "close", drawn.append)
        frontier([run_record(name, 0, pair) for name, pair in waits.items()], tmp_path / "f.png")
    (figure,) = drawn
    try:
        for panel in figure.axes:
            boxes = [text.get_window_extent() for text in panel.texts if text.get_text()]
            assert len(boxes) == 18
            frame = panel.get_window_extent().padded(2)
            assert all(frame.containsx(box.x0) and frame.containsx(box.x1) for box in boxes)
            assert not [1 for i, a in enumerate(boxes) for b in boxes[:i] if a.overlaps(b)]
    finally:
        plt.close(figure)


def test_the_picture_is_written_whole_and_alone(tmp_path: Path) -> None:
    frontier([run_record("fcfs", 0, (4.0, 5.0))], tmp_path / "f.png")
    assert (tmp_path / "f.png").read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in tmp_path.iterdir()] == ["f.png"]
