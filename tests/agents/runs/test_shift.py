"""Shifts of the traffic are seen at once, and steady Poisson traffic is left alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from agents.runs.traffic_shift import ShiftDetector, ShiftSettings
from ewsjf_env.config import ConfigError
from ewsjf_env.workload import load_workload

WINDOW_S = 60.0


def windows(
    workload: str, seed: int, rate_per_s: float, number: int, length_factor: float = 1.0
) -> Iterator[dict[str, Any]]:
    """Traffic of `number` windows of a drawn trace."""
    trace = load_workload(workload).draw(seed, number * WINDOW_S, rate_per_s)
    index = (trace.arrival_s // WINDOW_S).astype(int)
    for window in range(number):
        prompts = trace.prompt_tokens[index == window]
        yield {
            "arrival_rate_per_s": len(prompts) / WINDOW_S,
            "prompt_tokens_mean": float(np.mean(prompts)) * length_factor,
        }


def verdicts(traffic: Iterator[dict[str, Any]], detector: ShiftDetector) -> list[bool]:
    return [detector.shifted(window, WINDOW_S) for window in traffic]


@pytest.mark.parametrize("workload", ["mixed", "paper_mix"])
@pytest.mark.parametrize("rate_per_s", [1.0, 5.0])
def test_steady_traffic_raises_no_alarm(workload: str, rate_per_s: float) -> None:
    for seed in range(10):
        detector = ShiftDetector(ShiftSettings())
        assert not any(verdicts(windows(workload, seed, rate_per_s, 20), detector))


def test_a_moderate_change_soon_after_the_start() -> None:
    seen = []
    for seed in range(10):
        detector = ShiftDetector(ShiftSettings())
        verdicts(windows("paper_mix", seed, 5.0, 5), detector)
        seen.append(any(verdicts(windows("paper_mix", seed + 100, 8.0, 3), detector)))
    assert sum(seen) >= 8


@pytest.mark.parametrize("factor", [0.5, 2.0, 4.0])
def test_another_rate_is_seen_in_its_first_window(factor: float) -> None:
    for seed in range(5):
        detector = ShiftDetector(ShiftSettings())
        assert not any(verdicts(windows("paper_mix", seed, 5.0, 8), detector))
        after = verdicts(windows("paper_mix", seed + 100, 5.0 * factor, 8), detector)
        assert after == [True] + [False] * 7  # once: the new traffic is then the usual one


@pytest.mark.parametrize("factor", [0.25, 4.0])
def test_other_lengths_are_seen_within_two_windows(factor: float) -> None:
    for seed in range(5):
        detector = ShiftDetector(ShiftSettings())
        assert not any(verdicts(windows("paper_mix", seed, 5.0, 8), detector))
        after = verdicts(windows("paper_mix", seed + 100, 5.0, 8, factor), detector)
        assert sum(after) == 1
        assert any(after[:2])


def test_small_changes_are_no_shift() -> None:
    detector = ShiftDetector(ShiftSettings(least_change=2.0))
    verdicts(windows("paper_mix", 1, 5.0, 8), detector)
    assert not any(verdicts(windows("paper_mix", 2, 10.0, 8), detector))  # x 2, not x 3


def test_a_reset_forgets_the_usual_traffic() -> None:
    detector = ShiftDetector(ShiftSettings())
    verdicts(windows("paper_mix", 1, 5.0, 8), detector)
    detector.reset()
    assert not any(verdicts(windows("paper_mix", 2, 20.0, 8), detector))


def test_it_can_be_switched_off() -> None:
    detector = ShiftDetector(ShiftSettings(enabled=False))
    verdicts(windows("paper_mix", 1, 5.0, 8), detector)
    assert not any(verdicts(windows("paper_mix", 2, 50.0, 8), detector))


@pytest.mark.parametrize(
    "nothing",
    [
        None,
        {"arrival_rate_per_s": 0.0, "prompt_tokens_mean": None},
        {"arrival_rate_per_s": None, "prompt_tokens_mean": None},
    ],
)
def test_windows_without_traffic_teach_nothing(nothing: Any) -> None:
    usual, patchy = ShiftDetector(ShiftSettings()), ShiftDetector(ShiftSettings())
    traffic = [*windows("paper_mix", 1, 5.0, 6), *windows("paper_mix", 2, 8.0, 6)]
    found = []
    for window in traffic:
        assert not patchy.shifted(nothing, WINDOW_S)
        found.append(patchy.shifted(window, WINDOW_S))
    assert found == verdicts(iter(traffic), usual)
    assert any(found)


@pytest.mark.parametrize(
    ("name", "value"),
    [("least_change", -0.1), ("threshold", 0.0), ("slack", -1.0), ("warmup_windows", 1)],
)
def test_settings_out_of_range(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=name):
        ShiftSettings(**{name: value})  # type: ignore[arg-type]
