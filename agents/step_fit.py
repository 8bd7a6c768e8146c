"""Which latency model do measured steps give, and how well does it tell the time of others?

Half of the steps, drawn at random, are fitted; the error is that on the other half.  A step that
takes many times what its like takes (a kernel compiled at its first use, a machine that paused)
would bend a least-squares fit, so what is far from a first fit is left out of the second one;
the error counts all steps.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ewsjf_env.config import ConfigError
from ewsjf_env.engine.latency import LatencyModel
from ewsjf_env.engine.step_samples import MeasuredStep

Array = NDArray[np.float64]
OUTLIER_MADS = 8.0  # median absolute deviations of the relative error
OUTLIER_LEAST = 0.25  # but nothing nearer than this is one
MOSTLY = 0.5  # steps that overlapped are used alone where they are this share


@dataclass(frozen=True)
class StepFit:
    """A fitted model and what it is worth.

    Attributes:
        model: the latency model.
        error: of steps that were not fitted, by kind; relative errors, see `step_errors`.
        steps: how many there were, were used, and were left out as outliers.
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
    first = start.fit([(step, step.seconds) for step in fitted])
    error = np.abs(_relative(first, fitted))
    limit = max(OUTLIER_LEAST, OUTLIER_MADS * float(np.median(error)))
    kept = [step for step, e in zip(fitted, error, strict=True) if e <= limit]
    model = start.fit([(step, step.seconds) for step in kept])
    return StepFit(
        model=model,
        error=step_errors(model, unseen),
        steps={
            "measured": len(steps),
            "overlapped_share": share,
            "fitted": len(kept),
            "outliers": len(fitted) - len(kept),
        },
    )


def step_errors(
    model: LatencyModel, steps: Sequence[MeasuredStep]
) -> dict[str, dict[str, float | int | None]]:
    """Relative errors of a model by kind of step: all, with prefill, without.

    `bias` is that of the total time: above 0 the model says too much.
    """
    kinds = {
        "all": list(steps),
        "prefill": [step for step in steps if step.prefill_tokens],
        "decode": [step for step in steps if not step.prefill_tokens],
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
