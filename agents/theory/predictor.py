"""Predicted window metrics of a policy in closed form.

A saturated batch owes every request a fixed number of seconds (`batch_work.py`), and the waiting
work V follows from load and burstiness alone (`waiting_work.py`).  The order decides only whose
work it is.  A delay-dependent priority serves the queue of the highest score, so scores of waiting
heads stay level at some sigma: with S_i(W) the score of queue i after a wait of W,

    W_i = min(t, S_i^-1(sigma)),    sum over queues of load_i W_i = V,

where t is the time since the start (nobody has waited longer) and load_i W_i the work of the
requests that arrived within W_i.  For S_i = w_i W this is Kleinrock's delay-dependent priority in
heavy traffic, W_i ~ 1/w_i; his formula below that limit is `kleinrock_waits`.  Any other score
increasing in the wait is inverted as it is: the scheduler's own function is asked.

The waits of a path of V over time, the seconds from there to the first token and the ages of those
left at the end make a `WindowMetrics`, which the task's objective and constraints judge as they
judge a real window.  What is not predicted (time per output token, KV usage) is NaN.

Known to be wrong: nobody waits whose score is above sigma from the start, while in an engine such
a request, too, waits for blocks to come free and behind preempted ones.  So where short requests
go first, their p95 comes out at about half (0.6 s of 1.1 to 1.8 s in `paper_mix` at load 1.3), and
among points that all serve them first the ranking is weak.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agents.theory.backlog import waiting_work
from agents.theory.batch import BatchMachine, effective_work, step_delays
from ewsjf_env.engine.simulated.config import SimulatedConfig
from ewsjf_env.engine.virtual import build_virtual
from ewsjf_env.measure.records import WindowMetrics
from ewsjf_env.measure.sample import jain
from ewsjf_env.policy.policy import Policy
from ewsjf_env.scheduling.cost import PrefillCostModel
from ewsjf_env.scheduling.orders.scored import ScoredOrder
from ewsjf_env.scheduling.orders.scoring import Traffic
from ewsjf_env.scheduling.orders.spec import OrderContext
from ewsjf_env.workload import Trace

Floats = NDArray[np.float64]

_PATHS = (np.arange(8) + 0.5) / 8  # of the waiting work, equally likely
_MOMENTS = 32
_WAITS = 40  # at which a score is asked for
_LENGTHS = 25  # limits of classes where there are no queues
_AGES = (np.arange(8) + 0.5) / 8
_DELAYS = np.array([0.1, 0.3, 0.5, 0.7, 0.85, 0.925, 0.975])
_DELAY_WEIGHTS = np.array([0.2, 0.2, 0.2, 0.2, 0.1, 0.05, 0.05])
_BURST_BIN_S = 10.0


def kleinrock_waits(
    loads: Sequence[float], weights: Sequence[float], residual_s: float
) -> list[float]:
    """Mean waits of classes whose score is weight times wait: one server, Poisson arrivals.

    Kleinrock (1964), delay-dependent priorities; exact without preemption.

    Args:
        loads: of each class, > 0, sum below 1.
        weights: of each class, > 0.
        residual_s: mean work in service that an arrival meets, rate E[X^2] / 2, seconds.

    Returns:
        Seconds, in the order of `loads`.
    """
    order = sorted(range(len(weights)), key=lambda i: weights[i])
    waits = [0.0] * len(weights)
    base = residual_s / (1 - math.fsum(loads))
    for place, own in enumerate(order):
        slower, faster = order[:place], order[place + 1 :]
        top = base - sum(loads[i] * waits[i] * (1 - weights[i] / weights[own]) for i in slower)
        bottom = 1 - sum(loads[i] * (1 - weights[own] / weights[i]) for i in faster)
        waits[own] = top / bottom
    return waits


def level_waits(reached: Floats, loads: Floats, work_s: Floats, longest_s: float) -> Floats:
    """Waits of the heads of queues whose scores are level, for given waiting work.

    Args:
        reached: S_i^-1(sigma), the wait at which queue i has the score sigma, for ascending sigma,
            shape (i, g), seconds; 0 where it has a higher score from the start.
        loads: work that arrives at each queue a second, shape (i,).
        work_s: waiting work, shape (k,), seconds.
        longest_s: no head has waited longer.

    Returns:
        Seconds, shape (i, k).
    """
    waits = np.minimum(reached, longest_s)
    held = loads @ waits
    return np.array([np.interp(work_s, held, row) for row in waits])


@dataclass(frozen=True)
class Span:
    """Traffic starts at 0, an engine is empty then, and a window is measured.

    Attributes:
        warmup_s: before the window, >= 0.
        window_s: of the window, > 0.
    """

    warmup_s: float
    window_s: float


class AnalyticPrior:
    """Predictions for one traffic at one rate on one engine.

    Attributes:
        load: offered work a second; 1 is the capacity.
        capacity_per_s: requests/s that first come first served sustains, by the closed form.
    """

    def __init__(
        self, config: SimulatedConfig, sample: Trace, rate_per_s: float, span: Span, burst: float
    ) -> None:
        """Work out what no order changes.

        Args:
            config: the engine, or the twin of a real one.
            sample: requests whose lengths are typical, at least some hundreds.
            rate_per_s: offered, > 0.
            span: what is predicted.
            burst: index of the arrivals, see `burst_index`.
        """
        self.span, self._rate, self._settings = span, rate_per_s, config.metrics
        prompt = np.minimum(sample.prompt_tokens, config.max_model_len - 1).astype(np.float64)
        output = np.minimum(sample.output_tokens, config.max_model_len - prompt).astype(np.float64)
        machine = BatchMachine.of(config)
        work = effective_work(machine, prompt, output)
        self.capacity_per_s = work.capacity_per_s
        self.load = rate_per_s / work.capacity_per_s
        mean_s, spread = float(work.seconds.mean()), float(work.seconds.var())
        self._moments = np.linspace(0.0, span.warmup_s + span.window_s, _MOMENTS)
        variance = rate_per_s * (spread + burst * mean_s**2)
        self._waiting = waiting_work(self.load, work.batch_s, variance, self._moments, _PATHS)
        served = min(rate_per_s, work.capacity_per_s)
        self._delays = step_delays(machine, prompt, served, _DELAYS)
        self._prompt, self._output, self._work = prompt, output, work.seconds
        engine = build_virtual(config)
        self._prefill_s = np.array([engine.prefill_cost_s(int(b)) for b in prompt])
        prior = engine.latency.cost_prior(config.max_num_batched_tokens)
        self._cost_s = PrefillCostModel(prior).cost_s

    def predict(self, policy: Policy) -> list[WindowMetrics] | None:
        """The window under a policy, on equally likely paths of the waiting work.

        None: the policy's order is neither one of queues with scores nor first come first served.
        """
        classes = _Classes(policy, self._prompt, self._output, self._work, self._prefill_s)
        waits_s = np.concatenate([[0.0], np.geomspace(0.02, self._moments[-1], _WAITS)])
        scores = self._scores(policy, classes, waits_s)
        if scores is None:
            return None
        sigma = np.unique(scores)
        reached = np.array([np.interp(sigma, row, waits_s, left=0.0) for row in scores])
        loads = self._rate * classes.shares * classes.work_s
        waits = np.empty((len(_PATHS), _MOMENTS, len(classes.shares)))
        for index, moment_s in enumerate(self._moments.tolist()):
            waits[:, index] = level_waits(reached, loads, self._waiting[:, index], moment_s).T
        return [self._window(path, classes, policy.partition.queues) for path in waits]

    def _scores(self, policy: Policy, classes: _Classes, waits_s: Floats) -> Floats | None:
        if policy.order == "fcfs":
            return np.tile(waits_s, (len(classes.shares), 1))
        traffic = Traffic(mean_cost_s=float(self._prefill_s.mean()))
        context = OrderContext(self._cost_s, traffic)
        order = policy.spec.build(policy.parameters, policy.partition, context)
        if not isinstance(order, ScoredOrder):
            return None
        heads = [round(b) for b in classes.prompt]
        return np.array([[order.urgency(b, float(w)) for w in waits_s] for b in heads])

    def _window(self, path: Floats, classes: _Classes, queues: int) -> WindowMetrics:
        """Metrics of one path of waits, shape (t, i)."""
        span, settings, arrival_per_s = self.span, self._settings, self._rate * classes.shares
        inside = path[np.searchsorted(self._moments, span.warmup_s, side="right") - 1 :]
        gap_s = span.window_s / (len(inside) - 1)
        # A head's wait grows by less than the time that passes by what its queue was served.
        served = np.maximum(0.0, gap_s - np.diff(inside, axis=0)) * arrival_per_s
        waited = (inside[1:] + inside[:-1]) / 2 + classes.prefill_s
        ttft = np.concatenate(
            [
                (waited + self._delays[:, None, None]).reshape(-1, len(classes.shares)),
                inside[-1] * _AGES[:, None],
            ]
        )
        left = arrival_per_s * inside[-1]
        number = np.concatenate(
            [
                (served * _DELAY_WEIGHTS[:, None, None]).reshape(-1, len(classes.shares)),
                np.tile(left / len(_AGES), (len(_AGES), 1)),
            ]
        )
        short = classes.prompt <= settings.short_max_tokens
        long = classes.prompt > settings.long_min_tokens
        every = np.ones(len(classes.shares), dtype=bool)
        overdue_s = np.maximum(
            settings.overdue_floor_s, settings.overdue_cost_factor * classes.prefill_s
        )
        in_time = (ttft <= settings.ttft_slo_s) * number
        total, finished = float(number.sum()), float(served.sum())
        waits, slow = _Sample(ttft, number), _Sample(ttft / classes.prefill_s, number)
        mean, p50, p95, p99, most = waits.of(every, 0.5, 0.95, 0.99, 1 - 1 / (total + 2))
        short_mean, short_p95, short_p99 = waits.of(short, 0.95, 0.99)
        long_mean, long_p95, long_p99 = waits.of(long, 0.95, 0.99)
        slow_mean, slow_p99 = slow.of(every, 0.99)
        groups = [slow.of(g)[0] for g in (short, ~(short | long), long) if g.any()]
        output_per_s = float((served @ classes.output).sum()) / span.window_s
        prompt_per_s = float((served @ classes.prompt).sum()) / span.window_s
        return WindowMetrics(
            window_s=span.window_s,
            arrivals=round(self._rate * span.window_s),
            finished=round(finished),
            outstanding=round(float(left.sum())),
            output_tokens_per_s=output_per_s,
            total_tokens_per_s=output_per_s + prompt_per_s,
            requests_per_s=finished / span.window_s,
            goodput_requests_per_s=float(in_time[: -len(_AGES)].sum()) / span.window_s,
            ttft_mean_s=mean,
            ttft_p50_s=p50,
            ttft_p95_s=p95,
            ttft_p99_s=p99,
            ttft_short_mean_s=short_mean,
            ttft_short_p95_s=short_p95,
            ttft_short_p99_s=short_p99,
            ttft_long_mean_s=long_mean,
            ttft_long_p95_s=long_p95,
            ttft_long_p99_s=long_p99,
            slowdown_mean=slow_mean,
            slowdown_p99=slow_p99,
            slowdown_long_p95=slow.of(long, 0.95)[1],
            tpot_p95_s=math.nan,
            e2e_p95_s=math.nan,
            wait_max_s=most,
            jain_slowdown=jain(groups),
            preemptions=0,
            kv_usage_mean=math.nan,
            prefix_hit_rate=math.nan,
            overdue_share=float(((ttft > overdue_s) * number).sum()) / total,
            queues=queues,
            scheduler_us_per_step=None,
            exact=False,
        )


class _Classes:
    """The queues of a policy that have traffic, as arrays of shape (i,).

    An order without a partition weighs every request by its own length: classes of like lengths.
    """

    def __init__(
        self, policy: Policy, prompt: Floats, output: Floats, work_s: Floats, prefill_s: Floats
    ) -> None:
        cuts = np.geomspace(prompt.min(), prompt.max(), _LENGTHS)[1:-1]
        if policy.spec.partitioned:
            cuts = np.array(policy.partition.cuts or (math.inf,))
        _, index, count = np.unique(
            np.searchsorted(cuts, prompt), return_inverse=True, return_counts=True
        )
        self.shares = count / len(prompt)

        def mean(values: Floats) -> Floats:
            return np.asarray(np.bincount(index, values) / count)

        self.prompt, self.output = mean(prompt), mean(output)
        self.work_s, self.prefill_s = mean(work_s), mean(prefill_s)


def burst_index(arrival_s: Floats) -> float:
    """Variance over mean of the arrivals in bins of 10 s, at least 0.1; 1 for Poisson.

    Args:
        arrival_s: ascending, seconds; fewer than ten bins count as Poisson.
    """
    bins = int(arrival_s[-1] // _BURST_BIN_S) if len(arrival_s) else 0
    if bins < 10:
        return 1.0
    counts = np.histogram(arrival_s, bins, (0.0, bins * _BURST_BIN_S))[0]
    return max(0.1, float(counts.var() / counts.mean()))


class _Sample:
    """Weighted values, sorted once, of which means and quantiles by queue are asked."""

    def __init__(self, values: Floats, weights: Floats) -> None:
        """Both of shape (n, i), i queues."""
        order = np.argsort(values, axis=None)
        self._values, self._weights = values.ravel()[order], weights.ravel()[order]
        self._queue = order % values.shape[1]

    def of(self, queues: NDArray[np.bool_], *quantiles: float) -> list[float]:
        """Mean and quantiles over some queues, shape (i,); NaN where nothing has weight."""
        reached = np.cumsum(self._weights * queues[self._queue])
        total = float(reached[-1])
        if not total > 0:
            return [math.nan] * (1 + len(quantiles))
        mean = float(self._values @ np.diff(reached, prepend=0.0)) / total
        places = np.searchsorted(reached, np.array(quantiles) * total)
        return [mean, *self._values[places.clip(max=len(reached) - 1)].tolist()]
