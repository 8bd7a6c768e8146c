"""The actor inside a Stable-Baselines3 model: read as plain numpy, and where it starts."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import nn

from agents.rl.actor import ActorNetwork, DenseLayer

_SMALL = 0.01  # gain of the last layer's weights, as SB3 sets it for PPO
_INSIDE = 0.95  # a start nearer to the edge than this would leave tanh without a slope


def actor_network(model: BaseAlgorithm) -> ActorNetwork:
    """A copy of what `model.predict(view, deterministic=True)` computes.

    Args:
        model: PPO, SAC, TD3 or TQC with an `MlpPolicy` and no state-dependent exploration.
    """
    modules = _modules(model)
    last = _linear(modules)[-1]
    layers = [
        DenseLayer(
            weight=_copied(module.weight),
            bias=_copied(module.bias),
            activation="identity" if module is last else _ACTIVATIONS[type(after)],
        )
        for module, after in pairwise([*modules, nn.Identity()])
        if isinstance(module, nn.Linear)
    ]
    return ActorNetwork(tuple(layers), "tanh" if model.policy.squash_output else "clip")


def start_at(model: BaseAlgorithm, action: NDArray[np.float32]) -> None:
    """Make `action` (in [-1, 1]^d) what a new model does, nearly, whatever it sees.

    An operator's values are a better start than the middle of every range.
    """
    last = _linear(_modules(model))[-1]
    bias = action
    if model.policy.squash_output:
        bias = np.arctanh(np.clip(action, -_INSIDE, _INSIDE))
    nn.init.orthogonal_(last.weight, gain=_SMALL)
    with torch.no_grad():
        last.bias.copy_(torch.as_tensor(bias))
    policy: Any = model.policy
    target = getattr(policy, "actor_target", None)  # of TD3
    if target is not None:
        target.load_state_dict(policy.actor.state_dict())


def _modules(model: BaseAlgorithm) -> list[nn.Module]:
    """The actor's layers and activations in order; the squash may come last, or be implied."""
    policy: Any = model.policy
    if isinstance(policy, ActorCriticPolicy):  # PPO
        return [*policy.mlp_extractor.policy_net, policy.action_net]
    if isinstance(policy.actor.mu, nn.Sequential):  # TD3
        return list(policy.actor.mu)
    return [*policy.actor.latent_pi, policy.actor.mu]  # SAC, TQC


_ACTIVATIONS: dict[type[nn.Module], Any] = {nn.ReLU: "relu", nn.Tanh: "tanh"}


def _linear(modules: list[nn.Module]) -> list[nn.Linear]:
    return [module for module in modules if isinstance(module, nn.Linear)]


def _copied(tensor: torch.Tensor) -> NDArray[np.float32]:
    copied: NDArray[np.float32] = tensor.detach().cpu().numpy().copy()
    return copied
