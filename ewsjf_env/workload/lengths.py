"""Distributions of prompt and output lengths of synthetic requests.

Every law maps one uniform number to one length (its inverse distribution function).  So the
i-th request of a seed has the same length whatever the arrival rate or the duration.
"""

from __future__ import annotations

from statistics import NormalDist
from typing import Annotated, Literal

import numpy as np

from ewsjf_env.config import ConfigError, Range, settings
from ewsjf_env.workload.trace import MAX_TOKENS, Floats, Ints

_FIELDS = {
    "constant": ("tokens",),
    "uniform": ("low_tokens", "high_tokens"),
    "lognormal": ("median_tokens", "sigma", "low_tokens", "high_tokens"),
}
_MAX_SIGMA = 10.0

Tokens = Annotated[int, Range(1, MAX_TOKENS)]


@settings
class LengthLaw:
    """Distribution of a number of tokens; each kind takes only its own fields.

    constant: always `tokens`.
    uniform: integers from `low_tokens` to `high_tokens`, both included.
    lognormal: median `median_tokens`, standard deviation `sigma` of the natural logarithm,
        truncated to [low_tokens, high_tokens] (no pile of requests at the limits).
    """

    kind: Literal["constant", "uniform", "lognormal"]
    """Which distribution."""
    tokens: Tokens | None = None
    """Of `constant`: the length."""
    low_tokens: Tokens | None = None
    """Least length."""
    high_tokens: Tokens | None = None
    """Largest length."""
    median_tokens: Annotated[float, Range(1, MAX_TOKENS)] | None = None
    """Of `lognormal`: the median."""
    sigma: Annotated[float, Range(0, _MAX_SIGMA, low_open=True)] | None = None
    """Of `lognormal`: standard deviation of the natural logarithm."""

    def __post_init__(self) -> None:
        for name in ("tokens", "low_tokens", "high_tokens", "median_tokens", "sigma"):
            value, needed = getattr(self, name), name in _FIELDS[self.kind]
            if needed and value is None:
                raise ConfigError(f"{name}: missing, {self.kind} lengths need it")
            if not needed and value is not None:
                raise ConfigError(
                    f"{name}: {value!r} has no meaning for {self.kind} lengths; "
                    f"valid names: {', '.join(_FIELDS[self.kind])}"
                )
        low, high = self.low_tokens, self.high_tokens
        if low is not None and high is not None and high < low:
            raise ConfigError(f"high_tokens: {high} is below low_tokens ({low})")
        if self.kind == "lognormal" and not self._mass() > 0:
            raise ConfigError(
                f"median_tokens: {self.median_tokens!r} leaves nothing in "
                f"[{low}, {high}] with sigma {self.sigma!r}"
            )

    def at(self, uniforms: Floats) -> Ints:
        """Lengths at the quantiles `uniforms` (n,) in [0, 1) -> int64 (n,)."""
        if self.kind == "constant":
            return np.full(len(uniforms), self.tokens, dtype=np.int64)
        low, high = int(self.low_tokens or 1), int(self.high_tokens or MAX_TOKENS)
        if self.kind == "uniform":
            steps = np.floor(uniforms * (high - low + 1)).astype(np.int64)
            return steps + np.int64(low)
        law, start = self._log_normal(), self._cdf(low)
        quantiles = np.clip(start + uniforms * self._mass(), 1e-300, 1 - 1e-16)
        logs = np.array([law.inv_cdf(q) for q in quantiles.tolist()], dtype=np.float64)
        lengths: Floats = np.clip(np.rint(np.exp(logs)), low, high)
        return lengths.astype(np.int64)

    def _log_normal(self) -> NormalDist:
        return NormalDist(float(np.log(self.median_tokens or 1.0)), self.sigma or 1.0)

    def _cdf(self, tokens: int) -> float:
        return self._log_normal().cdf(float(np.log(tokens)))

    def _mass(self) -> float:
        return self._cdf(int(self.high_tokens or 1)) - self._cdf(int(self.low_tokens or 1))
