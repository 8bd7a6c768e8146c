"""Scorers: the urgency of the head of a queue.  Larger is sooner.

Notation (ALGORITHM.md's and the paper's):
    b   prompt tokens of the head            W   seconds it has waited
    c   C(b), prefill cost in seconds        m   mean prompt tokens of its queue
    D   share of arrivals its queue got      q   number of queues - index (shorter = larger)
    t0  running mean of C over arrivals      b0  reference length in tokens

A scorer is a small frozen dataclass of weights with one method,
`score(b, wait_s, cost_s, queue, traffic) -> float`.  It must be pure: the same arguments give
the same number, and within one scheduling step `wait_s` is taken from one clock stamp.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

TAU_S = 0.05  # added to every wait, so that a request that has just arrived has a score
MINIMUM_SHARE = 1e-6
REFERENCE_TOKENS = 512.0  # b0, unless another one is asked for


class QueueView(Protocol):
    """What a scorer may know about the head's queue."""

    rank: int  # number of queues - index, >= 1; the shortest queue has the largest
    mean_tokens: float

    @property
    def share(self) -> float:
        """Share of recent arrivals, 0 to 1."""
        ...


class Traffic:
    """Slowly moving scales of the traffic, updated once an arrival.

    Attributes:
        mean_cost_s: t0, a running mean of C(b): plain for the first `horizon` arrivals, then
            exponential with weight 1/horizon.
        count: arrivals that the mean is made of, at most `horizon`.
        reference_tokens: b0.
        longest_tokens: Lmax, the model's length limit.
    """

    __slots__ = ("count", "horizon", "longest_tokens", "mean_cost_s", "reference_tokens")

    def __init__(
        self,
        mean_cost_s: float = 0.1,
        reference_tokens: float = REFERENCE_TOKENS,
        longest_tokens: float = 8192.0,
        horizon: int = 500,
    ) -> None:
        self.mean_cost_s = mean_cost_s
        self.reference_tokens = reference_tokens
        self.longest_tokens = longest_tokens
        self.horizon = horizon
        self.count = 20  # the prior mean weighs as much as twenty arrivals

    def observe(self, cost_s: float) -> None:
        """Count one arrival of prefill cost `cost_s` seconds."""
        self.count = min(self.count + 1, self.horizon)
        self.mean_cost_s += (cost_s - self.mean_cost_s) / self.count


class Scorer(Protocol):
    """The interface of all scores below."""

    def score(
        self, b: int, wait_s: float, cost_s: float, queue: QueueView, traffic: Traffic
    ) -> float:
        """Urgency of a head, any real number; larger is sooner."""
        ...


@dataclass(frozen=True)
class PowerScore:
    """One family that holds every good rival as a point (+ beyond the paper).

    S = bc(w, lambda) - k bc(c, mu) + w_fair ln(1 + b/b0) + delta ln D,
    w = (W + tau)/t0, c = C/t0, bc(x, p) = (x^p - 1)/p the Box-Cox transform, ln x at p = 0.

    lambda=0, mu=0, k=1 is HRRN; lambda=1, mu=1 linear aging; k -> inf SJF; k=0 FCFS between
    heads; lambda=1, mu=0 is boost with gamma = 1/(k t0) to first order.  With lambda=1 the
    order of two waiting requests never changes: overtaking is bounded by construction.
    """

    wait_power: float
    cost_power: float
    cost_weight: float
    fairness_weight: float = 0.0
    density_weight: float = 0.0

    def score(
        self, b: int, wait_s: float, cost_s: float, queue: QueueView, traffic: Traffic
    ) -> float:
        """See the class."""
        # Evaluated for every head in every step, hence no helper functions.
        t0, lam, mu = traffic.mean_cost_s, self.wait_power, self.cost_power
        wait = ((wait_s if wait_s > 0.0 else 0.0) + TAU_S) / t0
        cost = cost_s / t0
        value = (wait**lam - 1.0) / lam if lam else math.log(wait)
        value -= self.cost_weight * ((cost**mu - 1.0) / mu if mu else math.log(cost))
        if self.fairness_weight:
            value += self.fairness_weight * math.log1p(b / traffic.reference_tokens)
        if self.density_weight:
            value += self.density_weight * math.log(max(queue.share, MINIMUM_SHARE))
        return value


