"""The speed of the virtual clock: how two trees are compared, and where the time goes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from agents.experiments.clock import ROOT, ClockCase, compare_clocks, profile_shares
from ewsjf_env.config import ConfigError

CASE = ClockCase("a few requests", "paper_mix", 3.0)


def test_shares_of_the_time() -> None:
    shares = profile_shares(CASE, 5.0)
    assert sum(shares.values()) == pytest.approx(1.0, abs=1e-3)
    assert shares["vllm"] > shares["ours"] > 0


def other_tree(folder: Path, change: str) -> Path:
    """A copy of this tree whose engine serves its windows differently."""
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "ewsjf_env", folder / "ewsjf_env", ignore=ignored)
    path = folder / "ewsjf_env" / "engine" / "simulated" / "engine.py"
    lines = ["", "", "_served = SimulatedEngine.run_window", "", change, ""]
    path.write_text(path.read_text() + "\n".join(lines))
    return folder


SLOWER = """
def _slower(self, *arguments):
    import time
    end_s = time.process_time() + 0.5
    while time.process_time() < end_s:
        pass
    return _served(self, *arguments)

SimulatedEngine.run_window = _slower
"""
SHORTER = "SimulatedEngine.run_window = lambda self, s, *more: _served(self, 0.5 * s, *more)"


def test_the_same_windows_in_more_time_are_a_gain_of_ours(tmp_path: Path) -> None:
    other = other_tree(tmp_path, SLOWER)
    (found,) = compare_clocks(other, duration_s=2.0, turns=2, cases=[CASE])
    assert found.case == CASE.name
    assert len(found.digest) == 16
    assert found.before.value < 2.0 / 0.5 < found.speed.value
    assert 1.0 < found.gain.low <= found.gain.value <= found.gain.high


@pytest.mark.slow
def test_a_tree_that_serves_other_windows_is_no_faster_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="a few requests: the versions serve different windows"):
        compare_clocks(other_tree(tmp_path, SHORTER), duration_s=2.0, turns=2, cases=[CASE])


def test_refuses_what_is_no_source_tree(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"against: .* holds no package ewsjf_env"):
        compare_clocks(tmp_path)
    with pytest.raises(ConfigError, match="turns"):
        compare_clocks(ROOT, turns=1)
