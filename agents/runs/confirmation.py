"""The confirmation that a policy is better than what would be served without it, on unseen traffic.

Both policies serve the same traces, drawn from seeds that no training, tuning or comparison
uses, on the engine of the run, in windows as the run had them.  A seed is played at every rate
of the task and gives one pair of mean objectives; the interval of their difference is that of
`statistics`, whose unit is the seed.

Finished traces are kept in a folder, so that an interrupted confirmation goes on where it was.
"""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.analysis.statistics import LEVEL, Estimate, difference
from agents.core.progress import Progress
from agents.core.store import Key, Store, key_of
from agents.core.words import counted
from ewsjf_env import __version__
from ewsjf_env.config import check_range, to_dict
from ewsjf_env.env.episode import Episode
from ewsjf_env.env.reference import Reference
from ewsjf_env.env.task import Task
from ewsjf_env.measure.constraints import margins
from ewsjf_env.measure.objective import Outcome
from ewsjf_env.policy.policy import Policy
from ewsjf_env.seeds import CONFIRMATION
from ewsjf_env.workload import load_workload

ROUNDING = 1e-6  # values that went through an action differ in their last digits
MAX_SEEDS = len(CONFIRMATION)


@dataclass(frozen=True)
class ConfirmationPlan:
    """How much is played.

    Attributes:
        task: engine, traffic, objective and constraints; its `windows` are those of a trace.
        seeds: traces at each rate, [1, 5000]; with one alone there is no interval.
    """

    task: Task
    seeds: int

    def __post_init__(self) -> None:
        check_range("seeds", self.seeds, 1, MAX_SEEDS)

    @property
    def traces(self) -> list[tuple[int, float | None]]:
        """Seed and mean rate of every trace, seed by seed; None: the workload's own rate."""
        rates = self.task.rates_per_s or (None,)
        return [(CONFIRMATION.start + i, rate) for i in range(self.seeds) for rate in rates]


@dataclass(frozen=True)
class Confirmation:
    """What came of it.

    Attributes:
        candidate: mean objective of the policy in question over all traces.
        default: of what would be served without it.
        gain: the paired difference with its 95 % interval.
        violations: share of its windows that violate a constraint, [0, 1].
        default_violations: of the other's.
        seeds: traces at each rate.
    """

    candidate: float
    default: float
    gain: Estimate
    violations: float
    default_violations: float
    seeds: int

    @property
    def better(self) -> bool:
        """True when the whole interval of the difference is above 0, rounding errors apart."""
        return self.gain.bounded and self.gain.low > ROUNDING

    def to_dict(self, plan: ConfirmationPlan) -> dict[str, Any]:
        """Plain values, for a policy's provenance; NaN becomes None."""
        gain = [None if v != v else v for v in dataclasses.astuple(self.gain)]
        return {
            "objective": plan.task.objective.kind,
            "workload": plan.task.workload,
            "rates_per_s": list(plan.task.rates_per_s),
            "first_seed": CONFIRMATION.start,
            "seeds": self.seeds,
            "windows": plan.task.windows,
            "window_s": plan.task.window_s,
            "candidate": self.candidate,
            "default": self.default,
            "gain": {"value": gain[0], "low": gain[1], "high": gain[2], "level": LEVEL},
            "violations": self.violations,
            "default_violations": self.default_violations,
            "better": self.better,
        }

    def __str__(self) -> str:
        gain, level = self.gain, f"{LEVEL:.0%}"
        limits = f"{gain.low:+.3f} to {gain.high:+.3f}" if gain.bounded else "unknown"
        return (
            f"objective {self.candidate:.3f} against {self.default:.3f} of the start: "
            f"{gain.value:+.3f} ({level} interval {limits}, {counted(self.seeds, 'unseen seed')}); "
            f"windows violating {self.violations:.0%} against {self.default_violations:.0%}"
        )


def confirm(
    policy: Policy,
    default: Policy,
    plan: ConfirmationPlan,
    folder: Path,
    progress: Progress,
    jobs: int = 1,
) -> Confirmation:
    """Play both policies on all traces of the plan.

    Args:
        policy: in question.
        default: what would be served without it.
        plan: how much is played.
        folder: what it holds of the same question is not played again.
        progress: wraps the traces as they end, with their number.
        jobs: processes.

    Raises:
        ConfigError: traffic that cannot be drawn or served.
        EngineError: the engine failed.
    """
    tasks = {
        _key(policy, default, plan.task, *trace): functools.partial(
            play_pair, policy, default, plan.task, *trace
        )
        for trace in plan.traces
    }
    rows = Store(folder).every(tasks, jobs, progress)

    def by_seed(arm: str, what: str) -> NDArray[np.float64]:
        values = np.array([row[arm][what] for row in rows], dtype=np.float64)
        return np.asarray(values.reshape(plan.seeds, -1).mean(axis=1))

    ours, theirs = (by_seed(arm, "objective") for arm in _ARMS)
    return Confirmation(
        candidate=float(ours.mean()),
        default=float(theirs.mean()),
        gain=difference(ours, theirs),
        violations=float(by_seed("candidate", "violations").mean()),
        default_violations=float(by_seed("default", "violations").mean()),
        seeds=plan.seeds,
    )


_ARMS = ("candidate", "default")


def play_pair(
    policy: Policy, default: Policy, task: Task, seed: int, rate_per_s: float | None
) -> dict[str, Any]:
    """Both policies on one trace; plain values, the same every time."""
    trace = load_workload(task.workload).draw(seed, task.episode_s, rate_per_s)
    compared = task.reference_policy()
    reference = None if compared is None else Reference(compared, task.build_engine)
    engine = task.build_engine()
    try:
        found: dict[str, Any] = {"seed": seed, "rate_per_s": rate_per_s}
        for name, arm in zip(_ARMS, (policy, default), strict=True):
            found[name] = _play(Episode(engine, reference, arm, trace), task)
        return found
    finally:
        engine.close()
        if reference is not None:
            reference.close()


def _play(episode: Episode, task: Task) -> dict[str, float]:
    """Mean objective and share of violating windows of a policy that is left alone."""
    episode.window({}, task.warmup_s)
    rewards, violations = [], 0
    for _ in range(task.windows):
        window = episode.window({}, task.window_s, task.settle_s)
        outcome = Outcome(window.metrics, window.reference, window.queues)
        rewards.append(task.objective.reward(outcome).total)
        found = margins(task.constraints, window.metrics, window.reference)
        violations += any(margin > 0.0 for margin in found.values())
    return {"objective": float(np.mean(rewards)), "violations": violations / task.windows}


def _key(policy: Policy, default: Policy, task: Task, seed: int, rate_per_s: float | None) -> Key:
    """Of all that decides a result."""
    content = [
        [{k: v for k, v in p.to_dict().items() if k not in ("name", "provenance")}
         for p in (policy, default)],
        {k: v for k, v in to_dict(task).items() if k != "safety"},
        [seed, rate_per_s],
        version("vllm"),
        __version__,
    ]  # fmt: skip
    return key_of(content, f"seed{seed}", "" if rate_per_s is None else f"rate{rate_per_s:g}")
