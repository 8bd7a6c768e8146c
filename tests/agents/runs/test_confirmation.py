"""A policy against the default on unseen traffic: paired, resumable, the same every time."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agents.analysis.statistics import difference
from agents.runs.confirmation import ConfirmationPlan, confirm, play_pair
from ewsjf_env.config import ConfigError
from ewsjf_env.engine.fake import FakeEngine
from ewsjf_env.env.task import load_tuning
from ewsjf_env.seeds import CONFIRMATION, TRAINING
from ewsjf_env.workload import load_workload
from tests.agents.run_folders import TASK

TWO_RATES = load_tuning({**TASK, "rates_per_s": [3.0, 9.0], "windows": 2})
DEFAULT = TWO_RATES.start_policy()
OPTIMUM = FakeEngine(TWO_RATES.engine_settings)


def better() -> Any:
    """The default with the best values of what is tuned."""
    OPTIMUM.install(DEFAULT)
    OPTIMUM.reset(load_workload("mixed").draw(1, 10.0, 3.0))
    best = OPTIMUM.optimum()
    return DEFAULT.with_parameters({n: best[n] for n in TASK["tuned"]}, "better")


class Counted:
    """Progress that counts what is played, and may stop early as Ctrl-C does."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.played = 0
        self.stop_after = stop_after

    def __call__(self, results: Iterable[Any], total: int) -> Iterator[Any]:
        for result in results:
            if self.played == self.stop_after:
                raise KeyboardInterrupt
            self.played += 1
            yield result


def test_the_better_policy_is_confirmed_and_the_interval_is_that_of_the_seeds(
    tmp_path: Path,
) -> None:
    plan = ConfirmationPlan(TWO_RATES, seeds=4)
    result = confirm(better(), DEFAULT, plan, tmp_path / "store", Counted())
    files = sorted((tmp_path / "store").iterdir(), key=lambda path: path.name)
    rows = [json.loads(path.read_text()) for path in files]
    starts = [row["seed"] - CONFIRMATION.start for row in rows]
    assert starts == [0, 0, 1, 1, 2, 2, 3, 3]
    assert [row["rate_per_s"] for row in rows] == [3.0, 9.0] * 4
    ours, theirs = (
        np.array([row[arm]["objective"] for row in rows]).reshape(4, 2).mean(axis=1)
        for arm in ("candidate", "default")
    )
    assert result.gain == difference(ours, theirs)
    assert result.better
    assert result.candidate > result.default
    swapped = confirm(DEFAULT, better(), plan, tmp_path / "other", Counted())
    assert not swapped.better
    assert swapped.gain.high < 0.0


def test_its_seeds_are_apart_from_those_of_training() -> None:
    plan = ConfirmationPlan(TWO_RATES, seeds=5000)
    seeds = {seed for seed, _ in plan.traces}
    assert max(seeds) < TRAINING.start
    with pytest.raises(ConfigError, match="seeds: 5001 is outside"):
        ConfirmationPlan(TWO_RATES, seeds=5001)
    with pytest.raises(ConfigError, match="seeds: 0 is outside"):
        ConfirmationPlan(TWO_RATES, seeds=0)


def test_one_seed_or_the_default_itself_confirm_nothing(tmp_path: Path) -> None:
    alone = ConfirmationPlan(TWO_RATES, seeds=1)
    result = confirm(better(), DEFAULT, alone, tmp_path / "store", Counted())
    assert result.candidate > result.default
    assert not result.better
    assert json.loads(json.dumps(result.to_dict(alone)))["gain"]["low"] is None
    same = confirm(DEFAULT, DEFAULT, ConfirmationPlan(TWO_RATES, 3), tmp_path / "same", Counted())
    assert same.gain.value == 0.0
    assert not same.better


def test_an_interrupted_confirmation_goes_on(tmp_path: Path) -> None:
    plan, store = ConfirmationPlan(TWO_RATES, seeds=3), tmp_path / "store"
    with pytest.raises(KeyboardInterrupt):
        confirm(better(), DEFAULT, plan, store, Counted(stop_after=4))
    damaged = next(iter(sorted(store.iterdir())))
    damaged.write_text(damaged.read_text()[:40])
    again = Counted()
    result = confirm(better(), DEFAULT, plan, store, again)
    assert again.played == 2
    whole = Counted()
    assert confirm(better(), DEFAULT, plan, tmp_path / "new", whole) == result
    assert whole.played == 6
    more = Counted()
    confirm(better(), DEFAULT, ConfirmationPlan(TWO_RATES, seeds=4), store, more)
    assert more.played == 2


def test_another_question_is_played_anew(tmp_path: Path) -> None:
    plan, store = ConfirmationPlan(TWO_RATES, seeds=2), tmp_path / "store"
    confirm(better(), DEFAULT, plan, store, Counted())
    other = Counted()
    confirm(better().with_parameters({"k": 9.0}), DEFAULT, plan, store, other)
    assert other.played == 4
    renamed = Counted()
    confirm(better().with_parameters({}, "another name"), DEFAULT, plan, store, renamed)
    assert renamed.played == 0


def test_two_processes_find_what_one_does(tmp_path: Path) -> None:
    plan = ConfirmationPlan(TWO_RATES, seeds=2)
    one = confirm(better(), DEFAULT, plan, tmp_path / "one", Counted())
    assert confirm(better(), DEFAULT, plan, tmp_path / "two", Counted(), jobs=2) == one


@pytest.mark.slow
def test_on_the_simulated_engine() -> None:
    task = load_tuning(
        {"rates_per_s": [5.0], "windows": 1, "window_s": 10.0, "settle_s": 2.0, "warmup_s": 5.0}
    )
    start = task.start_policy()
    other = start.with_parameters({"mu": 0.0, "k": 50.0})
    result = play_pair(other, start, task, CONFIRMATION.start, 5.0)
    assert result["candidate"] != result["default"]
    assert result == play_pair(other, start, task, CONFIRMATION.start, 5.0)
