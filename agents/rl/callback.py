"""A callback for training loops of one's own with Stable-Baselines3: what a reward is made of.

    from stable_baselines3 import SAC
    from agents.rl.callback import WindowLogger
    from ewsjf_env import make_env

    env = make_env({"workload": "mixed", "rates_per_s": [4.5], "window_s": 30.0})
    model = SAC("MlpPolicy", env, tensorboard_log="runs/sac", learning_starts=20)
    model.learn(400, callback=WindowLogger())

logs, beside what Stable-Baselines3 says of its losses, as means over environments and windows since
the last line:

    reward/<term>         the terms that add up to the reward, and reward/total
    ttft/<metric>         TTFT in seconds: mean, p99, and mean and p95 of short and long prompts
    constraints/<name>    margins, <= 0 is feasible
    window/<what>         output tokens per second, aborted and failed windows
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stable_baselines3.common.callbacks import BaseCallback

TTFT = (
    *("ttft_mean_s", "ttft_p99_s", "ttft_short_mean_s", "ttft_short_p95_s"),
    *("ttft_long_mean_s", "ttft_long_p95_s"),
)


class WindowLogger(BaseCallback):
    """Writes the windows of all environments to the logger of the model; see the module.

    Args:
        every: windows from one line of the log to the next, >= 1.
    """

    def __init__(self, every: int = 1) -> None:
        super().__init__()
        self._every = every

    def _on_step(self) -> bool:
        for info in self.locals["infos"]:
            for tag, value in window_scalars(info).items():
                self.logger.record_mean(tag, value)
        if self.n_calls % self._every == 0:
            self.logger.dump(self.num_timesteps)
        return True


def window_scalars(info: Mapping[str, Any]) -> dict[str, float]:
    """Scalars of one window's `info`, by tag; what was not measured is left out."""
    terms = info["reward_terms"]
    metrics = info["metrics"] or {}
    found = {f"reward/{name}": value for name, value in terms.items()}
    found["reward/total"] = sum(terms.values())
    found |= {f"ttft/{name.removeprefix('ttft_')}": metrics.get(name) for name in TTFT}
    found |= {f"constraints/{name}": value for name, value in info["constraints"].items()}
    found["window/output_tokens_per_s"] = metrics.get("output_tokens_per_s")
    found["window/aborted"] = bool(info["aborted"])
    found["window/failed"] = info["error"] is not None
    return {tag: float(value) for tag, value in found.items() if value is not None}
