"""Which latency model do measured steps give, and how well does it tell the time of others?

Half of the steps, drawn at random, are fitted; the error is that on the other half.

A host that pauses hands over one result late and the next right after it, and a kernel may be
compiled at its first use.  Least squares would follow such times, so the absolute relative error
is what is made smallest (least squares, repeated, each error weighed by one over itself).  The
errors told count all steps; those of `typical` are the errors at the medians of steps alike.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ewsjf_env.config import ConfigError
from ewsjf_env.engine.latency import LatencyModel
from ewsjf_env.engine.step_samples import MeasuredStep

Array = NDArray[np.float64]
ROUNDS = 8  # of least squares
LEAST_ERROR = 0.01  # relative errors below weigh alike
ALIKE = 0.05  # relative width of what counts as alike
MANY = 5  # steps alike that make a median
MOSTLY = 0.5  # steps that overlapped are used alone where they are this share


@dataclass(frozen=True)
class StepFit:
    """A fitted model and what it is worth.

    Attributes:
        model: the latency model.
        error: of steps that were not fitted, by kind; relative errors, see `step_errors`.
        steps: how many there were and were fitted, and the share that overlapped.
    """

    model: LatencyModel
    error: Mapping[str, Mapping[str, float | int | None]]
    steps: Mapping[str, float | int]

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "steps": dict(self.steps),
            "coefficients": dataclasses.asdict(self.model.coefficients),
            "unseen_steps": {kind: dict(error) for kind, error in self.error.items()},
        }


def fit_steps(start: LatencyModel, steps: Sequence[MeasuredStep], seed: int = 0) -> StepFit:
    """Fit the coefficients of `start`'s machine.

    Args:
        start: of the same model; only its measured coefficients are replaced.
        steps: at least 16 with prefill and 16 without.
        seed: which half is fitted.

    Raises:
        ConfigError: too few steps of a kind.
    """
    overlapped = [step for step in steps if step.overlapped]
    share = len(overlapped) / max(1, len(steps))
    used = overlapped if share >= MOSTLY else list(steps)
    order = np.random.default_rng(seed).permutation(len(used))
    half = len(used) // 2
    fitted, unseen = ([used[i] for i in part] for part in (order[:half], order[half:]))
    samples = [(step, step.seconds) for step in fitted]
    model = start.fit(samples)  # refuses too few
    seconds = np.array([step.seconds for step in fitted])
    modelled = _modelled(start, fitted)
    modelled *= float(np.median(seconds / modelled))  # the preset may be of another machine
    for _ in range(ROUNDS):
        error = np.maximum(np.abs(seconds / modelled - 1.0), LEAST_ERROR)
        model = start.fit(samples, list(modelled * np.sqrt(error)))
        modelled = _modelled(model, fitted)
    return StepFit(
        model=model,
        error=step_errors(model, unseen),
        steps={
            "measured": len(steps),
            "overlapped_share": share,
            "fitted": len(fitted),
        },
    )


def _groups(steps: Sequence[MeasuredStep]) -> list[list[MeasuredStep]]:
    """Steps alike: as many requests decode, and all else differs by some per cent at most."""
    found: dict[tuple[int, ...], list[MeasuredStep]] = {}
    for step in steps:
        rest = step.prefill_tokens, step.prefill_attention, step.context_tokens
        key = (step.decode_requests, *(round(math.log1p(x) / ALIKE) for x in rest))
        found.setdefault(key, []).append(step)
    return list(found.values())


def _medians(groups: Sequence[Sequence[MeasuredStep]]) -> list[tuple[MeasuredStep, float]]:
    """The step in the middle of each group, and its time."""
    middles = [sorted(group, key=lambda s: s.seconds)[len(group) // 2] for group in groups]
    return [(step, step.seconds) for step in middles]


def step_errors(
    model: LatencyModel, steps: Sequence[MeasuredStep]
) -> dict[str, dict[str, float | int | None]]:
    """Relative errors of a model by kind of step: all, with prefill, without, typical.

    `bias` is that of the total time: above 0 the model says too much.
    """
    kinds = {
        "all": list(steps),
        "prefill": [step for step in steps if step.prefill_tokens],
        "decode": [step for step in steps if not step.prefill_tokens],
        "typical": [step for step, _ in _medians([g for g in _groups(steps) if len(g) >= MANY])],
    }
    return {kind: _errors(model, members) for kind, members in kinds.items()}


def _errors(model: LatencyModel, steps: Sequence[MeasuredStep]) -> dict[str, float | int | None]:
    if not steps:
        return {"steps": 0, "median": None, "p95": None, "bias": None}
    error = np.abs(_relative(model, steps))
    seconds = np.array([step.seconds for step in steps])
    return {
        "steps": len(steps),
        "median": float(np.median(error)),
        "p95": float(np.percentile(error, 95)),
        "bias": float(_modelled(model, steps).sum() / seconds.sum() - 1.0),
    }


def _relative(model: LatencyModel, steps: Sequence[MeasuredStep]) -> Array:
    found: Array = _modelled(model, steps) / np.array([step.seconds for step in steps]) - 1.0
    return found


def _modelled(model: LatencyModel, steps: Sequence[MeasuredStep]) -> Array:
    if not steps:
        raise ConfigError("steps: there are none")
    return np.array(
        [
            model.step_s(s.prefill_tokens, s.decode_requests, s.context_tokens, s.prefill_attention)
            for s in steps
        ]
    )
