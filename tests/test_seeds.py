"""Ranges of seeds share nothing: no policy is judged on a draw that it was learnt from."""

from itertools import combinations

import pytest

from ewsjf_env import seeds

RANGES = {name: value for name, value in vars(seeds).items() if isinstance(value, range)}


def test_there_are_four() -> None:
    assert set(RANGES) == {"JUDGED", "CONFIRMATION", "TRAINING", "CAPACITY"}


@pytest.mark.parametrize(("one", "other"), list(combinations(RANGES, 2)))
def test_two_ranges_share_no_seed(one: str, other: str) -> None:
    first, last = sorted((RANGES[one], RANGES[other]), key=lambda r: r.start)
    assert first.stop <= last.start
    assert len(last) > 0
