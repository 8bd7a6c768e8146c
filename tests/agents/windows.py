"""Windows of real agents on the fake engine, as lines of windows.jsonl."""

import functools
import json
from typing import Any

from agents.core.agent import Transition
from agents.core.registry import AgentSetting, agent_config, make_agent
from agents.runs.tags import RunFacts, Timing
from ewsjf_env.config import to_dict
from ewsjf_env.env.env import SchedulerTuningEnv
from ewsjf_env.env.guard import make_env
from ewsjf_env.env.task import load_tuning

TIMING = Timing(ask_s=0.25, observe_s=0.125, window_wall_s=1.5)
TASK = {
    "engine": "fake",
    "rates_per_s": [4.0],
    "windows": 4,
    "window_s": 10.0,
    "settle_s": 1.0,
    "warmup_s": 2.0,
    "safety": {"enabled": True},
}


def facts(agent: str, windows: int) -> RunFacts:
    settings = to_dict(agent_config(agent))
    return RunFacts.of(load_tuning(TASK), agent, seed=3, windows=windows, settings=settings)


@functools.cache
def lines(agent: str, windows: int) -> tuple[str, ...]:
    env = make_env(TASK)
    base = env.unwrapped
    assert isinstance(base, SchedulerTuningEnv)
    space = base.parameter_space
    tuner = make_agent(agent, AgentSetting(space, seed=3), agent_config(agent))
    found = []
    observation, info = env.reset(seed=3)
    for window in range(windows):
        proposed = tuner.act()
        observation, reward, terminated, truncated, info = env.step(space.to_box(proposed))
        values = {name: info["parameters"][name] for name in space.names}
        margins = info["constraints"]
        tuner.observe(Transition(window, values, float(reward), 0.1, margins))
        guard = {k: v for k, v in info["guard"].items() if k != "incumbent"}
        record: dict[str, Any] = {
            **{key: info[key] for key in ("trace", "reward_terms", "aborted", "metrics")},
            **{key: info[key] for key in ("reference", "traffic")},
            **{"window": window, "episode": window // 4, "values": values, "proposed": proposed},
            **{"reward": float(reward), "reward_se": 0.1, "margins": margins, "guard": guard},
            **{"violation": any(m > 0 for m in margins.values()), "void": False},
            **{"failure": info["error"], "context": [], "observation": observation.tolist()},
            **{"cuts": [200, 900], "incumbent": tuner.recommend()},
            "diagnostics": tuner.diagnostics(),
        }
        found.append(json.dumps(record))
        if terminated or truncated:
            observation, info = env.reset()
    env.close()
    return tuple(found)


def records(agent: str, windows: int) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines(agent, windows)]
