"""The latency model: the time of an engine step, given what was scheduled.

A roofline with a fixed overhead.  Notation, with units:

    n      tokens computed in the step (prefill tokens + one per decoding request)
    A      prefill attention: sum over prefill chunks of m * (ctx_after - m/2), pairs of tokens
    X      context tokens: sum of context lengths of the decoding requests
    t_0    overhead, s                        t_w    reading all weights once, s
    t_l    linear layers, s per token         t_a    attention, s per pair
    t_k    reading keys and values, s per context token
    n_g    tokens of the largest captured graph       t_h    launching anything larger, s

    step = t_0 + max(t_w, t_l * n) + t_a * A + t_k * X, and with n > n_g at least t_h

On a fast device the host may be the slower one: an H200 took 17 ms for steps of 600 tokens, where
its arithmetic takes 15.  t_h is 0 in models that know nothing of it.

From a machine: t_w = weight bytes / (bandwidth * e_b), t_l = 2 * linear parameters /
(peak * e_c), t_a = 4 * layers * heads * head size / (peak * e_a), t_k = KV bytes per token /
(bandwidth * e_b).  From measured steps: `LatencyModel.fit`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ewsjf_env.config import (
    ConfigError,
    Natural,
    NotNegative,
    from_dict,
    nearest,
    read_text,
    settings,
    to_dict,
)
from ewsjf_env.engine.simulated.machine import PRESET_DIRECTORY, Machine, preset_names
from ewsjf_env.scheduling.cost import CostPrior
from ewsjf_env.scheduling.non_negative import non_negative_least_squares
from ewsjf_env.shipped import find_config
from ewsjf_env.strict_json import read_json

Array = NDArray[np.float64]
SCHEMA_VERSION = 1
_MIN_SAMPLES_OF_A_KIND = 8


class StepLike(Protocol):
    """What was computed in one step (`scheduling.step_work.StepWork` is one)."""

    @property
    def prefill_tokens(self) -> int:
        """Tokens of prefill chunks."""

    @property
    def prefill_attention(self) -> float:
        """A, pairs of tokens."""

    @property
    def decode_requests(self) -> int:
        """Requests that decode one token."""

    @property
    def context_tokens(self) -> int:
        """X."""


@settings
class Coefficients:
    """t_0, t_w, t_l, t_a, t_k, t_h (all >= 0, in seconds) and n_g of the module's notation."""

    overhead_s: NotNegative
    """t_0, seconds of every step."""
    weights_s: NotNegative
    """t_w, seconds to read the weights."""
    linear_s_per_token: NotNegative
    """t_l, seconds of the matrix products of a token."""
    attention_s_per_pair: NotNegative
    """t_a, seconds of the attention of a token pair."""
    kv_read_s_per_token: NotNegative
    """t_k, seconds to read keys and values of a token."""
    launch_s: NotNegative = 0.0
    """t_h, least seconds of a step of more tokens than `captured_tokens`."""
    captured_tokens: Natural = 512
    """n_g, tokens of the largest captured graph."""

    def __post_init__(self) -> None:
        if self.overhead_s + self.weights_s <= 0 and self.linear_s_per_token <= 0:
            raise ConfigError("coefficients: a step would take no time at all")

    @classmethod
    def of(cls, machine: Machine) -> Coefficients:
        """The roofline of a machine."""
        model, gpu, share = machine.model, machine.gpu, machine.efficiency
        bandwidth = gpu.memory_bandwidth_bytes_per_s * share.bandwidth
        return cls(
            overhead_s=machine.step_overhead_s,
            weights_s=model.weight_bytes / bandwidth,
            linear_s_per_token=2.0
            * model.linear_parameters
            / (gpu.peak_flops_per_s * share.linear_compute),
            attention_s_per_pair=model.attention_flops_per_pair
            / (gpu.peak_flops_per_s * share.attention_compute),
            kv_read_s_per_token=model.kv_bytes_per_token / bandwidth,
        )


@settings
class FitError:
    """How well fitted coefficients reproduce the steps, or groups of them, they were fitted on."""

    samples: int
    """Steps, or groups of steps, that were fitted."""
    relative_error_median: float
    """Median of the relative error."""
    relative_error_p95: float
    """95th percentile of the relative error."""
    r2: float
    """Share of the variance that is explained."""


