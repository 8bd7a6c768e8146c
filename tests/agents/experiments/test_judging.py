"""Recommendations are judged on traffic that nobody was tuned on."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from agents.core.store import Store
from agents.experiments.tuners.judging import HeldOut, judge, judge_always, judge_curve
from agents.runs.config import make_run_config
from ewsjf_env.env.env import SchedulerTuningEnv
from tests.agents.experiments.comparisons import ENV


def test_the_start_values_score_nothing() -> None:
    run = make_run_config("default", ENV)
    found = judge(run, HeldOut(seeds=2, windows=3), lambda _: run.task.space().defaults)
    assert found["score"] == pytest.approx(0.0, abs=1e-6)
    assert len(found["by_trace"]) == 2
    assert found["violations"] == 0.0
    assert found == judge(run, HeldOut(seeds=2, windows=3), lambda _: run.task.space().defaults)


def test_what_is_recommended_serves_a_trace_from_its_beginning() -> None:
    seen = []

    class Spy(SchedulerTuningEnv):
        def reset(self, **options: Any) -> Any:
            found = super().reset(**options)
            seen.append(found[1]["parameters"]["lambda"])
            return found

    run = make_run_config("default", ENV)
    best = {**run.task.space().defaults, "lambda": 1.0}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("agents.experiments.tuners.judging.SchedulerTuningEnv", Spy)
        judge(run, HeldOut(seeds=2, windows=1), lambda _: best, best)
        judge(run, HeldOut(seeds=1, windows=1), lambda _: best)
    assert seen == [1.0, 1.0, run.task.space().defaults["lambda"]]


def test_held_out_traces_are_not_those_of_tuning() -> None:
    seen = []
    run = make_run_config("default", ENV)

    class Spy(SchedulerTuningEnv):
        def reset(self, **options: Any) -> Any:
            seen.append(options["options"]["trace_seed"])
            return super().reset(**options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("agents.experiments.tuners.judging.SchedulerTuningEnv", Spy)
        judge(run, HeldOut(seeds=3, windows=1), lambda _: run.task.space().defaults)
    assert seen == [0, 1, 2]


def test_a_curve_judges_what_was_recommended_on_the_way() -> None:
    run = make_run_config("random", ENV)
    space = run.task.space()
    best = {**space.defaults, "lambda": 1.0}
    incumbents = (space.defaults, space.defaults, best)
    records: Any = [SimpleNamespace(plan=SimpleNamespace(incumbent=i)) for i in incumbents]
    held_out = HeldOut(seeds=1, windows=2)
    curve = judge_curve(run, held_out, records, best, [1, 2, 3, 9])
    assert [point["windows"] for point in curve] == [1, 2, 3]
    served = judge(run, held_out, lambda _: best, best)["score"]
    assert [p["score"] for p in curve] == pytest.approx([0.0, served, served], abs=1e-6)


def test_a_point_is_judged_once(tmp_path: Path) -> None:
    run = make_run_config("random", ENV)
    best = {**run.task.space().defaults, "lambda": 1.0}
    held_out, kept = HeldOut(seeds=1, windows=2), Store(tmp_path / "judged")
    served = judge_always(run, held_out, best, kept)
    assert served == judge(run, held_out, lambda _: best, best)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("agents.experiments.tuners.judging.judge", None)
        assert judge_always(make_run_config("tpe", ENV), held_out, best, kept) == served
        (path,) = kept.folder.iterdir()
        path.write_text("{}")
        with pytest.raises(TypeError):  # it is judged again
            judge_always(run, held_out, best, kept)
        for traffic, values in (
            (HeldOut(seeds=2, windows=2), best),
            (held_out, {**best, "lambda": 0.5}),
        ):
            with pytest.raises(TypeError):  # nothing is known of them
                judge_always(run, traffic, values, kept)