@dataclass(frozen=True)
class NormalisedScore:
    """The paper's form in dimensionless terms (~ the paper's idea made precise).

    S = D^delta R(b) (w_base + w_urg(m) W/C + w_fair(m) ln(1 + b/b0)),
    R(b) = (b0/(b + b0))^gamma, z(m) = ln(1 + m/b0)/ln(1 + Lmax/b0),
    w_urg = clip(b_u + a_u z, 0.05, 10), w_fair = clip(b_f + a_f z, 0, 5), w_base = 1.

    gamma = delta = b_f = a_f = a_u = 0 and b_u = 1 is HRRN.
    """

    urgency_base: float
    urgency_slope: float
    fairness_base: float
    fairness_slope: float
    length_power: float
    density_power: float

    def score(
        self, b: int, wait_s: float, cost_s: float, queue: QueueView, traffic: Traffic
    ) -> float:
        """See the class."""
        b0 = traffic.reference_tokens
        z = math.log1p(queue.mean_tokens / b0) / math.log1p(traffic.longest_tokens / b0)
        urgency = min(10.0, max(0.05, self.urgency_base + self.urgency_slope * z))
        fairness = min(5.0, max(0.0, self.fairness_base + self.fairness_slope * z))
        value = 1.0 + urgency * max(0.0, wait_s) / cost_s + fairness * math.log1p(b / b0)
        density = max(queue.share, MINIMUM_SHARE) ** self.density_power
        return float(density * (b0 / (b + b0)) ** self.length_power * value)


@dataclass(frozen=True)
class PaperScore:
    """The published score (= as the paper, arXiv 2601.21758).

    phi = q/(b+1) (w_base + w_urg(m) W/C(b) + w_fair(m) ln(b+1)), with
    w_urg = max(0, a_u m + b_u), w_fair = max(0, a_f m + b_f).
    """

    urgency_slope: float
    urgency_base: float
    fairness_slope: float
    fairness_base: float
    base: float = 1.0

    def score(
        self, b: int, wait_s: float, cost_s: float, queue: QueueView, traffic: Traffic
    ) -> float:
        """See the class."""
        m = queue.mean_tokens
        urgency = max(0.0, self.urgency_slope * m + self.urgency_base)
        fairness = max(0.0, self.fairness_slope * m + self.fairness_base)
        inner = self.base + urgency * max(0.0, wait_s) / cost_s + fairness * math.log(b + 1)
        return queue.rank / (b + 1) * inner


@dataclass(frozen=True)
class AuthorsScore:
    """What the authors' public code computes (= vLLM pull request 33392).

    score = W S/(floor(b/S) + 1) (1 + weight ln(b + 1)); no cost and no learned weight.
    """

    step_tokens: int
    length_weight: float

    def score(
        self, b: int, wait_s: float, cost_s: float, queue: QueueView, traffic: Traffic
    ) -> float:
        """See the class."""
        index = b // self.step_tokens + 1
        growth = 1.0 + self.length_weight * math.log(b + 1)
        return max(0.0, wait_s) * self.step_tokens / index * growth


@dataclass(frozen=True)
class ResponseRatioScore:
    """Highest response ratio next: W/C^exponent; exponent 1 is HRRN (Brinch Hansen 1971)."""

    exponent: float = 1.0

    def score(
        self, b: int, wait_s: float, cost_s: float, queue: QueueView, traffic: Traffic
    ) -> float:
        """See the class."""
        return float(max(0.0, wait_s) / cost_s**self.exponent)


@dataclass(frozen=True)
class SigmoidScore:
    """Half sigmoid of wait, half of shortness (vLLM pull request 29366).

    score = 0.5 sig((W - 5)/5) + 0.5 (1 - sig((b - Lm)/Lm)); Lm = 32768 there.
    """

    median_tokens: float
    median_wait_s: float

    def score(
        self, b: int, wait_s: float, cost_s: float, queue: QueueView, traffic: Traffic
    ) -> float:
        """See the class."""
        wait = _sigmoid((wait_s - self.median_wait_s) / self.median_wait_s)
        return 0.5 * wait + 0.5 * (1.0 - _sigmoid((b - self.median_tokens) / self.median_tokens))


def _sigmoid(x: float) -> float:
    return 1.0 / (1.0 + math.exp(-min(60.0, max(-60.0, x))))