@settings
class LatencyModel:
    """Step times of one machine; the roofline of `machine` unless `measured` replaces it."""

    machine: Machine
    """Model and device."""
    measured: Coefficients | None = None
    """Coefficients that were fitted to measured steps; null: the roofline's."""
    fit_error: FitError | None = None
    """How well they fit."""
    schema_version: int = SCHEMA_VERSION
    """Version of this kind of file."""

    def __post_init__(self) -> None:
        if self.schema_version != SCHEMA_VERSION:
            raise ConfigError(f"schema_version: {self.schema_version!r} is not {SCHEMA_VERSION}")

    @cached_property
    def coefficients(self) -> Coefficients:
        """The coefficients in use."""
        return self.measured or Coefficients.of(self.machine)

    @classmethod
    def load(cls, name_or_path: str | Path, where: str = "latency") -> LatencyModel:
        """Read a preset by name or a JSON file by path (anything that ends in .json).

        Raises:
            ConfigError: no such preset, beginning with `where`, or what is wrong in the file.
        """
        path = Path(name_or_path)
        if path.suffix == ".json":
            path = find_config(path, "latency", where)
        else:
            path = PRESET_DIRECTORY / f"{name_or_path}.json"
            if str(name_or_path) not in preset_names():
                hint = nearest(str(name_or_path), preset_names())
                raise ConfigError(f"{where}: unknown preset {str(name_or_path)!r}{hint}")
        return from_dict(cls, read_json(read_text(path), str(path)), str(path))

    def save(self, path: str | Path) -> None:
        """Write the model as JSON; `load` reads it back exactly."""
        text = json.dumps(self.to_dict(), indent=2) + "\n"
        Path(path).write_text(text, encoding="utf-8")

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as in a file."""
        return {key: value for key, value in to_dict(self).items() if value is not None}

    @property
    def content_hash(self) -> str:
        """16 hex digits that change when a step time or the KV size could change."""
        coefficients = to_dict(self.coefficients)
        if not self.coefficients.launch_s:  # a model without keeps the hash that it had
            del coefficients["launch_s"], coefficients["captured_tokens"]
        content = coefficients | {
            "kv_bytes_per_token": self.machine.model.kv_bytes_per_token,
            "weight_bytes": self.machine.model.weight_bytes,
            "memory_bytes": self.machine.gpu.memory_bytes,
            "activation_reserve_bytes": self.machine.activation_reserve_bytes,
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    def step_s(
        self,
        prefill_tokens: int,
        decode_requests: int,
        context_tokens: int,
        prefill_attention: float,
    ) -> float:
        """Seconds of a step that computes at least one token."""
        c = self.coefficients
        tokens = prefill_tokens + decode_requests
        linear_s = c.linear_s_per_token * tokens
        seconds = (
            c.overhead_s
            + (linear_s if linear_s > c.weights_s else c.weights_s)
            + c.attention_s_per_pair * prefill_attention
            + c.kv_read_s_per_token * context_tokens
        )
        return c.launch_s if tokens > c.captured_tokens and seconds < c.launch_s else seconds

    def prefill_s(self, tokens: int, budget_tokens: int) -> float:
        """C(b): seconds of a prompt alone on the machine, in chunks of the token budget."""
        whole, rest = divmod(tokens, budget_tokens)
        seconds = whole * self.step_s(budget_tokens, 0, 0, 0.0)
        if rest:
            seconds += self.step_s(rest, 0, 0, 0.0)
        # The chunks' attention adds up to that of the whole prompt: sum m (ctx - m/2) = b^2/2.
        return seconds + self.coefficients.attention_s_per_pair * tokens * tokens / 2.0

    def cost_prior(self, budget_tokens: int, longest_tokens: int = 16384) -> CostPrior:
        """Quadratic closest to `prefill_s` in relative error over 16..longest tokens."""
        lengths = np.unique(np.geomspace(16, longest_tokens, 64).astype(np.int64))
        target = np.array([self.prefill_s(int(b), budget_tokens) for b in lengths])
        b = lengths.astype(np.float64)
        columns = np.stack([np.ones_like(b), b, b * b], axis=1) / target[:, None]
        c0, c1, c2 = non_negative_least_squares(columns, np.ones_like(target))
        return CostPrior(c0_s=float(c0), c1_s_per_token=float(c1), c2_s_per_token2=float(c2))

    def fit(
        self,
        samples: Iterable[tuple[StepLike, float]],
        scale_s: Sequence[float] | None = None,
        groups: Sequence[int] | None = None,
    ) -> LatencyModel:
        """Return the model with coefficients fitted to measured steps, and its error.

        Least squares of the relative error with all coefficients >= 0.  The break-even point
        k = t_w / t_l, where weights and arithmetic take equally long, is scanned: for a given
        k the model is linear, since max(t_w, t_l n) = t_l max(k, n).

        Args:
            samples: (what was computed, seconds > 0); steps with prefill and steps without,
                at least 8 of each, else overhead, weights and arithmetic cannot be told apart.
            groups: of each step, the number of its group, 0 to n - 1 without gaps: the total
                time of a group is fitted, for steps whose own times are not certain.  None: each
                is a group of its own.
            scale_s: what the error of each group is divided by, > 0; None: its seconds.

        Raises:
            ConfigError: too few steps of a kind, or a time that is not positive.
        """
        pairs = list(samples)
        seconds = np.array([s for _, s in pairs], dtype=np.float64)
        steps = [step for step, _ in pairs]
        prefills = sum(step.prefill_tokens > 0 for step in steps)
        for kind, count in (("with", prefills), ("without", len(pairs) - prefills)):
            if count < _MIN_SAMPLES_OF_A_KIND:
                raise ConfigError(
                    f"samples: {count} steps {kind} prefill, at least {_MIN_SAMPLES_OF_A_KIND} "
                    "are needed"
                )
        if not (np.isfinite(seconds).all() and (seconds > 0).all()):
            raise ConfigError("samples: step times must be positive and finite")
        tokens = np.array([s.prefill_tokens + s.decode_requests for s in steps], dtype=np.float64)
        attention = np.array([s.prefill_attention for s in steps], dtype=np.float64)
        context = np.array([s.context_tokens for s in steps], dtype=np.float64)

        group = np.arange(len(pairs)) if groups is None else np.asarray(groups)
        total_s = np.bincount(group, seconds).astype(np.float64)
        scale = total_s if scale_s is None else np.asarray(scale_s, dtype=np.float64)

        def solve(break_even: float) -> tuple[float, Array]:
            parts = (np.ones_like(tokens), np.maximum(break_even, tokens), attention, context)
            columns = np.stack([np.bincount(group, part) for part in parts], axis=1)
            scaled, target = columns / scale[:, None], total_s / scale
            solution = non_negative_least_squares(scaled, target)
            residual = scaled @ solution - target
            return float(residual @ residual), solution

        grid = np.geomspace(1.0, max(2.0, float(tokens.max())), 64)
        for _ in range(3):  # each pass narrows the interval around the best point
            best = int(np.argmin([solve(float(k))[0] for k in grid]))
            low, high = grid[max(0, best - 1)], grid[min(len(grid) - 1, best + 1)]
            grid = np.geomspace(low, high, 33)
        break_even = float(grid[int(np.argmin([solve(float(k))[0] for k in grid]))])
        overhead, linear, per_pair, per_token = (float(v) for v in solve(break_even)[1])
        measured = Coefficients(
            overhead_s=overhead,
            weights_s=linear * break_even,
            linear_s_per_token=linear,
            attention_s_per_pair=per_pair,
            kv_read_s_per_token=per_token,
            launch_s=self.coefficients.launch_s,  # not of these steps: it is kept
            captured_tokens=self.coefficients.captured_tokens,
        )
        fitted = dataclasses.replace(self, measured=measured)
        modelled = np.array(
            [
                fitted.step_s(
                    s.prefill_tokens, s.decode_requests, s.context_tokens, s.prefill_attention
                )
                for s in steps
            ]
        )
        error = _fit_error(np.bincount(group, modelled).astype(np.float64), total_s)
        return dataclasses.replace(fitted, fit_error=error)


def _fit_error(modelled: Array, seconds: Array) -> FitError:
    relative = np.abs(modelled / seconds - 1.0)
    spread = float(((seconds - seconds.mean()) ** 2).sum())
    missed = float(((seconds - modelled) ** 2).sum())
    return FitError(
        samples=len(seconds),
        relative_error_median=float(np.median(relative)),
        relative_error_p95=float(np.percentile(relative, 95)),
        r2=1.0 - missed / spread if spread > 0 else 0.0,
    )
