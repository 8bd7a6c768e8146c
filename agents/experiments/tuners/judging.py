"""The judgement of what an agent recommends, on traffic that it has not been tuned on.

The recommendation serves held-out traces through the environment of its task, without a guard
and without learning.  An agent that follows the traffic is asked before every window, as it
would be in service; a static point is the same throughout.  A trace begins under what is
recommended, so that no queue of the start is held against it.  All agents meet the same traces.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from statistics import fmean
from typing import Annotated, Any

from agents.core.store import Result, Store, digest, key_of
from agents.core.window import WindowRecord
from agents.runs.config import RunConfig
from agents.runs.context import Smoother
from ewsjf_env import __version__
from ewsjf_env.config import Count, Positive, Range, settings
from ewsjf_env.env.env import SchedulerTuningEnv
from ewsjf_env.env.registration import REAL_TIME
from ewsjf_env.env.task import Task
from ewsjf_env.parameters import Value
from ewsjf_env.seeds import JUDGED

RULES = 2  # of judging: what older ones have judged is judged again
Recommend = Callable[[Sequence[float]], Mapping[str, Value]]


@settings
class HeldOut:
    """Traffic that judges."""

    seeds: Annotated[int, Range(1, JUDGED.stop)] = 3
    """Traces at each rate; they are drawn from seeds 0, 1, ..., which no tuning run uses."""
    windows: Count = 5
    """Windows of each trace."""
    workload: str | None = None
    """Traffic, such as the rest of a recording; null: the task's."""
    rates_per_s: tuple[Positive, ...] | None = None
    """Mean arrival rates; null: the task's."""

    def task(self, task: Task) -> Task:
        """The task on this traffic."""
        rates = task.rates_per_s if self.rates_per_s is None else self.rates_per_s
        return dataclasses.replace(
            task,
            workload=self.workload or task.workload,
            rates_per_s=rates,
            windows=self.windows,
            trace_pool=0,
        )


def judge(
    config: RunConfig,
    held_out: HeldOut,
    recommend: Recommend,
    start: Mapping[str, Value] | None = None,
) -> Result:
    """Mean objective and violations of a recommendation.

    Args:
        config: of the run.
        held_out: the traffic.
        recommend: what the agent sees of the last window -> values for the next.
        start: in force when a trace begins, as when a server is started with what was
            recommended; None: the values that the run began with.

    Returns:
        `score`: mean objective; `by_trace`: of each trace; `violations`: share of the windows
        that violate a constraint, [0, 1]; `worst`: least objective of a window.
    """
    task = held_out.task(config.task)
    env = SchedulerTuningEnv(task)
    smoother = Smoother(config, env.feature_names)
    by_trace, rewards, violations = [], [], 0
    try:
        for seed in range(held_out.seeds):
            for rate in task.rates_per_s or (None,):
                options: dict[str, Any] = {"trace_seed": seed, "values": dict(start or {})}
                options |= {} if rate is None else {"rate_per_s": rate}
                observation, _ = env.reset(options=options)
                smoother.reset()
                trace = []
                for _ in range(task.windows):
                    smoother.add(observation.tolist())
                    values = recommend(smoother.view)
                    action = env.parameter_space.to_box(values)
                    observation, reward, _, _, info = env.step(action)
                    trace.append(reward)
                    violations += any(m > 0 for m in info["constraints"].values())
                by_trace.append(fmean(trace))
                rewards += trace
    finally:
        env.close()
    return {
        "score": fmean(rewards),
        "by_trace": by_trace,
        "violations": violations / len(rewards),
        "worst": min(rewards),
    }


def judge_always(
    config: RunConfig, held_out: HeldOut, values: Mapping[str, Value], kept: Store | None = None
) -> Result:
    """`judge`, of values that are in force throughout.

    Args:
        config: of the run.
        held_out: the traffic.
        values: complete.
        kept: what was judged before, by any run of the same task: it is not served again where
            time is virtual; None: nothing is kept.
    """

    def judged() -> Result:
        return judge(config, held_out, lambda _: values, values)

    if kept is None or config.task.engine in REAL_TIME:
        return judged()
    content = [RULES, config.task, held_out, dict(values), version("vllm"), __version__]
    return kept.get(key_of(content, "point"), judged)


def judge_curve(
    config: RunConfig,
    held_out: HeldOut,
    records: Sequence[WindowRecord],
    final: Mapping[str, Value],
    windows: Sequence[int],
    kept: Store | None = None,
) -> list[dict[str, Any]]:
    """Scores of what was recommended after so many windows, each served as a static point.

    Args:
        config: of the run.
        held_out: the traffic.
        records: windows of the run: each names what was recommended when it began.
        final: what is recommended after the last.
        windows: numbers of windows after which to look; those beyond the run are left out.
        kept: see `judge_always`.
    """
    known: dict[str, float] = {}
    curve = []
    for done in windows:
        if done > len(records):
            continue
        values = final if done == len(records) else records[done].plan.incumbent
        key = digest(dict(values))
        if key not in known:
            known[key] = judge_always(config, held_out, values, kept)["score"]
        curve.append({"windows": done, "score": known[key]})
    return curve
