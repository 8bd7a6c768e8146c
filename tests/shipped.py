"""Every shipped file of settings, by name: how it is read, and the values that it means.

`python tests/shipped.py` writes `shipped_values.json` anew, after a change of values that is meant.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from agents.core.registry import agent_config
from agents.experiments.policy_study.config import PolicyStudyConfig
from agents.experiments.tuners.config import ComparisonConfig
from ewsjf_env.config import from_dict, load_yaml, to_dict
from ewsjf_env.engine.simulated.config import SimulatedConfig
from ewsjf_env.engine.simulated.latency import LatencyModel
from ewsjf_env.engine.simulated.machine import PRESET_DIRECTORY
from ewsjf_env.env.task import load_tuning
from ewsjf_env.workload.spec import ReplaySpec
from ewsjf_env.workload.synthetic import SyntheticWorkload

ROOT = Path(__file__).parents[1]
VALUES = Path(__file__).with_name("shipped_values.json")


def settings() -> Iterator[tuple[str, Any]]:
    """Name and settings of each file."""
    for path in sorted((ROOT / "configs").rglob("*.yaml")):
        yield f"{path.parent.name}/{path.name}", _read(path)
    for path in sorted(PRESET_DIRECTORY.glob("*.json")):
        yield f"presets/{path.name}", LatencyModel.load(path)


def values() -> dict[str, Any]:
    """Plain values by name of the file."""
    found = {name: to_dict(read) for name, read in settings()}
    copied: dict[str, Any] = json.loads(json.dumps(found))
    return copied


def _read(path: Path) -> Any:
    data = load_yaml(path)
    if path.parent.name == "agents":
        return agent_config(path.stem, data, str(path))
    if path.parent.name == "workloads":
        kind: type = ReplaySpec if "trace" in data else SyntheticWorkload
        return from_dict(kind, data, str(path))
    if path.parent.name == "env":
        # Every engine's file names the machine first; a task has traffic.
        return SimulatedConfig.load(path) if "latency" in data else load_tuning(path)
    if path.name == "policy_study.yaml":
        return from_dict(PolicyStudyConfig, data, str(path))
    if path.name == "compare_recorded.yaml":  # the recording of one task is not in the repository
        tasks = {name: task for name, task in data["tasks"].items() if name != "azure_code"}
        data = {**data, "tasks": tasks}
    return from_dict(ComparisonConfig, data, str(path))


if __name__ == "__main__":
    rows = [f"{json.dumps(k)}: {json.dumps(v, sort_keys=True)}" for k, v in values().items()]
    VALUES.write_text("{\n" + ",\n".join(rows) + "\n}\n", encoding="utf-8")
