"""The configuration of a study of policies: families, traffics and engines, from one YAML file.

Every key is explained in `configs/policy_study.yaml`.  Paths in the file are relative to it.  A
policy is tuned on one part of a workload and judged on another: a recording is split in time (or in
rows, where it has no times), a synthetic workload has seeds for training and others for judging.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from agents.experiments.policy_study.families import FamilyConfig, completed
from agents.experiments.source import Source
from ewsjf_env.config import (
    ConfigError,
    Count,
    Names,
    NotNegative,
    Positive,
    Range,
    check_range,
    from_dict,
    load_yaml,
    nearest,
    settings,
    to_dict,
)
from ewsjf_env.engine.simulated.config import SimulatedConfig
from ewsjf_env.engine.simulated.preset import load_engine
from ewsjf_env.seeds import JUDGED
from ewsjf_env.shipped import find_config
from ewsjf_env.workload import Workload, load_workload
from ewsjf_env.workload.source import MissingTrace
from ewsjf_env.workload.spec import RECORDINGS, YAML_SUFFIXES, ReplaySpec, replay_workload

MAX_SEEDS = 1000
Loads = tuple[Positive, ...]


@dataclass(frozen=True)
class StudySource(Source):
    """The traffic of a workload of the study; `path` is a trace file or a workload.

    Attributes:
        label: what it is called in results.
        part: of a recording.
        max_prompt_tokens: prompts above are capped.
    """

    label: str = ""
    part: tuple[float, float] = (0.0, 1.0)
    max_prompt_tokens: int | None = None

    def load(self) -> Workload:
        """Read it, once a process; ConfigError when anything is wrong with it."""
        return _load(self)


@functools.lru_cache(maxsize=64)
def _load(source: StudySource) -> Workload:
    if not source.is_trace:
        workload = load_workload(source.path)
        return dataclasses.replace(workload, name=source.label)  # type: ignore[type-var]
    spec = ReplaySpec(
        trace=source.path,
        name=source.label,
        format=source.trace_format,
        jitter_s=source.jitter_s,
        max_prompt_tokens=source.max_prompt_tokens,
        part=source.part,
    )
    return replay_workload(spec, Path(source.path))


@settings
class WorkloadConfig:
    """One traffic on one machine; give `trace` or `workload`."""

    trace: str | None = None
    """File in the folder of traces."""
    workload: str | None = None
    """Built-in name or YAML file of synthetic traffic."""
    title: str = ""
    """What tables call it."""
    jitter_s: NotNegative = 0.0
    """Noise on recorded times, seconds."""
    max_prompt_tokens: Count | None = None
    """Longer prompts are capped; null: none."""
    engine: str | None = None
    """File of engine settings; null: the defaults."""
    duration_s: Positive = 100.0
    """Length of a judged window, seconds."""
    run_s: Positive = 1.0
    """Core seconds that a judged window takes, about; for the estimate."""

    def __post_init__(self) -> None:
        if (self.trace is None) == (self.workload is None):
            raise ConfigError("trace, workload: give exactly one of them")


@settings
class TuningPlan:
    """How the families are tuned."""

    loads: Loads = (0.7, 0.95, 1.3)
    """Loads of the training traffic."""
    seeds: Annotated[int, Range(1, MAX_SEEDS)] = 2
    """Training traces a load that all points meet."""
    finalists: Count = 3
    """Of the first round so many of the best points, the best at each load and the defaults meet
    more traces.
    """
    finalist_seeds: int = 6
    """Traces a load that they meet in all, at least `seeds`."""
    duration_factor: Positive = 0.6
    """Length of a training window over that of a judged one."""

    def __post_init__(self) -> None:
        _check_loads("loads", self.loads)
        check_range("finalist_seeds", self.finalist_seeds, self.seeds, MAX_SEEDS)


@settings
class ControlPlan:
    """Settings of the engine that could explain a gain without reordering."""

    engines: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """What differs from the workload's engine, by label."""
    workloads: Names = ()
    """Workloads on which they are tried; empty: all."""
    loads: tuple[Positive, ...] = ()
    """Judged loads at which they are tried."""

    def __post_init__(self) -> None:
        for label, changes in self.engines.items():
            from_dict(SimulatedConfig, changes, f"engines: {label}")
        if self.engines:
            _check_loads("loads", self.loads)


