"""Scores against values worked out by hand from their formulas."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ewsjf_env.scheduling.orders.scoring import (
    TAU_S,
    AuthorsScore,
    NormalisedScore,
    PaperScore,
    PowerScore,
    ResponseRatioScore,
    Scorer,
    SigmoidScore,
    Traffic,
)


@dataclass
class View:
    rank: int = 3
    mean_tokens: float = 400.0
    share: float = 0.25


def traffic(t0: float = 0.1) -> Traffic:
    return Traffic(mean_cost_s=t0, reference_tokens=512.0, longest_tokens=8192.0)


SCORERS: list[Scorer] = [
    PowerScore(0.5, -0.5, 4.0, 0.1, 0.1),
    PowerScore(1.0, 1.0, 1.0),
    NormalisedScore(1.0, 0.2, 0.3, 0.1, 0.5, 0.1),
    PaperScore(1e-4, 1.0, -5e-5, 0.5),
    AuthorsScore(200, 0.5),
    ResponseRatioScore(2.0),
    SigmoidScore(1000.0, 5.0),
]


@pytest.mark.parametrize("scorer", SCORERS)
@given(
    b=st.integers(1, 100_000),
    wait=st.floats(0.0, 1e5),
    more=st.floats(1e-3, 1e4),
    cost=st.floats(1e-3, 100.0),
)
def test_a_longer_wait_never_lowers_a_score(
    scorer: Scorer, b: int, wait: float, more: float, cost: float
) -> None:
    first = scorer.score(b, wait, cost, View(), traffic())
    second = scorer.score(b, wait + more, cost, View(), traffic())
    assert math.isfinite(first)
    assert second >= first


@pytest.mark.parametrize(
    ("x", "power", "transformed"),
    [(math.e, 0.0, 1.0), (4.0, 0.5, 2.0), (4.0, -0.5, 1.0), (7.0, 1.0, 6.0)],
)
def test_power_score_is_box_cox_of_wait_and_cost(
    x: float, power: float, transformed: float
) -> None:
    def score(wait_power: float, wait: float, cost_power: float, cost: float) -> float:
        scorer = PowerScore(wait_power, cost_power, 1.0)
        return scorer.score(100, wait * 0.1 - TAU_S, cost * 0.1, View(), traffic(0.1))

    assert score(power, x, 0.7, 1.0) == pytest.approx(transformed)
    assert score(0.7, 1.0, power, x) == pytest.approx(-transformed)
    assert score(1e-9, x, 0.0, 1.0) == pytest.approx(math.log(x), rel=1e-6)


def test_power_by_hand() -> None:
    score = PowerScore(1.0, 0.0, 2.0, 0.5, 0.3).score(512, 0.95, 0.2, View(), traffic(0.1))
    w = (0.95 + TAU_S) / 0.1
    expected = (w - 1) - 2 * math.log(2.0) + 0.5 * math.log(2.0) + 0.3 * math.log(0.25)
    assert score == pytest.approx(expected)


def test_normalised_by_hand_and_as_hrrn() -> None:
    z = math.log1p(400 / 512) / math.log1p(8192 / 512)
    score = NormalisedScore(1.2, -0.5, 0.3, 0.4, 2.0, 0.5).score(1024, 3.0, 0.5, View(), traffic())
    inner = 1 + (1.2 - 0.5 * z) * 6.0 + (0.3 + 0.4 * z) * math.log1p(2.0)
    assert score == pytest.approx(math.sqrt(0.25) * (512 / 1536) ** 2 * inner)
    plain = NormalisedScore(1.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    assert plain.score(99, 3.0, 0.5, View(), traffic()) == pytest.approx(1 + 6.0)


def test_paper_by_hand_and_its_weights_are_clipped() -> None:
    score = PaperScore(1e-4, 1.0, -5e-5, 0.5).score(99, 4.0, 0.5, View(), traffic())
    expected = 3 / 100 * (1 + 1.04 * 8.0 + 0.48 * math.log(100))
    assert score == pytest.approx(expected)
    clipped = PaperScore(-1.0, 0.0, -1.0, 0.0).score(99, 4.0, 0.5, View(), traffic())
    assert clipped == pytest.approx(3 / 100)


def test_authors_by_hand() -> None:
    score = AuthorsScore(200, 0.5).score(450, 2.0, 9.9, View(), traffic())
    assert score == pytest.approx(2.0 * 200 / 3 * (1 + 0.5 * math.log(451)))


def test_sigmoid_is_nearly_blind_to_length_at_its_published_scale() -> None:
    scorer = SigmoidScore(32_768.0, 5.0)
    short = scorer.score(100, 1.0, 0.1, View(), traffic())
    long = scorer.score(2000, 1.0, 0.1, View(), traffic())
    assert 0 < short - long < 0.01


def test_traffic_follows_the_mean_cost() -> None:
    scales = Traffic(mean_cost_s=1.0, horizon=100)
    for _ in range(2000):
        scales.observe(0.2)
    assert scales.mean_cost_s == pytest.approx(0.2, rel=1e-3)
