"""Settings of the agents of Stable-Baselines3.

The names are those of its constructors.  The defaults suit windows, which are few and dear: a
learner that waits for thousands of steps, as in its simulators, would learn nothing in a day.
"""

from __future__ import annotations

import re
from typing import Annotated

from ewsjf_env.config import (
    ConfigError,
    Count,
    NotNegative,
    Positive,
    PositiveShare,
    Range,
    Share,
    check_range,
    settings,
)


@settings
class _Common:
    """What all four share."""

    learning_rate: PositiveShare = 1e-3
    """Learning rate of Adam."""
    gamma: Annotated[float, Range(0.0, 0.9999)] = 0.5
    """Discount of the next window's value. Small: what a window does is mostly felt in it; the
    queue that it leaves behind reaches one or two windows further.
    """
    net_arch: tuple[Annotated[int, Range(1, 4096)], ...] = (64, 64)
    """Widths of the hidden layers, of the actor and of each critic."""
    batch_size: Annotated[int, Range(2)] = 64
    """Windows in a gradient step."""


@settings
class _OffPolicy(_Common):
    """What learners from a replay buffer share."""

    learning_starts: Count = 32
    """Uniformly drawn windows before the policy proposes."""
    buffer_size: int = 10_000
    """Windows remembered, the newest, at least `batch_size`."""
    tau: PositiveShare = 0.01
    """Step of the target networks towards the others."""
    train_freq: Count = 1
    """Learn after every so many windows."""
    gradient_steps: Count = 4
    """Gradient steps each time."""

    def __post_init__(self) -> None:
        check_range("buffer_size", self.buffer_size, self.batch_size)


@settings
class SacConfig(_OffPolicy):
    """Soft actor-critic."""

    ent_coef: NotNegative | str = "auto_0.1"
    """Weight of the entropy, or `auto_<start>`: adapted to the target entropy."""
    target_entropy: float | str = "auto"
    """Entropy that the policy is held at, nats; `auto`: minus the number of parameters."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.ent_coef, str):
            match = re.fullmatch(r"auto(?:_(\d+(?:\.\d+)?))?", self.ent_coef)
            if match is None or (match[1] is not None and float(match[1]) <= 0.0):
                raise ConfigError(
                    f"ent_coef: {self.ent_coef!r} is not a number >= 0, auto or auto_<number > 0>"
                )
        if isinstance(self.target_entropy, str) and self.target_entropy != "auto":
            raise ConfigError(f"target_entropy: {self.target_entropy!r} is no number or auto")


@settings
class TqcConfig(SacConfig):
    """SAC with truncated quantile critics."""

    n_critics: Count = 2
    """Number of critics."""
    n_quantiles: Annotated[int, Range(2)] = 25
    """Quantiles of each critic."""
    top_quantiles_to_drop_per_net: int = 2
    """Quantiles left out, the largest, against optimism; below `n_quantiles`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(
            "top_quantiles_to_drop_per_net",
            self.top_quantiles_to_drop_per_net,
            0,
            self.n_quantiles - 1,
        )


@settings
class Td3Config(_OffPolicy):
    """Twin delayed deterministic policy gradient."""

    noise_std: Annotated[float, Range(0.0, 2.0)] = 0.4
    """Standard deviation of the proposals round the policy, action units."""
    policy_delay: Count = 2
    """Gradient steps of the critics for one of the actor."""
    target_policy_noise: Annotated[float, Range(0.0, 2.0)] = 0.2
    """Standard deviation of the noise in the targets."""
    target_noise_clip: Annotated[float, Range(0.0, 2.0)] = 0.5
    """Largest size of the noise in the targets."""


@settings
class PpoConfig(_Common):
    """Proximal policy optimisation."""

    batch_size: Annotated[int, Range(2)] = 16
    """Windows in a gradient step."""
    n_steps: Annotated[int, Range(2)] = 16
    """Windows collected before the policy is updated, a multiple of `batch_size`."""
    n_epochs: Count = 10
    """Passes over these windows."""
    gae_lambda: Share = 0.9
    """Trace decay of the advantages."""
    clip_range: PositiveShare = 0.2
    """Largest useful change of a proposal's probability."""
    ent_coef: NotNegative = 0.0
    """Weight of the entropy."""
    vf_coef: NotNegative = 0.5
    """Weight of the critic's loss."""
    max_grad_norm: Positive = 0.5
    """Longer gradients are shortened to it."""
    target_kl: Positive | None = None
    """An update stops beyond 1.5 times this divergence; null: never."""
    log_std_init: Annotated[float, Range(-10.0, 2.0)] = -1.0
    """Natural logarithm of the first standard deviation of the proposals. At SB3's 0 a third of
    them lies outside of the range of the parameters.
    """

    def __post_init__(self) -> None:
        if self.n_steps % self.batch_size:
            raise ConfigError(
                f"n_steps: {self.n_steps} is not a multiple of batch_size, {self.batch_size}"
            )


Sb3Config = SacConfig | TqcConfig | Td3Config | PpoConfig
