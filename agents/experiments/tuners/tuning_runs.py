"""Tuning runs of a comparison: played, judged and kept, so that it can be interrupted.

Every run has its folder DIR/runs/<task>/<arm>/seed_<n>.  Its judgement is a result of the store
DIR/judged: a run that has one of the same settings is not played again.  The store has judgements
of points, too, which are the same for all runs of a task.
"""

from __future__ import annotations

import functools
import math
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from agents.core.progress import Progress
from agents.core.store import Key, Result, Store, key_of
from agents.experiments.tuners.config import ComparisonConfig
from agents.experiments.tuners.judging import RULES, judge, judge_always, judge_curve
from agents.experiments.tuners.summary import DEFAULT
from agents.runs.config import RunConfig
from agents.runs.folder import RunDir
from agents.runs.loop import tune
from agents.runs.session import Session
from agents.runs.timing import read_timings
from ewsjf_env.measure.objective import METRIC_NAMES
from ewsjf_env.measure.records import WindowMetrics
from ewsjf_env.parameters import Value


@dataclass(frozen=True)
class TuningRun:
    """One tuning run with its judgement, in the folder `out` of its comparison."""

    task: str
    arm: str
    seed: int
    out: Path

    @property
    def folder(self) -> Path:
        """Of the run itself."""
        return self.out / "runs" / self.task / self.arm / f"seed_{self.seed:04d}"

    @property
    def judged(self) -> Store:
        """The judgements, which all runs share."""
        return Store(self.out / "judged")

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.task}/{self.arm}/seed {self.seed}"


def runs_of(
    config: ComparisonConfig, arms: Sequence[str], seeds: int, out: Path
) -> list[TuningRun]:
    """All runs; those that meet the same traces stand together."""
    return [
        TuningRun(task, arm, seed, out)
        for seed in range(seeds)
        for task in config.tasks
        for arm in arms
    ]


def play_all(
    config: ComparisonConfig, runs: Sequence[TuningRun], workers: int, progress: Progress
) -> tuple[list[Result], dict[str, str]]:
    """Play and judge what is not done; all judgements, and reasons of failed runs by name.

    A worker on another machine, that does not share the folder, keeps the run there; its judgement
    comes back and is kept here.
    """
    if not runs:
        return [], {}
    keys = {key_of_judgement(config, run): run for run in runs}
    tasks = {key: functools.partial(play, config, run) for key, run in keys.items()}
    judged, failures = runs[0].judged.get_all(tasks, workers, progress)
    return list(judged.values()), {keys[key].name: why for key, why in failures.items()}


def play(config: ComparisonConfig, job: TuningRun) -> Result:
    """Tune, and judge what comes of it."""
    run_config = config.run_config(job.task, job.arm, job.seed)
    held_out = config.tasks[job.task].held_out
    run = _open(job.folder, run_config)
    started = time.perf_counter()
    try:
        before = len(run.windows())
        final: dict[str, Any] = {}

        def conclude(session: Session) -> None:
            final["tuned_s"] = time.perf_counter() - started
            final["recommendation"] = session.recommendation()
            served = final["recommendation"]
            if run_config.agent == DEFAULT:  # the same for every seed
                final["judged"] = judge_always(run_config, held_out, served, job.judged)
            else:
                final["judged"] = judge(run_config, held_out, session.agent.recommend, served)

        tune(run, run_config.windows, conclude=conclude)
        return {
            "task": job.task,
            "arm": job.arm,
            "agent": run_config.agent,
            "seed": job.seed,
            **_online(run, run_config),
            "final": final["judged"],
            "recommendation": final["recommendation"],
            **_curves(config, job, run, final["recommendation"]),
            "tuned_wall_s": final["tuned_s"] if before == 0 else None,
        }
    finally:
        run.close()


def _open(folder: Path, config: RunConfig) -> RunDir:
    """Continue the run in a folder; one of other settings is replaced."""
    if (folder / "config.yaml").exists():
        run = RunDir.open(folder, lock=True)
        if run.config == config:
            return run
        run.close()
        shutil.rmtree(folder)
    return RunDir.create(folder, config)


def _online(run: RunDir, config: RunConfig) -> dict[str, Any]:
    """What users felt while the arm was tuning."""
    records = run.windows()
    served = [r.score.reward for r in records if r.served.failure is None]
    seconds = [timing.agent_s for timing in read_timings(run.path).values()]
    return {
        "windows": len(records),
        "rewards": [r.score.reward for r in records],
        "online_mean": fmean(served),
        "worst_window": min(served),
        "violating": sum(r.score.violation for r in records) / len(records),
        "violating_windows": [r.score.violation for r in records],
        "void": sum(r.agent.void for r in records),
        "failed": sum(r.served.failure is not None for r in records),
        "tuner_s_per_window": fmean(seconds) if seconds else None,
        "metrics": metric_means([r.metrics for r in records if r.metrics is not None]),
    }


def metric_means(windows: Sequence[WindowMetrics]) -> dict[str, float | None]:
    """The mean of every metric over the windows that measured it; None where none did."""
    found: dict[str, float | None] = {}
    for name in METRIC_NAMES:
        values = [float(getattr(window, name)) for window in windows]
        known = [value for value in values if not math.isnan(value)]
        found[name] = fmean(known) if known else None
    return found


def _curves(
    config: ComparisonConfig, job: TuningRun, run: RunDir, final: dict[str, Value]
) -> dict[str, Any]:
    """Scores of the recommendations on the way, of arms where they are asked for."""
    if job.arm not in config.curve_arms:
        return {}
    task, records, kept = config.tasks[job.task], run.windows(), job.judged
    found = {"curve": judge_curve(run.config, task.held_out, records, final, config.curve, kept)}
    if task.after_jump is not None and task.jump_window is not None:
        start = task.jump_window
        after = [start + n for n in (0, *config.curve)]
        curve = judge_curve(run.config, task.after_jump, records, final, after, kept)
        found["after_jump"] = [{**point, "windows": point["windows"] - start} for point in curve]
    return found


def key_of_judgement(config: ComparisonConfig, job: TuningRun) -> Key:
    """The key of a run's judgement: all that decides it."""
    task = config.tasks[job.task]
    curves = None
    if job.arm in config.curve_arms:
        curves = [task.jump_window, task.after_jump, config.curve]
    run_config = config.run_config(job.task, job.arm, job.seed).to_dict()
    content = [RULES, run_config, task.held_out, curves]
    return key_of(content, job.task, job.arm, f"seed{job.seed}")
