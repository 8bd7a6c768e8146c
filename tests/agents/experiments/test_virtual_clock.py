"""The speed of the virtual clock: how it is compared, and where its time goes."""

from __future__ import annotations

from pathlib import Path

import pytest

from agents.experiments.clock import ROOT, ClockCase, compare_clocks, profile_shares
from ewsjf_env.config import ConfigError

CASE = ClockCase("a few requests", "paper_mix", 3.0)


def test_shares_of_the_time() -> None:
    shares = profile_shares(CASE, 5.0)
    assert sum(shares.values()) == pytest.approx(1.0, abs=1e-3)
    assert shares["vllm"] > shares["ours"] > 0


def test_a_version_compared_with_itself_serves_the_same_windows() -> None:
    (found,) = compare_clocks(ROOT, duration_s=2.0, turns=2, cases=[CASE])
    assert found.case == CASE.name
    assert len(found.digest) == 16
    assert found.speed.value > 0
    assert found.gain.low <= found.gain.value <= found.gain.high


def test_refuses_what_is_no_source_tree(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"against: .* holds no package ewsjf_env"):
        compare_clocks(tmp_path)
    with pytest.raises(ConfigError, match="turns"):
        compare_clocks(ROOT, turns=1)
