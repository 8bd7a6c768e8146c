"""Stable-Baselines3's algorithms as tuners, window by window.

`SB3Agent` is SAC, PPO, TD3 or TQC behind the protocol of all tuners.  It is given the whole
observation (features and parameters in force) where others get features of the traffic.

1. Window 0 runs the defaults, as with all tuners, before the learner starts: the learner knows
   only actions that it proposed itself.  Its first policy is the defaults, too.
2. Then each window runs what the learner proposes.  A guard is part of the learner's world: it
   learns what came of its proposal, not of what was executed instead.
3. A void window is not kept; the next proposal answers the view after it.  A failed window ends
   the trace with its reward; without a finite one it is void.
4. At the end of a trace the last view's value is added, never that of the next trace's first.

What is proposed is a function of the seed and of the transitions, to the bit, on one build of
torch: a killed run is resumed by showing them again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from sb3_contrib import TQC
from stable_baselines3 import PPO, SAC, TD3
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.vec_env import DummyVecEnv

from agents.baselines import Memory
from agents.core.agent import Transition
from agents.rl.actor import ActorNetwork
from agents.rl.config import PpoConfig, SacConfig, Sb3Config, Td3Config, TqcConfig
from agents.rl.learner import CountedReplayBuffer, CountedRolloutBuffer, Learner, Step, View
from agents.rl.sb3_actor import actor_network, start_at
from ewsjf_env.config import ConfigError, to_dict
from ewsjf_env.parameters import ParameterSpace, Value

ALGORITHMS: dict[type[Sb3Config], type[BaseAlgorithm]] = {
    SacConfig: SAC,
    PpoConfig: PPO,
    Td3Config: TD3,
    TqcConfig: TQC,
}


class SB3Agent(Memory):
    """An algorithm of SB3 as a tuner; see the module.

    Args:
        name: in the registry.
        space: what is tuned; its defaults are where it starts.
        config: settings; their class names the algorithm.
        context_size: numbers in an observation, >= 1.
        seed: of everything drawn, >= 0.

    Raises:
        ConfigError: nothing to tune, or nothing to see.
    """

    _learner: Learner
    _started: bool  # a window at the defaults has counted
    _asked: View | None  # what `act` was last given, until that window is observed
    _last_view: View

    def __init__(
        self, name: str, space: ParameterSpace, config: Sb3Config, context_size: int, seed: int = 0
    ) -> None:
        super().__init__(name, space, seed)
        if len(space) == 0:
            raise ConfigError(f"agent {name!r}: the space has no parameter")
        if context_size < 1:
            raise ConfigError(f"agent {name!r}: needs an observation of at least one number")
        self._config, self._view_size = config, context_size
        self._start()

    @property
    def model(self) -> BaseAlgorithm:
        """The algorithm of SB3; read only."""
        return self._learner.model

    def act(self, context: Sequence[float] = ()) -> dict[str, Value]:
        """Values for the next window, given the observation; call it once a window."""
        view = self._checked(context)
        self._asked = self._last_view = view
        if not self._started:
            return self._space.defaults
        proposal = self._learner.proposal
        if proposal is not None and self._learner.view != view:
            self._learner.discard(view)  # another trace has begun without a word
            proposal = None
        if proposal is None:
            proposal = self._learner.begin(view)
        return self._space.from_box(proposal)

    def observe(self, transition: Transition) -> None:
        """Learn one window; one that is known already is skipped."""
        if transition.window in self._transitions:
            return
        if self._asked is None or transition.before not in ((), self._asked):
            self.act(transition.before)
        view = self._last_view
        if transition.context:  # a window that failed may have shown nothing
            view = self._checked(transition.context)
        super().observe(transition)
        self._last_view, self._asked = view, None
        if not self._started:
            self._started = not transition.void
        elif transition.void or not math.isfinite(transition.reward):
            self._learner.discard(view)
        else:
            failed = transition.failure is not None
            self._learner.finish(Step(view, transition.reward, failed, transition.ended))

    def recommend(self, context: Sequence[float] | None = None) -> dict[str, Value]:
        """What the policy does without exploring, as learnt so far."""
        view = self._last_view if context is None else self._checked(context)
        action, _ = self.model.predict(np.array(view, dtype=np.float32), deterministic=True)
        return self._space.from_box(action)

    def diagnostics(self) -> dict[str, float]:
        """What the algorithm says of its training (`train/...`)."""
        return self._learner.scalars()

    def actor_network(self) -> ActorNetwork:
        """A copy of the policy behind `recommend`."""
        return actor_network(self.model)

    def _start(self) -> None:
        self._learner = Learner(self._view_size, len(self._space), self._build)
        self._started = False
        self._asked = None
        self._last_view = (0.0,) * self._view_size

    def _build(self, env: DummyVecEnv) -> BaseAlgorithm:
        settings: dict[str, Any] = to_dict(self._config)
        policy_kwargs = {"net_arch": settings.pop("net_arch")}
        for name in ("log_std_init", "n_critics", "n_quantiles"):
            if name in settings:
                policy_kwargs[name] = settings.pop(name)
        if "noise_std" in settings:
            sigma = np.full(len(self._space), settings.pop("noise_std"))
            settings["action_noise"] = NormalActionNoise(np.zeros_like(sigma), sigma)
        if isinstance(self._config, PpoConfig):
            settings["rollout_buffer_class"] = CountedRolloutBuffer
        else:
            settings["replay_buffer_class"] = CountedReplayBuffer
        algorithm: Any = ALGORITHMS[type(self._config)]
        model: BaseAlgorithm = algorithm(
            "MlpPolicy",
            env,
            policy_kwargs=policy_kwargs,
            seed=int(np.random.SeedSequence(self._seed).generate_state(1)[0]),  # of 32 bits
            device="cpu",
            **settings,
        )
        start_at(model, self._space.to_box(self._space.defaults))
        return model

    def _checked(self, view: Sequence[float]) -> View:
        if len(view) != self._view_size:
            raise ConfigError(
                f"agent {self.name!r}: an observation of {len(view)} numbers, "
                f"expected {self._view_size}"
            )
        if not all(math.isfinite(v) for v in view):
            raise ConfigError(f"agent {self.name!r}: observation {list(view)} is not finite")
        return tuple(float(v) for v in view)
