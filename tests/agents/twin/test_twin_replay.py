"""What a twin replays, and how fast its machine is."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from agents.twin import replay
from agents.twin.blocks import Fit, recorded_block
from agents.twin.replay import Replay, Replayer, serve
from agents.twin.speed import SpeedFit, compare, fit_speed, perturbed, scaled
from ewsjf_env.engine.simulated.latency import LatencyModel
from ewsjf_env.env.task import Task, load_tuning
from ewsjf_env.measure.records import RequestRecord
from tests.agents.twin.twin_records import FAKE, ROWS, SIMULATED, recorded, segment

# -- replays -------------------------------------------------------------------------------------


def replay_of(task: Task, values: Mapping[str, Any], rows: list[RequestRecord]) -> Replay:
    block = recorded_block([segment(recorded(rows))], task.settle_s, False)
    return Replay(block, task.start_policy(), (dict(values),))


def windows_of(results: Sequence[replay.Result | None]) -> list[Any]:
    """As plain values: a NaN is equal to itself there."""
    return [None if r is None else r.to_dict()["windows"] for r in results]


def test_a_replay_repeats_itself_and_depends_on_its_values() -> None:
    task = load_tuning(SIMULATED)
    first = serve(task, replay_of(task, {"k": 2.0}, ROWS))
    again = serve(task, replay_of(task, {"k": 2.0}, ROWS))
    assert windows_of([first]) == windows_of([again])
    assert replay_of(task, {"k": 2.0}, ROWS).key == replay_of(task, {"k": 2.0}, ROWS).key
    assert replay_of(task, {"k": 2.0}, ROWS).key != replay_of(task, {"k": 3.0}, ROWS).key
    plain = json.loads(json.dumps(first.to_dict()))
    assert replay.Result.from_dict(plain).to_dict() == first.to_dict()


def test_nothing_is_replayed_twice_not_even_after_a_kill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = load_tuning(FAKE)
    replays = [replay_of(task, {"lambda": x}, ROWS) for x in (0.1, 0.2)]
    found = Replayer(task, 0, tmp_path).results(replays)
    path = tmp_path / replay.RESULTS
    path.write_bytes(path.read_bytes()[:-20])  # killed while it wrote
    served = []
    monkeypatch.setattr(
        replay, "_try", lambda task, replay: served.append(replay) or serve(task, replay)
    )
    again = Replayer(task, 0, tmp_path).results(replays)
    assert windows_of(again) == windows_of(found)
    assert len(served) == 1
    Replayer(task, 0, kept=tmp_path).results(replays)
    assert len(served) == 1


def test_other_processes_say_the_same() -> None:
    task = load_tuning(FAKE)
    replays = [replay_of(task, {"lambda": x}, ROWS) for x in (0.1, 0.2, 0.3)]
    beside = Replayer(task, 2)
    try:
        there = beside.results(replays)
    finally:
        beside.close()
    here = Replayer(task, 0).results(replays)
    assert windows_of(there) == windows_of(here)


def test_a_killed_process_is_noticed_and_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """As when memory runs out: nobody waits for it for ever."""
    monkeypatch.setattr(replay, "LOOK_S", 0.1)
    task = load_tuning(FAKE)
    beside = Replayer(task, 1)
    one, two, three = (replay_of(task, {"lambda": x}, ROWS) for x in (0.1, 0.2, 0.3))
    try:
        first = beside.results([one])
        (worker,) = beside._pool._processes.values()
        os.kill(worker.pid, signal.SIGSTOP)  # so that it is at it when it is killed
        threading.Timer(0.5, os.kill, (worker.pid, signal.SIGKILL)).start()
        with pytest.warns(UserWarning, match="a process of its replays was killed"):
            found = [*first, *beside.results([two])]
        (worker,) = beside._pool._processes.values()
        os.kill(worker.pid, signal.SIGKILL)  # while it had nothing to do
        time.sleep(0.5)
        with pytest.warns(UserWarning, match="a process of its replays was killed"):
            found += beside.results([three])
    finally:
        beside.close()
    assert windows_of(found) == windows_of(Replayer(task, 0).results([one, two, three]))


# -- the machine's speed -------------------------------------------------------------------------


def test_the_speed_is_found_in_a_few_replays() -> None:
    tried = []

    def replay(speed: float) -> SpeedFit:
        tried.append(speed)
        bias = 4.0 * (math.log(0.83) - math.log(speed))
        return SpeedFit(speed, bias, abs(bias))

    found = fit_speed(replay, replay(1.0))
    assert found.speed == pytest.approx(0.83, rel=0.01)
    assert len(tried) <= 5


def test_latencies_are_compared_window_by_window() -> None:
    off = compare([Fit(2.0, 0.04)], [Fit(1.0, 0.02)], 1.0)
    assert (off.bias, off.error) == (pytest.approx(math.log(2.0)), pytest.approx(math.log(2.0)))
    assert math.isnan(compare([Fit(math.nan, math.nan)], [Fit(1.0, 1.0)], 1.0).error)


def test_a_wrong_latency_model_is_wrong_as_asked() -> None:
    roofline = LatencyModel.load("llama2-13b_a100-80g")
    right = dataclasses.replace(
        roofline, measured=dataclasses.replace(roofline.coefficients, launch_s=0.01)
    )
    wrong = perturbed(right, 0.2, 3)
    ratios = [
        getattr(wrong.coefficients, f.name) / getattr(right.coefficients, f.name)
        for f in dataclasses.fields(right.coefficients)
        if f.name != "captured_tokens"
    ]
    assert len(ratios) == 6
    for other in (wrong, scaled(right, 2.0)):  # a number of tokens takes no time
        assert other.coefficients.captured_tokens == right.coefficients.captured_tokens
    assert all(0.8 <= r <= 1.2 for r in ratios)
    assert max(ratios) - min(ratios) > 0.05
    assert wrong == perturbed(right, 0.2, 3)
    assert scaled(right, 2.0).step_s(100, 4, 900, 10.0) == pytest.approx(
        right.step_s(100, 4, 900, 10.0) / 2.0
    )
