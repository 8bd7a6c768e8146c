"""C(b), the time that the prefill of a prompt takes on this engine, learned from its own steps.

Notation:
    f      features of a step: [1, prefill tokens, prefill attention, decoded tokens, tokens in the
           cache that these attend to], divided by SCALES so that each is near one
    theta  their coefficients, seconds, >= 0         y   measured step time, seconds
    G, h   sums of f f^T and f y, in which a sample k steps old weighs forgetting^k

    y ~ f . theta         C(b) = max(Cmin, c0 + c1 b + c2 b^2)

A prompt prefilled alone has b tokens and, chunked or not, b^2/2 attention pairs: c0, c1 are the
first two coefficients and c2 is half the third.  None is negative, so C never falls with b.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from ewsjf_env.config import Range, Share, check_range, settings
from ewsjf_env.scheduling.non_negative import non_negative_solution
from ewsjf_env.scheduling.step_work import StepWork

Array = NDArray[np.float64]

SCALES: Array = np.array([1.0, 1024.0, 1024.0**2, 64.0, 65536.0])
LONGEST_STEP_S = 60.0  # above it a step was a stall: a debugger, a suspended machine
LEAST_COST_S = 1e-3  # Cmin, unless another one is asked for
LARGEST = 1e12  # no step has more tokens or pairs; squares stay far inside the float range
BATCH = 32  # steps between two solutions: one step costs a microsecond, not a hundred
RIDGE = 0.1  # weight of the prior's shape in G, in steps; decides what the traffic hides
CLIP = 6.0  # residuals are clipped at this many times their usual relative size
LEAST_SPREAD = 0.01  # usual relative residual is taken to be at least this
SPREAD_MEMORY = 0.99
R2_LEAST_STEPS = 64
UNSEEN_LEVEL = 1e-6  # both sums, so that the level is one until a prefill was seen


@settings
class CostPrior:
    """C(b) before anything is measured, for example from a roofline: c0 + c1 b + c2 b^2."""

    c0_s: Annotated[float, Range(0.0, LONGEST_STEP_S)]
    """Cost at any length, seconds."""
    c1_s_per_token: Share
    """Cost of a token, seconds."""
    c2_s_per_token2: Annotated[float, Range(0.0, 1e-3)]
    """Cost of a token pair, seconds: attention grows with the square."""


class PrefillCostModel:
    """Non-negative recursive least squares with forgetting; the prior while it fits badly.

    Attributes:
        coefficients: (c0, c1, c2) in force, in s, s/token, s/token^2.
        prior: the same before anything was measured.
        minimum_s, forgetting, min_r2: see below.
        r2: share of the variance of step times explained, -1 to 1, judged on each step *before*
            it is learned from (prequential), with the same forgetting; 0 until judged.
        prior_theta: theta before anything was measured.
        observed, ignored: steps that were learned from, and that were refused as junk.

    Args:
        prior: C(b) at the start.
        minimum_s: Cmin, > 0 s.
        forgetting: weight of a step after the next one, [0.9, 1].
        min_r2: least r2 at which the learned coefficients are used, [0, 1].

    Raises:
        ConfigError: a value outside its range.

    Source: ALGORITHM 2b, C(b) (~).  Residuals are clipped at six times their usual relative size,
    so that a stalled step teaches little; a lasting change gets through, because the usual size
    grows with it.
    """

    def __init__(
        self,
        prior: CostPrior,
        minimum_s: float = LEAST_COST_S,
        forgetting: float = 0.999,
        min_r2: float = 0.5,
    ) -> None:
        check_range("minimum_s", minimum_s, 0.0, LONGEST_STEP_S, low_open=True)
        check_range("forgetting", forgetting, 0.9, 1.0)
        check_range("min_r2", min_r2, 0.0, 1.0)
        self.observed = 0
        self.ignored = 0
        self.r2 = 0.0
        self.minimum_s = minimum_s
        self.forgetting = forgetting
        self.min_r2 = min_r2
        self.prior = (prior.c0_s, prior.c1_s_per_token, prior.c2_s_per_token2)
        self._c0, self._c1, self._c2 = self.prior
        c0, c1, c2 = self.prior
        self.prior_theta: Array = np.array([c0, c1, 2.0 * c2, 0.0, 0.0]) * SCALES
        self._theta = self.prior_theta
        self._gram: Array = np.zeros((len(SCALES), len(SCALES)))
        self._moment: Array = np.zeros(len(SCALES))
        # Weighted sums of y * prior's y and of the latter's square over steps with prefill.
        self._level: Array = np.full(2, UNSEEN_LEVEL)
        self._batch: list[tuple[float, float, float, float, float, float]] = []
        self._spread: float | None = None
        # Weighted sums of 1, y, y^2 and squared error, for r2.
        self._judged: Array = np.zeros(4)
        self._judged_steps = 0

    @property
    def coefficients(self) -> tuple[float, float, float]:
        """(c0, c1, c2) in force."""
        return self._c0, self._c1, self._c2

    @property
    def uses_prior(self) -> bool:
        """Whether C(b) is the prior's."""
        return self.coefficients == self.prior

    def take_over(self, coefficients: tuple[float, float, float], r2: float) -> None:
        """Go on with what somebody else has learnt who observes the steps in this one's place.

        Args:
            coefficients: (c0, c1, c2), each >= 0.
            r2: how well they fit.
        """
        self._c0, self._c1, self._c2 = coefficients
        self.r2 = r2

    def cost_s(self, tokens: int) -> float:
        """C(b) in seconds, >= minimum_s, never falling with `tokens`."""
        cost = self._c0 + tokens * (self._c1 + tokens * self._c2)
        return cost if cost > self.minimum_s else self.minimum_s

    def observe(self, work: StepWork, step_s: float) -> None:
        """Learn from one step; junk is counted and left out.

        Args:
            work: what was computed; refused if negative, not finite or nothing at all.
            step_s: seconds that the step took; refused unless in (0, 60].
        """
        decoded = work.decode_tokens
        row = (
            1.0,
            float(work.prefill_tokens),
            float(work.prefill_attention),
            float(decoded),
            float(work.context_tokens - decoded),  # what the cache held before the step
            float(step_s),
        )
        # One NaN or infinity makes the sum one, and then the comparison fails.
        sane = 0.0 < step_s <= LONGEST_STEP_S and sum(row) <= LARGEST and min(row) >= 0.0
        if not (sane and row[1] + row[3] > 0.0):
            self.ignored += 1
            return
        self.observed += 1
        self._batch.append(row)
        if len(self._batch) >= BATCH:
            self._learn()

    def _learn(self) -> None:
        """Judge the waiting steps by the coefficients so far, then take them into G and h."""
        rows = np.array(self._batch)
        self._batch.clear()
        features, measured = rows[:, :-1] / SCALES, rows[:, -1]
        expected = features @ self._theta
        clipped = self._clip(measured, expected)
        weights: Array = np.power(self.forgetting, np.arange(len(rows) - 1, -1, -1.0))
        kept = self.forgetting ** len(rows)
        if self.observed > BATCH:  # before, there is nothing learned that could be judged
            self._judge(clipped, clipped - expected, weights, kept)
        weighted = features * weights[:, None]
        self._gram = kept * self._gram + weighted.T @ features
        self._moment = kept * self._moment + weighted.T @ clipped
        # The second part keeps G positive definite whatever its rounding errors.
        gram = self._gram + np.diag(RIDGE + 1e-12 * np.diag(self._gram))
        target = self._prior_level(features, clipped, weights, kept) * self.prior_theta
        self._theta = non_negative_solution(
            gram, self._moment + RIDGE * target, likely=self._theta > 0.0
        )
        if self.r2 >= self.min_r2 and self._judged_steps >= R2_LEAST_STEPS:
            c = self._theta / SCALES
            self._c0, self._c1, self._c2 = float(c[0]), float(c[1]), float(c[2]) / 2.0
        else:
            self._c0, self._c1, self._c2 = self.prior

    def _prior_level(self, features: Array, measured: Array, weights: Array, kept: float) -> float:
        """How many times as long as the prior says steps with prefill take.

        When every step is filled to the token budget, overhead and time per token cannot be told
        apart; then the prior's proportions at the measured level are the best guess.
        """
        prior_s = features @ self.prior_theta
        weights = np.where(features[:, 1] > 0, weights, 0.0)
        products = np.stack([measured * prior_s, prior_s**2])
        self._level = kept * self._level + products @ weights
        return float(self._level[0] / self._level[1]) if self._level[1] > 0 else 1.0

    def _clip(self, measured: Array, expected: Array) -> Array:
        """Step times with outliers pulled towards what was expected; updates the usual size."""
        base = np.maximum(expected, self.minimum_s)
        relative = (measured - base) / base
        if self._spread is None:
            self._spread = max(float(np.median(np.abs(relative))), LEAST_SPREAD)
        limit = CLIP * self._spread
        relative = np.clip(relative, -limit, limit)
        memory = SPREAD_MEMORY ** len(relative)
        spread = memory * self._spread + (1.0 - memory) * float(np.mean(np.abs(relative)))
        self._spread = max(spread, LEAST_SPREAD)
        clipped: Array = base * (1.0 + relative)
        return clipped

    def _judge(self, measured: Array, errors: Array, weights: Array, kept: float) -> None:
        columns = np.stack([np.ones_like(measured), measured, measured**2, errors**2])
        self._judged = kept * self._judged + columns @ weights
        self._judged_steps += len(measured)
        total, first, second, squared_error = (float(v) for v in self._judged)
        variation = second - first * first / total
        # Equal step times have no variance to explain, only rounding errors.
        explained = variation > 1e-9 * second
        self.r2 = max(-1.0, 1.0 - squared_error / variation) if explained else 0.0
