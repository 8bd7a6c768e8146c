"""The speed of the real machine, compared with the twin's latency model.

A real server does not tell its step times, but it tells when tokens came.  So all step times are
divided by one factor, the *speed*, such that the requests of the last windows, replayed under the
values that really were in force, wait and generate about as long as they did.  What is left of
the difference is the twin's latency error.  Where there is a log of steps (`StepLogScheduler`),
the model itself is fitted to them first.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from agents.twin.blocks import Fit
from ewsjf_env.config import ConfigError
from ewsjf_env.engine.simulated.latency import Coefficients, LatencyModel
from ewsjf_env.engine.steps.step_fit import fit_steps
from ewsjf_env.engine.steps.step_samples import read_steps

LOWEST_SPEED, HIGHEST_SPEED = 0.33, 3.0
FIRST_STEP_LN = 0.1  # of ln speed
SPEED_TRIES = 4
NO_BIAS_LN = 0.02  # a mean log error that needs no better speed
NEW_STEPS_RATIO = 1.5  # over the steps fitted to last: the model is fitted anew
NEWEST_STEPS = 5_000
_TIMES = tuple(f.name for f in dataclasses.fields(Coefficients) if f.name != "captured_tokens")
_FLOOR_S = 0.05  # differences of shorter waits are chance


@dataclass(frozen=True)
class SpeedFit:
    """A speed, and how far the twin is off with it.

    Attributes:
        speed: of the machine over that of the model.
        bias: mean ln(twin's latency / measured one) at this speed.
        error: root mean square of the same, wait and time per token of each window.
    """

    speed: float
    bias: float
    error: float


def scaled(model: LatencyModel, speed: float) -> LatencyModel:
    """The model of a machine that is `speed` times as fast."""
    c = model.coefficients
    faster = {name: getattr(c, name) / speed for name in _TIMES}
    return dataclasses.replace(model, measured=dataclasses.replace(c, **faster))


def perturbed(model: LatencyModel, error: float, seed: int) -> LatencyModel:
    """A wrong model: each of its times times a factor drawn from [1 - error, 1 + error]."""
    random = np.random.default_rng([seed, 20])
    c = model.coefficients
    factors = random.uniform(1.0 - error, 1.0 + error, len(_TIMES))
    wrong = {name: getattr(c, name) * float(x) for name, x in zip(_TIMES, factors, strict=True)}
    return dataclasses.replace(model, measured=dataclasses.replace(c, **wrong))


def refit(model: LatencyModel, log: str, known: int) -> tuple[LatencyModel, int]:
    """The model fitted to the newest steps of a log, and how many steps that has.

    Args:
        model: of the machine so far.
        log: a file; one that cannot be read, or has too few steps, changes nothing.
        known: steps it had when it was read last; with less than half as many more, nor does it.
    """
    try:
        steps = read_steps(log)
        if len(steps) < NEW_STEPS_RATIO * max(1, known):
            return model, known
        return fit_steps(model, steps[-NEWEST_STEPS:]).model, len(steps)
    except ConfigError:
        return model, known


def compare(twin: Sequence[Fit], measured: Sequence[Fit], speed: float) -> SpeedFit:
    """How far the twin's latencies at a speed are from those measured in the same windows."""
    errors = []
    for ours, theirs in zip(twin, measured, strict=True):
        for name, floor in (("ttft_s", _FLOOR_S), ("tpot_s", 1e-4)):
            a, b = getattr(ours, name), getattr(theirs, name)
            if not (math.isnan(a) or math.isnan(b)):
                errors.append(math.log(max(a, floor) / max(b, floor)))
    if not errors:
        return SpeedFit(speed, 0.0, math.nan)
    return SpeedFit(speed, float(np.mean(errors)), float(np.sqrt(np.mean(np.square(errors)))))


def fit_speed(replay: Callable[[float], SpeedFit | None], first: SpeedFit) -> SpeedFit:
    """The speed of the least bias among a few tried: a secant search of ln speed.

    Args:
        replay: speed -> comparison; None when the budget is used up.
        first: the comparison at the speed so far.
    """
    compared = [first]
    step = math.copysign(FIRST_STEP_LN, first.bias)  # the twin too slow: it has to be faster
    for _ in range(SPEED_TRIES):
        if min(abs(f.bias) for f in compared) < NO_BIAS_LN:
            break
        if len(compared) > 1:
            a, b = sorted(compared, key=lambda f: abs(f.bias))[:2]
            slope = (b.bias - a.bias) / (math.log(b.speed / a.speed) or math.inf)
            base = a
            step = -a.bias / slope if slope < 0 else math.copysign(FIRST_STEP_LN, a.bias)
            step = max(-0.4, min(0.4, step))
        else:
            base = first
        speed = min(HIGHEST_SPEED, max(LOWEST_SPEED, base.speed * math.exp(step)))
        if any(abs(math.log(speed / f.speed)) < 1e-3 for f in compared):
            break
        tried = replay(speed)
        if tried is None:
            break
        compared.append(tried)
    return min(compared, key=lambda f: abs(f.bias))