@settings
class PolicyStudyConfig:
    """The whole study."""

    workloads: Mapping[str, WorkloadConfig]
    """Traffic by name."""
    families: Mapping[str, FamilyConfig]
    """What is compared, by the label that begins the names of its arms."""
    traces: str = "."
    """Folder of the recordings; relative to the YAML file."""
    engine: Literal["compiled", "simulated"] = "compiled"
    """Who schedules: compiled code, or vLLM's own scheduler, a thousand times slower."""
    split: Annotated[float, Range(0.01, 0.99)] = 0.6
    """Recordings are trained on before and judged after this fraction."""
    loads: Loads = (0.5, 0.7, 0.95, 1.2, 1.5)
    """Loads at which policies are judged, of the capacity under first come, first served."""
    seeds: Annotated[int, Range(1, MAX_SEEDS)] = 10
    """Judged traces a load, at least 2 for intervals."""
    first_seed: Annotated[int, Range(0, JUDGED.stop - 2 * MAX_SEEDS)] = 0
    """First seed of the judged traces; another one gives fresh traces to a study that was changed
    after a look at its results.
    """
    min_requests: Count = 30
    """A window with fewer requests at the lowest load is passed over."""
    extra_seeds: Annotated[int, Range(0, MAX_SEEDS)] = 10
    """Seeds added where the comparison that matters is undecided."""
    extra_rounds: Annotated[int, Range(0, 10)] = 2
    """Seeds are added at most so often."""
    aim: NotNegative = 0.15
    """Share by which tuned EWSJF should exceed the best single rival's J."""
    tuning: TuningPlan = field(default_factory=TuningPlan)
    """How the families are tuned."""
    controls: ControlPlan = field(default_factory=ControlPlan)
    """Settings of the engine that could explain a gain without reordering."""

    def __post_init__(self) -> None:
        if not self.workloads:
            raise ConfigError("workloads: none is given")
        _check_loads("loads", self.loads)
        object.__setattr__(self, "families", completed(self.families))
        for name in self.controls.workloads:
            if name not in self.workloads:
                hint = nearest(name, self.workloads)
                raise ConfigError(f"controls: workloads: unknown {name!r}{hint}")
        for load in self.controls.loads:
            if load not in self.loads:
                raise ConfigError(f"controls: loads: {load:g} is not one of loads {self.loads}")

    def only(self, names: Sequence[str]) -> PolicyStudyConfig:
        """The same study with some of its workloads; ConfigError for an unknown one."""
        for name in names:
            if name not in self.workloads:
                raise ConfigError(f"--only: unknown {name!r}{nearest(name, self.workloads)}")
        kept = {name: self.workloads[name] for name in self.workloads if name in names}
        # An empty list would mean all workloads: without any of those named there are no controls.
        inside = tuple(n for n in self.controls.workloads if n in kept)
        controls = dataclasses.replace(self.controls, workloads=inside)
        if self.controls.workloads and not inside:
            controls = ControlPlan()
        return dataclasses.replace(self, workloads=kept, controls=controls)

    def machine(self, name: str) -> SimulatedConfig:
        """Settings of the engine that serves a workload."""
        file = self.workloads[name].engine
        machine = SimulatedConfig() if file is None else load_engine(file)
        return dataclasses.replace(machine, engine=self.engine)

    def source(self, name: str, training: bool) -> StudySource:
        """The traffic on which policies are tuned, or the one that judges them."""
        workload = self.workloads[name]
        label = f"{name}_training" if training else name
        if workload.workload is not None:
            return StudySource(workload.workload, label=label)
        return StudySource(
            str(Path(self.traces) / str(workload.trace)),
            is_trace=True,
            jitter_s=workload.jitter_s,
            label=label,
            part=(0.0, self.split) if training else (self.split, 1.0),
            max_prompt_tokens=workload.max_prompt_tokens,
        )

    def controlled(self, name: str) -> dict[str, SimulatedConfig]:
        """Engines of the controls of a workload by label; those that change nothing are left out.

        Raises:
            ConfigError: settings that the workload's engine cannot have.
        """
        if self.controls.workloads and name not in self.controls.workloads:
            return {}
        base = self.machine(name)
        found = {}
        for label, changes in self.controls.engines.items():
            try:
                engine = dataclasses.replace(base, **changes)  # type: ignore[arg-type]
            except ConfigError as error:
                raise ConfigError(f"controls: {label}: {name}: {error}") from None
            if engine != base:
                found[label] = engine
        return found


def load_study(
    path: str | Path, traces: str | None = None, sets: Sequence[str] = ()
) -> PolicyStudyConfig:
    """Read the YAML file.

    Args:
        path: of the file.
        traces: folder of the recordings, instead of the file's.
        sets: values set on a command line, as `tuning.seeds=2`, over those of the file.

    Raises:
        ConfigError: naming what is wrong with it, or with a file that it names.
    """
    file = find_config(path, "", "--config")
    config = from_dict(PolicyStudyConfig, load_yaml(file), str(path), sets)
    beside = file.parent
    workloads = {name: _resolved(w, beside) for name, w in config.workloads.items()}
    folder = str(beside / config.traces) if traces is None else traces
    return dataclasses.replace(config, workloads=workloads, traces=folder)


def _resolved(workload: WorkloadConfig, beside: Path) -> WorkloadConfig:
    """The paths of a file as they are from here; names stay."""
    engine, synthetic = workload.engine, workload.workload
    if engine is not None and Path(engine).suffix in YAML_SUFFIXES:
        engine = str(beside / engine)
    if synthetic is not None and Path(synthetic).suffix in YAML_SUFFIXES:
        synthetic = str(beside / synthetic)
    return dataclasses.replace(workload, engine=engine, workload=synthetic)


def check_files(config: PolicyStudyConfig) -> None:
    """Read all traffic and engines before anything runs.

    Raises:
        ConfigError: naming the workload; where a recording is missing, with the way out.
    """
    for name in config.workloads:
        try:
            config.machine(name)
            for training in (True, False):
                config.source(name, training).load()
            config.controlled(name)
        except MissingTrace as error:
            others = [n for n, w in config.workloads.items() if w.trace is None]
            out = f", --only {','.join(others)} does without them" if others else ""
            raise MissingTrace(
                f"workloads: {name}: trace: {error}; --traces names the folder of the recordings"
                f"{out}; {RECORDINGS}"
            ) from None
        except ConfigError as error:
            raise ConfigError(f"workloads: {name}: {error}") from None


def described(config: PolicyStudyConfig) -> dict[str, object]:
    """The study as plain values."""
    found: dict[str, object] = to_dict(config)
    return found


def _check_loads(where: str, loads: Sequence[float]) -> None:
    if not loads:
        raise ConfigError(f"{where}: the list is empty")
    if len(set(loads)) < len(loads):
        raise ConfigError(f"{where}: a value occurs twice in {list(loads)}")
