"""A tuner of one's own beside ours: a hill climber of forty lines.

    ewsjf train --agent docs/examples/own_tuner.py:HillClimber --config tuning --windows 20
    ewsjf compare --agents bayes,docs/examples/own_tuner.py:HillClimber,default --out runs/mine

With settings of its own, the arm `hill` of a comparison:

    ewsjf compare --agents bayes,hill,default --out runs/mine
        --set 'arms.hill={agent: docs/examples/own_tuner.py:HillClimber, settings: {step: 0.3}}'

Nothing is registered.  A package offers its tuners by name instead, for `--agent hill`:

    [project.entry-points."ewsjf.agents"]
    hill = "my_package.own_tuner:HillClimber"
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from agents import Transition
from ewsjf_env.config import check_range
from ewsjf_env.parameters import ParameterSpace, Value


@dataclass(frozen=True)
class HillConfig:
    """Settings, with defaults; `--agent-config FILE.yaml` changes them.

    Attributes:
        step: standard deviation of a move, as a share of every parameter's range, (0, 1].
    """

    step: float = 0.1

    def __post_init__(self) -> None:
        check_range("step", self.step, 0.0, 1.0, low_open=True)


class HillClimber:
    """Moves from the best point so far; stays where a move was better and feasible.

    A constructor asks by name for what it needs: name, space, config, seed, context_size, folder,
    task and the rest of `agents.core.registry.OFFERED`.
    """

    def __init__(self, name: str, space: ParameterSpace, config: HillConfig, seed: int = 0) -> None:
        self.name = name
        self._space, self._config, self._seed = space, config, seed
        self._seen: set[int] = set()
        self._best, self._best_reward = space.defaults, -np.inf

    @property
    def windows(self) -> int:
        """Windows observed, void and failed ones included."""
        return len(self._seen)

    def act(self, context: Sequence[float] = ()) -> dict[str, Value]:
        """The values of the next window: a function of the seed and of what was observed."""
        if not self._seen:
            return self._space.defaults
        random = np.random.default_rng([self._seed, self.windows])
        move = random.normal(0.0, self._config.step, len(self._space))
        return self._space.from_unit(np.clip(self._space.to_unit(self._best) + move, 0.0, 1.0))

    def observe(self, transition: Transition) -> None:
        """Learn one window; one that is known already is skipped, as a resumed run shows all."""
        if transition.window in self._seen:
            return
        self._seen.add(transition.window)
        feasible = all(margin <= 0.0 for margin in transition.margins.values())
        if transition.measured and feasible and transition.reward > self._best_reward:
            self._best, self._best_reward = dict(transition.values), transition.reward

    def recommend(self, context: Sequence[float] | None = None) -> dict[str, Value]:
        """The values to serve with."""
        return dict(self._best)

    def diagnostics(self) -> dict[str, float]:
        """Curves for TensorBoard, by tag."""
        return {"hill/best_reward": float(self._best_reward)}
