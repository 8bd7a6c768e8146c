import numpy as np
import pytest

from agents.bayes.cusum import Cusum
from ewsjf_env.config import ConfigError


def alarms(errors: list[float]) -> list[tuple[int, int]]:
    detector = Cusum()
    found = [(i, detector.add(error)) for i, error in enumerate(errors)]
    return [(i, length) for i, length in found if length is not None]


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_change_is_found_and_dated(sign: float):
    errors = np.random.default_rng(0).standard_normal(200).tolist()
    quiet = errors[:100]
    assert alarms(quiet) == []
    changed = quiet + [sign * 2.5 + e for e in errors[100:120]]
    when, length = alarms(changed)[0]
    assert 101 <= when <= 107
    assert abs((when + 1 - length) - 100) <= 3


def test_false_alarms_are_rare():
    errors = np.random.default_rng(1).standard_normal(4000).tolist()
    assert len(alarms(errors)) <= 8


def test_one_wild_window_is_no_change():
    assert alarms([0.0] * 5 + [1e9] + [0.0] * 20) == []


def test_sums_by_hand():
    detector = Cusum(slack=1.0, threshold=3.0)
    # 0, 1, 2.5: not above 3; then 4 > 3, three errors after the sum last stood at zero
    assert [detector.add(e) for e in (0.5, 2.0, 2.5, 2.5)] == [None, None, None, 3]
    assert detector.add(3.0) is None  # forgotten


@pytest.mark.parametrize("arguments", [{"slack": -1.0}, {"threshold": 0.0}])
def test_bad_settings_are_refused(arguments: dict[str, float]):
    with pytest.raises(ConfigError, match=next(iter(arguments))):
        Cusum(**arguments)
