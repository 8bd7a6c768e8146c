"""Settings of the agents of Stable-Baselines3.

The names are those of its constructors.  The defaults suit windows, which are few and dear: a
learner that waits for thousands of steps, as in its simulators, would learn nothing in a day.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ewsjf_env.config import ConfigError, check_range


@dataclass(frozen=True)
class _Common:
    """What all four share.

    Attributes:
        learning_rate: of Adam, > 0.
        gamma: discount of the next window's value, [0, 1).  Small: what a window does is mostly
            felt in it; the queue that it leaves behind reaches one or two windows further.
        net_arch: widths of the hidden layers, of the actor and of each critic.
        batch_size: windows in a gradient step, >= 2.
    """

    learning_rate: float = 1e-3
    gamma: float = 0.5
    net_arch: tuple[int, ...] = (64, 64)
    batch_size: int = 64

    def __post_init__(self) -> None:
        check_range("learning_rate", self.learning_rate, 0.0, 1.0, low_open=True)
        check_range("gamma", self.gamma, 0.0, 0.9999)
        check_range("batch_size", self.batch_size, 2)
        for width in self.net_arch:
            check_range("net_arch", width, 1, 4096)


@dataclass(frozen=True)
class _OffPolicy(_Common):
    """What learners from a replay buffer share.

    Attributes:
        learning_starts: uniformly drawn windows before the policy proposes, >= 1.
        buffer_size: windows remembered, the newest, >= `batch_size`.
        tau: step of the target networks towards the others, (0, 1].
        train_freq: learn after every so many windows, >= 1.
        gradient_steps: so many steps each time, >= 1.
    """

    learning_starts: int = 32
    buffer_size: int = 10_000
    tau: float = 0.01
    train_freq: int = 1
    gradient_steps: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("learning_starts", self.learning_starts, 1)
        check_range("buffer_size", self.buffer_size, self.batch_size)
        check_range("tau", self.tau, 0.0, 1.0, low_open=True)
        check_range("train_freq", self.train_freq, 1)
        check_range("gradient_steps", self.gradient_steps, 1)


@dataclass(frozen=True)
class SacConfig(_OffPolicy):
    """Soft actor-critic.

    Attributes:
        ent_coef: weight of the entropy, >= 0, or `auto_<start>`: adapted to the target entropy.
        target_entropy: of the policy, nats; `auto`: minus the number of parameters.
    """

    ent_coef: float | str = "auto_0.1"
    target_entropy: float | str = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.ent_coef, str):
            match = re.fullmatch(r"auto(?:_(\d+(?:\.\d+)?))?", self.ent_coef)
            if match is None or (match[1] is not None and float(match[1]) <= 0.0):
                raise ConfigError(
                    f"ent_coef: {self.ent_coef!r} is not a number >= 0, auto or auto_<number > 0>"
                )
        else:
            check_range("ent_coef", self.ent_coef, 0.0)
        if isinstance(self.target_entropy, str):
            if self.target_entropy != "auto":
                raise ConfigError(f"target_entropy: {self.target_entropy!r} is no number or auto")
        else:
            check_range("target_entropy", self.target_entropy)


@dataclass(frozen=True)
class TqcConfig(SacConfig):
    """SAC with truncated quantile critics.

    Attributes:
        n_critics: number of critics, >= 1.
        n_quantiles: of each critic, >= 2.
        top_quantiles_to_drop_per_net: the largest, against optimism, >= 0, < `n_quantiles`.
    """

    n_critics: int = 2
    n_quantiles: int = 25
    top_quantiles_to_drop_per_net: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("n_critics", self.n_critics, 1)
        check_range("n_quantiles", self.n_quantiles, 2)
        check_range(
            "top_quantiles_to_drop_per_net",
            self.top_quantiles_to_drop_per_net,
            0,
            self.n_quantiles - 1,
        )


@dataclass(frozen=True)
class Td3Config(_OffPolicy):
    """Twin delayed deterministic policy gradient.

    Attributes:
        noise_std: standard deviation of the proposals round the policy, action units, >= 0.
        policy_delay: gradient steps of the critics for one of the actor, >= 1.
        target_policy_noise: standard deviation of the noise in the targets, >= 0.
        target_noise_clip: its largest size, >= 0.
    """

    noise_std: float = 0.4
    policy_delay: int = 2
    target_policy_noise: float = 0.2
    target_noise_clip: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("noise_std", "target_policy_noise", "target_noise_clip"):
            check_range(name, getattr(self, name), 0.0, 2.0)
        check_range("policy_delay", self.policy_delay, 1)


@dataclass(frozen=True)
class PpoConfig(_Common):
    """Proximal policy optimisation.

    Attributes:
        n_steps: windows collected before the policy is updated, a multiple of `batch_size`.
        n_epochs: passes over them, >= 1.
        gae_lambda: trace decay of the advantages, [0, 1].
        clip_range: largest useful change of a proposal's probability, (0, 1).
        ent_coef: weight of the entropy, >= 0.
        vf_coef: weight of the critic's loss, >= 0.
        max_grad_norm: longer gradients are shortened to it, > 0.
        target_kl: an update stops beyond 1.5 times this divergence; None: never.
        log_std_init: ln of the first standard deviation of the proposals.  At SB3's 0 a third of
            them lies outside of the range of the parameters.
    """

    batch_size: int = 16
    n_steps: int = 16
    n_epochs: int = 10
    gae_lambda: float = 0.9
    clip_range: float = 0.2
    ent_coef: float = 0.0
    vf_coef: float = 0.5
    max_grad_norm: float = 0.5
    target_kl: float | None = None
    log_std_init: float = -1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("n_steps", self.n_steps, 2)
        if self.n_steps % self.batch_size:
            raise ConfigError(
                f"n_steps: {self.n_steps} is not a multiple of batch_size, {self.batch_size}"
            )
        check_range("n_epochs", self.n_epochs, 1)
        check_range("gae_lambda", self.gae_lambda, 0.0, 1.0)
        check_range("clip_range", self.clip_range, 0.0, 1.0, low_open=True)
        check_range("ent_coef", self.ent_coef, 0.0)
        check_range("vf_coef", self.vf_coef, 0.0)
        check_range("max_grad_norm", self.max_grad_norm, 0.0, low_open=True)
        if self.target_kl is not None:
            check_range("target_kl", self.target_kl, 0.0, low_open=True)
        check_range("log_std_init", self.log_std_init, -10.0, 2.0)


Sb3Config = SacConfig | TqcConfig | Td3Config | PpoConfig
