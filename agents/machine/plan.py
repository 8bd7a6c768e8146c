"""The plan of a measurement of a machine, and the file that keeps what it finds.

The file is one result, written anew after every piece of work.  A stage that fails is recorded with
its reason and the others go on; started again, only what is missing is done.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agents.core.store import Key, Store
from agents.experiments.source import Source
from ewsjf_env.config import ConfigError, check_range, to_dict
from ewsjf_env.engine.simulated.latency import LatencyModel
from ewsjf_env.engine.stand_in.settings import ExecutorSettings

SCHEMA_VERSION = 1
RESULT, LATENCY = "gpu_run.json", "latency.json"
STEPS = "steps.jsonl"
REQUESTS = "requests.jsonl"
STAGES = ("machine", "steps", "capacity", "serving", "prediction", "hot_swap", "tuning")
SIMULATED = "simulated"


@dataclass(frozen=True)
class GpuPlan:
    """One measurement.

    Attributes:
        like: preset of the same model on a machine like this one; what is fitted starts there.
        simulate: no device: steps take the time of `like`; None: the real one.
        sources: the traffics.
        policies: as in `parse_policy`.
        loads: fractions of the FCFS capacity.
        duration_s: of one serving run.
        swap_s: seconds of load with a policy change every second.
        windows: of the tuner; 0: it does not run.
        window_s: of each.
        log_serving: note the steps of all runs; one server does all then, and its costs start
            from `like`, not from what was fitted.
        ramps: how often the traffic is sent whose steps are fitted.
        ramp_s: of each.
        max_num_batched_tokens, max_num_seqs, max_model_len: of the server.
        port: on loopback.
        vllm_arguments: further ones of `vllm serve`.
    """

    like: str = "llama3-8b_h100"
    simulate: ExecutorSettings | None = None
    sources: tuple[Source, ...] = (Source("paper_mix"), Source("mixed"))
    policies: tuple[str, ...] = ("fcfs", "ewsjf")
    loads: tuple[float, ...] = (0.7, 0.95, 1.3)
    duration_s: float = 30.0
    swap_s: float = 20.0
    windows: int = 6
    window_s: float = 10.0
    log_serving: bool = False
    ramps: int = 2
    ramp_s: float = 30.0
    max_num_batched_tokens: int = 2048
    max_num_seqs: int = 256
    max_model_len: int = 8192
    port: int = 8177
    vllm_arguments: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("duration_s", "swap_s", "window_s"):
            check_range(f"--{name.removesuffix('_s')}", getattr(self, name), 1.0, 3600.0)
        for load in self.loads:
            check_range("--loads", load, 0.0, 10.0, low_open=True)
        check_range("--windows", self.windows, 0)
        check_range("--ramps", self.ramps, 1)
        check_range("ramp_s", self.ramp_s, 1.0, 3600.0)
        LatencyModel.load(self.like)  # a typing error ends this before a server is started

    @property
    def url(self) -> str:
        """Of the server."""
        return f"http://127.0.0.1:{self.port}"


class Measurement:
    """The file of one measurement; stages by name, each with `ok` and, if not, `error`.

    Attributes:
        step_log: name of the log of the server that is started next, or runs; None: it has none.
    """

    def __init__(self, folder: Path, plan: GpuPlan, device: str) -> None:
        """Open the folder, or make it.

        Args:
            folder: of the measurement.
            plan: what is measured; the port may change, else it must be that of the folder.
            device: `SIMULATED`, or the name of the device.

        Raises:
            ConfigError: the folder holds another measurement.
        """
        self.folder, self.plan = folder, plan
        self.step_log: str | None = None
        folder.mkdir(parents=True, exist_ok=True)
        self._store, self._key = Store(folder, sealed=False), Key(Path(RESULT).stem)
        wanted = json.loads(json.dumps(to_dict(dataclasses.replace(plan, port=0))))
        self.data: dict[str, Any] = {
            "schema_version": SCHEMA_VERSION,
            "device": device,
            "plan": wanted,
            "stages": {},
        }
        found = self._store.find(self._key)
        if found is not None:
            for name in ("device", "plan"):
                if found[name] != self.data[name]:
                    raise ConfigError(f"--out: {folder} holds a measurement of another {name}")
            self.data = found

    @property
    def simulated(self) -> bool:
        """Whether there is no device."""
        return bool(self.data["device"] == SIMULATED)

    def stage(self, name: str) -> dict[str, Any]:
        """What a stage has found so far; empty where it has not begun."""
        found: dict[str, Any] = self.data["stages"].setdefault(name, {})
        return found

    def found(self, name: str) -> dict[str, Any]:
        """The same for reading: a stage that has not begun is not listed."""
        stage: dict[str, Any] = self.data["stages"].get(name, {})
        return stage

    def done(self, name: str) -> bool:
        """Whether a stage has nothing left to do."""
        return bool(self.found(name).get("ok"))

    def note(self, name: str, **values: Any) -> None:
        """Add to a stage, and write the file."""
        self.stage(name).update(values)
        self.save()

    def save(self) -> None:
        """Write the file, whole or not at all."""
        self._store.keep(self._key, self.data)

    @property
    def latency(self) -> str:
        """The fitted latency model; the preset where nothing could be fitted."""
        fitted = self.folder / LATENCY
        return str(fitted) if fitted.exists() else self.plan.like
