"""Small tuning runs on the fake engine, as folders."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from agents.base import Transition
from agents.registry import AgentSetting, agent_config, make_agent
from agents.run_view import open_view
from ewsjf_env.config import to_dict
from ewsjf_env.env import SchedulerTuningEnv
from ewsjf_env.tuning import load_tuning

TASK: Mapping[str, Any] = {
    "engine": "fake",
    "fake": {"optimum_seed": 1, "active": 2, "sensitivity": 6.0, "noise_sigma": 0.05},
    "workload": "mixed",
    "rates_per_s": [6.0],
    "tuned": ["lambda", "mu"],
    "windows": 4,
    "window_s": 20.0,
    "settle_s": 4.0,
    "warmup_s": 5.0,
}


def make_run(
    folder: Path,
    agent: str,
    windows: int,
    context: tuple[str, ...] = (),
    settings: Mapping[str, Any] | None = None,
    seed: int = 0,
    **changes: Any,
) -> Path:
    """Play `agent` and leave its windows in `folder`; `changes` replace keys of `TASK`."""
    task = load_tuning({**TASK, **changes})
    config = agent_config(agent, settings)
    folder.mkdir(parents=True)
    data = {
        "schema_version": 1,
        "parameter_space_hash": task.space().content_hash,
        "agent": {"name": agent, **to_dict(config)},
        "seed": seed,
        "windows": windows,
        "context": list(context),
        "env": to_dict(task),
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(data))
    (folder / "versions.json").write_text(json.dumps({"git": {"commit": "abc", "dirty": False}}))
    env = SchedulerTuningEnv(task)
    columns = [env.feature_names.index(name) for name in context]
    tuner = make_agent(agent, AgentSetting(env.parameter_space, len(context), seed), config)
    observation, _ = env.reset(seed=seed)
    with (folder / "windows.jsonl").open("w") as file:
        for window in range(windows):
            if window and window % task.windows == 0:
                observation, _ = env.reset()
            values = tuner.act([float(observation[c]) for c in columns])
            observation, reward, _, _, info = env.step(env.parameter_space.to_box(values))
            record = Transition(
                window=window,
                values={name: info["parameters"][name] for name in env.parameter_space.names},
                reward=float(reward),
                margins=info["constraints"],
                context=tuple(float(observation[c]) for c in columns),
            )
            tuner.observe(record)
            extra = {"observation": observation.tolist(), "metrics": info["metrics"]}
            file.write(json.dumps({**record.to_dict(), **extra}) + "\n")
    env.close()
    assert len(open_view(folder).records) == windows
    return folder
