"""How are many tuning runs played, judged and kept, so that a comparison can be interrupted?

Every run has its folder DIR/runs/<task>/<arm>/seed_<n>; `judged.json` in it is written when the
run is done and judged, and a run that has one of the same settings is not played again.  DIR/judged
has judgements of points, which are the same for all runs of a task.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from joblib import Parallel, delayed

from agents.core.files import write_json
from agents.experiments.tuners.config import ComparisonConfig
from agents.experiments.tuners.judging import RULES, judge, judge_always, judge_curve
from agents.experiments.tuners.summary import DEFAULT
from agents.runs.config import RunConfig
from agents.runs.folder import RunDir
from agents.runs.loop import tune
from agents.runs.session import Session
from agents.runs.timing import read_timings
from ewsjf_env.config import to_dict
from ewsjf_env.parameters import Value

JUDGED = "judged.json"
Progress = Callable[[Iterable[Any], int], Iterator[Any]]


@dataclass(frozen=True)
class Job:
    """One tuning run with its judgement."""

    task: str
    arm: str
    seed: int
    folder: Path

    @property
    def kept(self) -> Path:
        """Folder of judgements that all runs share."""
        return self.folder.parents[3] / "judged"

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.task}/{self.arm}/seed {self.seed}"


def jobs_of(config: ComparisonConfig, arms: Sequence[str], seeds: int, out: Path) -> list[Job]:
    """All runs; those that meet the same traces stand together."""
    return [
        Job(task, arm, seed, out / "runs" / task / arm / f"seed_{seed:04d}")
        for seed in range(seeds)
        for task in config.tasks
        for arm in arms
    ]


def play_all(
    config: ComparisonConfig, jobs: Sequence[Job], workers: int, progress: Progress
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Play and judge what is not done; return all judgements, and reasons of failed runs.

    A worker on another machine, that does not share the folder, keeps the run there; its judgement
    comes back and is kept here, too.
    """
    todo = [job for job in jobs if _judged(config, job) is None]
    failures: dict[str, str] = {}
    if todo:
        tasks = (delayed(_play_or_say)(config, job) for job in todo)
        played = Parallel(n_jobs=min(workers, len(todo)), return_as="generator_unordered")(tasks)
        for job, found in progress(played, len(todo)):
            if isinstance(found, str):
                failures[job.name] = found
            elif _judged(config, job) is None:
                job.folder.mkdir(parents=True, exist_ok=True)
                write_json(job.folder / JUDGED, found)
    done = [_judged(config, job) for job in jobs]
    return [judged for judged in done if judged is not None], failures


def _play_or_say(config: ComparisonConfig, job: Job) -> tuple[Job, dict[str, Any] | str]:
    """The judgement, or why there is none."""
    try:
        return job, play(config, job)
    except Exception as error:  # one bad run must not lose the others: it is reported by name
        return job, " ".join(f"{type(error).__name__}: {error}".split())


def play(config: ComparisonConfig, job: Job) -> dict[str, Any]:
    """Tune, judge, and keep the judgement."""
    run_config = config.run_config(job.task, job.arm, job.seed)
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
                final["judged"] = judge_always(run_config, held_out, served, job.kept)
            else:
                final["judged"] = judge(run_config, held_out, session.agent.recommend, served)

        held_out = config.tasks[job.task].held_out
        tune(run, run_config.windows, conclude=conclude)
        judged = {
            "key": _key(config, job),
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
        write_json(job.folder / JUDGED, judged)
    finally:
        run.close()
    return judged


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
    }


def _curves(
    config: ComparisonConfig, job: Job, run: RunDir, final: dict[str, Value]
) -> dict[str, Any]:
    """Scores of the recommendations on the way, of arms where they are asked for."""
    if job.arm not in config.curve_arms:
        return {}
    task, records, kept = config.tasks[job.task], run.windows(), job.kept
    found = {"curve": judge_curve(run.config, task.held_out, records, final, config.curve, kept)}
    if task.after_jump is not None and task.jump_window is not None:
        start = task.jump_window
        after = [start + n for n in (0, *config.curve)]
        curve = judge_curve(run.config, task.after_jump, records, final, after, kept)
        found["after_jump"] = [{**point, "windows": point["windows"] - start} for point in curve]
    return found


def _key(config: ComparisonConfig, job: Job) -> str:
    """Hash of all that decides a judgement."""
    task = config.tasks[job.task]
    content = [
        RULES,
        config.run_config(job.task, job.arm, job.seed).to_dict(),
        to_dict(task.held_out),
        [task.jump_window, to_dict(task.after_jump)] if job.arm in config.curve_arms else None,
        list(config.curve) if job.arm in config.curve_arms else None,
    ]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _judged(config: ComparisonConfig, job: Job) -> dict[str, Any] | None:
    try:
        judged = json.loads((job.folder / JUDGED).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    whole = isinstance(judged, dict) and {"task", "arm", "seed", "final"} <= judged.keys()
    return judged if whole and judged.get("key") == _key(config, job) else None
