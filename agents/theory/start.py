"""The weights that theory alone would try first.

The task's own traffic (a training draw of lengths and arrivals, its rates), engine settings,
objective and constraints go in; no window is spent.  Predicted J is nearly flat around its best
and the theory is no better than that, so of the points within `TIE` of the best that are
predicted to meet the constraints, the one nearest to the task's own values is taken: where the
theory sees no difference, nothing moves.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
from scipy.stats import qmc

from agents.theory.predictor import AnalyticPrior, Span, burst_index
from ewsjf_env.config import ConfigError
from ewsjf_env.env.task import Task
from ewsjf_env.measure.constraints import margins
from ewsjf_env.measure.objective import Outcome
from ewsjf_env.measure.records import WindowMetrics
from ewsjf_env.measure.traffic import QueueStatistics
from ewsjf_env.parameters import ParameterSpace, Value
from ewsjf_env.policy.policy import Policy
from ewsjf_env.seeds import TRAINING
from ewsjf_env.workload import load_workload

POINTS = 128  # of the first search; a power of two
FINER_POINTS = 32  # of each of two searches round the best so far
FINER_RADII = (0.15, 0.05)  # in every coordinate of the unit cube
TIE = 0.02
SAMPLE = 8192  # requests whose lengths are typical
WINDOWS_AHEAD = 3  # that are predicted: the first ones


@dataclass(frozen=True)
class StartingPoint:
    """What theory says.

    Attributes:
        values: of all tuned parameters; those that theory says nothing of are the task's own.
        objective: predicted J there, mean over rates and paths.
        own_objective: predicted J at the task's own values.
        loads: offered load at each rate; 1 is the capacity.
        moved: False where theory prefers no other values than the task's own.
    """

    values: dict[str, Value]
    objective: float
    own_objective: float
    loads: tuple[float, ...]
    moved: bool


class TaskPrior:
    """Predictions of a task's reward and constraints.

    Attributes:
        weights: the parameters that theory can tell apart.
        loads: see `StartingPoint`.
    """

    def __init__(self, task: Task) -> None:
        """Draw training traffic and work out what no parameter changes.

        Raises:
            ConfigError: the policy has no queues with scores, nothing that is tuned weighs its
                score, or the workload cannot be drawn.
        """
        self._task, self._policy = task, task.start_policy()
        space = task.space()
        names = [p.name for p in space.parameters if not (p.minor or p.named)]
        names = [name for name in names if space[name].scale in ("linear", "log")]
        if not names:
            raise ConfigError(
                f"theory: none of the tuned parameters {list(space.names)} weighs the score of "
                f"policy {task.policy!r}"
            )
        self.weights: ParameterSpace = space.subset(names)
        workload = load_workload(task.workload)
        sample = workload.draw_backlog(TRAINING.start, SAMPLE)
        span = Span(task.warmup_s, WINDOWS_AHEAD * (task.settle_s + task.window_s))
        engine = dataclasses.replace(task.twin().simulated, metrics=task.metric_settings)
        self._priors = []
        for rate in task.rates_per_s or (None,):
            arrival_s = workload.draw(TRAINING.start, task.episode_s, rate).arrival_s
            rate_per_s = len(arrival_s) / task.episode_s if rate is None else rate
            burst = burst_index(arrival_s)
            self._priors.append(AnalyticPrior(engine, sample, rate_per_s, span, burst))
        self.loads = tuple(prior.load for prior in self._priors)
        self._own = self._predicted(self._policy)
        reference = task.reference_policy()
        compared = None if reference is None else self._predicted(reference)
        # A reference that theory cannot predict is replaced by the task's own values.
        self._compared = compared or self._own
        if not self._own:
            raise ConfigError(f"theory: policy {task.policy!r} has no queues with scores")

    def judge(self, values: Mapping[str, Value]) -> tuple[float, float]:
        """Predicted J of some values, and the largest predicted margin; <= 0 is feasible."""
        windows = self._predicted(self._policy.with_parameters(values))
        rewards, worst = [], -math.inf
        task = self._task
        for constraint in task.constraints:
            found = [
                margins((constraint,), window, other)[constraint.name]
                for window, other in zip(windows, self._compared, strict=True)
            ]
            worst = max(worst, fmean(found))
        for window, other in zip(windows, self._compared, strict=True):
            queues = QueueStatistics(window.queues, 0.0, 0.0)
            rewards.append(task.objective.reward(Outcome(window, other, queues)).total)
        return fmean(rewards), worst

    def _predicted(self, policy: Policy) -> list[WindowMetrics]:
        """Over all rates and paths; empty where theory does not know the order."""
        return [w for prior in self._priors for w in prior.predict(policy) or ()]


def starting_point(task: Task) -> StartingPoint:
    """The point that theory would try first; the same for the same task.

    Raises:
        ConfigError: see `TaskPrior`.
    """
    prior = TaskPrior(task)
    space = prior.weights
    found = search(space, prior.judge)
    own = found[0]
    # Own values that break a predicted constraint are compared all the same.
    allowed = max(0.0, min(worst for _, _, worst in found))
    feasible = [f for f in found if f[2] <= allowed]
    best = max(objective for _, objective, _ in feasible)
    tied = [f for f in feasible if f[1] >= best - TIE]
    at = space.to_unit(own[0])
    chosen = min(tied, key=lambda f: float(np.abs(space.to_unit(f[0]) - at).max()))
    values = {**task.space().defaults, **chosen[0]}
    return StartingPoint(values, chosen[1], own[1], prior.loads, chosen is not own)


def start_values(task: Task) -> dict[str, Value] | None:
    """Values of the starting point; None where theory prefers the task's own."""
    point = starting_point(task)
    return point.values if point.moved else None


Judged = tuple[dict[str, Value], float, float]


def search(
    space: ParameterSpace, judge: Callable[[Mapping[str, Value]], tuple[float, float]]
) -> list[Judged]:
    """Judge the defaults, Sobol points of the space, then Sobol points round the best so far."""
    found: list[Judged] = []

    def add(points: Sequence[Mapping[str, Value]]) -> None:
        found.extend((dict(values), *judge(values)) for values in points)

    sobol = qmc.Sobol(len(space), rng=np.random.default_rng(0))
    add([space.defaults, *(space.from_unit(u) for u in sobol.random(POINTS))])
    for radius in FINER_RADII:
        best = max(found, key=lambda f: (f[2] <= 0.0, f[1]))
        center = space.to_unit(best[0])
        low, high = np.clip(center - radius, 0.0, 1.0), np.clip(center + radius, 0.0, 1.0)
        cube = qmc.Sobol(len(space), rng=np.random.default_rng(1)).random(FINER_POINTS)
        add([space.from_unit(low + u * (high - low)) for u in cube])
    return found
