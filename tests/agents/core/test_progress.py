"""Progress: a bar where somebody watches, few plain lines where nobody does."""

from __future__ import annotations

import io

import pytest
from tqdm import tqdm

from agents.core.progress import LINE_EVERY_S, Lines, bar, meter


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_no_carriage_return_where_stderr_is_no_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert list(bar("run", "runs")(iter(range(2000)), 2000)) == list(range(2000))
    told = capsys.readouterr().err
    assert "\r" not in told
    assert len(told.splitlines()) == 1
    assert told.startswith("runs: 100% 2000/2000 run [00:")


def test_a_bar_in_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    assert list(bar("run", "runs")(iter(range(5)), 5)) == list(range(5))
    assert type(meter(total=1)) is tqdm
    assert "\rruns: 100%|" in terminal.getvalue()


def test_lines_come_seldom(capsys: pytest.CaptureFixture[str]) -> None:
    """200 steps of a second: a line every 30 s at most, and the last."""
    now = [0.0]
    lines = Lines(total=200, unit="window", clock=lambda: now[0], bar_format="{n:.0f}{postfix}")
    for second in range(1, 201):
        now[0] = float(second)
        lines.n = second
        lines.set_postfix_str(f"J={second}")
    lines.close()
    lines.close()
    told = capsys.readouterr().err.splitlines()
    assert told == [f"{n}, J={n}" for n in (30, 60, 90, 120, 150, 180, 200)]
    assert LINE_EVERY_S == 30.0
