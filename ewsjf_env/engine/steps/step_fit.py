"""The latency model that measured steps give, and its error on steps that were not fitted.

What is fitted are stretches: steps that follow each other without a gap, some tenths of a second
of them.  A step alone has no exact time.  With asynchronous scheduling the host launches the next
step before it reads the result of this one; launching a large prefill takes it 15 ms on an H200,
and so much later it sees that this one is done.  What one step seems to take longer the next
seems to take shorter, and the stretch is right.

Half of the stretches, drawn at random, are fitted; the error is that on the other half.  A host
that pauses, or a kernel that is compiled at its first use, makes a stretch long.  Least squares
would follow it, so the absolute relative error is what is made smallest (least squares,
repeated, each error weighed by one over itself).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ewsjf_env.config import ConfigError
from ewsjf_env.engine.simulated.latency import LatencyModel
from ewsjf_env.engine.steps.step_samples import MeasuredStep

Array = NDArray[np.float64]
Stretch = Sequence[MeasuredStep]
ROUNDS = 8  # of least squares
LEAST_ERROR = 0.01  # relative errors below weigh alike
MOSTLY = 0.5  # steps that overlapped are used alone where they are this share
STRETCH_S, STRETCH_STEPS = 0.3, 4  # a stretch is at least so long
GAP_S = 1e-5  # the device was idle in between


@dataclass(frozen=True)
class StepFit:
    """A fitted model and what it is worth.

    Attributes:
        model: the latency model.
        error: on stretches that were not fitted, and on their steps by kind; relative errors,
            see `step_errors`.
        steps: how many steps and stretches there were, and the share that overlapped.
    """

    model: LatencyModel
    error: Mapping[str, Mapping[str, float | int | None]]
    steps: Mapping[str, float | int]

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "steps": dict(self.steps),
            "coefficients": dataclasses.asdict(self.model.coefficients),
            "unseen": {kind: dict(error) for kind, error in self.error.items()},
        }


def fit_steps(start: LatencyModel, steps: Sequence[MeasuredStep], seed: int = 0) -> StepFit:
    """Fit the coefficients of `start`'s machine.

    Args:
        start: of the same model; only its measured coefficients are replaced.
        steps: in the order in which they ran, at least 16 with prefill and 16 without.
        seed: which half is fitted.

    Raises:
        ConfigError: too few steps of a kind.
    """
    overlapped = sum(step.overlapped for step in steps) / max(1, len(steps))
    found = stretches(steps)
    order = np.random.default_rng(seed).permutation(len(found))
    half = len(found) // 2
    fitted, unseen = ([found[i] for i in part] for part in (order[:half], order[half:]))
    samples = [(step, step.seconds) for stretch in fitted for step in stretch]
    groups = [number for number, stretch in enumerate(fitted) for _ in stretch]
    model = start.fit(samples, groups=groups)  # refuses too few
    seconds = _seconds(fitted)
    modelled = _modelled(start, fitted)
    modelled *= float(np.median(seconds / modelled))  # the preset may be of another machine
    for _ in range(ROUNDS):
        error = np.maximum(np.abs(seconds / modelled - 1.0), LEAST_ERROR)
        model = start.fit(samples, list(modelled * np.sqrt(error)), groups)
        modelled = _modelled(model, fitted)
    return StepFit(
        model=model,
        error=step_errors(model, unseen),
        steps={
            "measured": len(steps),
            "overlapped_share": overlapped,
            "stretches": len(found),
            "fitted_stretches": half,
        },
    )


def stretches(steps: Sequence[MeasuredStep]) -> list[Stretch]:
    """Cut steps, in the order in which they ran, where `STRETCH_S` is full or the device was idle.

    What is left over before a gap is short and so inexact: it is used only where there is little
    else.  Where most steps overlapped the others, which hold work of the host, are left out.
    """
    mostly = sum(step.overlapped for step in steps) >= MOSTLY * len(steps)
    whole: list[Stretch] = []
    rest: list[Stretch] = []
    open_: list[MeasuredStep] = []
    for step in steps:
        if open_ and abs(step.at_s - step.seconds - open_[-1].at_s) > GAP_S:
            rest.append(open_)
            open_ = []
        if mostly and not step.overlapped:
            continue
        open_.append(step)
        if len(open_) >= STRETCH_STEPS and _total(open_) >= STRETCH_S:
            whole.append(open_)
            open_ = []
    if open_:
        rest.append(open_)
    rest = [stretch for stretch in rest if stretch]
    if sum(map(_total, whole)) >= MOSTLY * sum(map(_total, [*whole, *rest])):
        return whole
    return whole + rest


def step_errors(
    model: LatencyModel, unseen: Sequence[Stretch]
) -> dict[str, dict[str, float | int | None]]:
    """Relative errors of a model: of stretches, and of single steps with and without prefill.

    `bias` is that of the total time: above 0 the model says too much.
    """
    steps = [step for stretch in unseen for step in stretch]
    return {
        "stretches": _errors(model, unseen),
        "prefill": _errors(model, [[step] for step in steps if step.prefill_tokens]),
        "decode": _errors(model, [[step] for step in steps if not step.prefill_tokens]),
    }


def _errors(model: LatencyModel, groups: Sequence[Stretch]) -> dict[str, float | int | None]:
    if not groups:
        return {"count": 0, "median": None, "p95": None, "bias": None}
    seconds, modelled = _seconds(groups), _modelled(model, groups)
    error = np.abs(modelled / seconds - 1.0)
    return {
        "count": len(groups),
        "median": float(np.median(error)),
        "p95": float(np.percentile(error, 95)),
        "bias": float(modelled.sum() / seconds.sum() - 1.0),
    }


def _total(stretch: Stretch) -> float:
    return sum(step.seconds for step in stretch)


def _seconds(groups: Sequence[Stretch]) -> Array:
    return np.array([_total(stretch) for stretch in groups])


def _modelled(model: LatencyModel, groups: Sequence[Stretch]) -> Array:
    if not groups:
        raise ConfigError("steps: there are none")
    return np.array([sum(_step_s(model, step) for step in stretch) for stretch in groups])


def _step_s(model: LatencyModel, step: MeasuredStep) -> float:
    return model.step_s(
        step.prefill_tokens, step.decode_requests, step.context_tokens, step.prefill_attention
    )
