"""A machine by its preset as an engine, with the budget that `vllm serve` has there by itself."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ewsjf_env.config import ConfigError, from_dict, load_yaml, nearest, to_dict
from ewsjf_env.engine.simulated.config import VIRTUAL, SimulatedConfig
from ewsjf_env.engine.simulated.latency import LatencyModel
from ewsjf_env.engine.simulated.machine import Gpu, preset_names
from ewsjf_env.shipped import config_names, find_config

GIB = 2**30


class Budget(NamedTuple):
    """What one step of vLLM may hold: tokens, and running requests."""

    max_num_batched_tokens: int
    max_num_seqs: int


def vllm_budget(gpu: Gpu) -> Budget:
    """What `vllm serve` sets on a device where nobody says otherwise.

    As `EngineArgs.get_batch_defaults` of vLLM 0.32 for its API server: by the memory of
    the device, and less on an A100, where large steps cost throughput (vLLM #17885).
    """
    if gpu.memory_bytes >= 160 * GIB:
        return Budget(16384, 1024)
    if gpu.memory_bytes >= 70 * GIB and "a100" not in gpu.name.lower():
        return Budget(8192, 1024)
    return Budget(2048, 256)


def preset_engine(latency: str) -> SimulatedConfig:
    """The engine of a preset or latency file, under vLLM's own budget for its device."""
    return SimulatedConfig(
        latency=latency, **vllm_budget(LatencyModel.load(latency).machine.gpu)._asdict()
    )


def load_engine(
    given: str | Path | None, where: str = "engine", sets: Sequence[str] = ()
) -> SimulatedConfig:
    """The engine of a preset's name, of a YAML file, or of the name of one of ours; None: default.

    `simulated` and `compiled` are the default machine on the engine of that name.

    Args:
        given: see above.
        where: what the engine was given for, in an error.
        sets: values set on a command line, as `max_num_seqs=64`, over those of the file.

    Raises:
        ConfigError: no such preset or file, or what is wrong in it.
    """
    name = str(given)
    if given is None or name in VIRTUAL or name in preset_names():
        engine = preset_engine(name) if name in preset_names() else SimulatedConfig()
        written = to_dict(engine) | ({"engine": name} if name in VIRTUAL else {})
        return from_dict(SimulatedConfig, written, where, sets)
    if not Path(given).suffix and name not in (machines := machine_names()):
        hint = nearest(name, [*VIRTUAL, *preset_names(), *machines])
        raise ConfigError(f"{where}: {name!r} is neither a preset nor a file of a machine{hint}")
    path = find_config(given, "env", where)
    data = load_yaml(path)
    engine = data.get("engine", VIRTUAL[0])
    if engine not in VIRTUAL:  # a task on a real server, for example
        raise ConfigError(f"{path}: engine: {engine!r} is not one of {', '.join(VIRTUAL)}")
    return from_dict(SimulatedConfig, data, str(path), sets)


def machine_names() -> list[str]:
    """Names of the files of `configs/env` that describe a machine; the others are tasks."""
    files = {name: find_config(name, "env") for name in config_names("env")}
    return [name for name, path in files.items() if "latency" in load_yaml(path)]


def engine_name(config: SimulatedConfig) -> str:
    """The engine beside a figure: `compiled a100, steps of 2048 tokens and 256 requests`."""
    return (
        f"{config.engine} {Path(config.latency).stem}, steps of {config.max_num_batched_tokens} "
        f"tokens and {config.max_num_seqs} requests"
    )
