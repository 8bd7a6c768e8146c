"""The configuration of an environment: what is tuned, on which traffic, and how it is judged."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field
from functools import cached_property
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, get_type_hints

from pydantic_core import core_schema

from ewsjf_env.config import (
    ConfigError,
    Count,
    Names,
    Natural,
    NotNegative,
    Positive,
    PositiveShare,
    Range,
    check_range,
    from_dict,
    load_yaml,
    nearest,
    overridden,
    settings,
    shown,
    to_dict,
)
from ewsjf_env.engine.base import Engine
from ewsjf_env.engine.real.remote import RemoteConfig
from ewsjf_env.engine.simulated.config import SimulatedConfig
from ewsjf_env.engine.simulated.latency import LatencyModel
from ewsjf_env.engine.simulated.preset import engine_name
from ewsjf_env.env.engines import (
    ENGINES,
    FIELDS,
    KINDS,
    EngineName,
    EngineSettings,
    described_engines,
    fields_of,
    written_engines,
)
from ewsjf_env.env.registration import ENGINE_IDS, EPISODE_WINDOWS, REAL_TIME
from ewsjf_env.measure.constraints import DEFAULT_CONSTRAINTS, Constraint
from ewsjf_env.measure.objective import MAX_WEIGHT, ObjectiveSettings
from ewsjf_env.measure.records import MetricSettings
from ewsjf_env.parameters import ParameterSpace
from ewsjf_env.policy.policy import Policy, parse_policy
from ewsjf_env.seeds import TRAINING
from ewsjf_env.shipped import find_config

LEAST_S = 0.1  # of what is measured: in less, nothing is served
THINKING_S = 180.0  # longest time that a tuner takes between two windows, by and large


@settings
class SafetySettings:
    """How candidates are kept from hurting users; see `safety.SafetyGuard`."""

    enabled: bool = False
    """Wrap the environment in the guard."""
    radius: Annotated[float, Range(0.0, 2.0, low_open=True)] = 0.5
    """Half-width of the trust region round the incumbent, in action units."""
    radius_min: Positive = 0.05
    """The radius shrinks no further than this, at most `radius`."""
    shrink: PositiveShare = 0.5
    """Factor on the radius after a breach."""
    grow: Annotated[float, Range(1.0)] = 1.25
    """Factor after a window without one, up to `radius`."""
    abort_margin: NotNegative = 0.4
    """A window is aborted when a constraint's margin exceeds this."""
    abort_after_s: NotNegative = 10.0
    """Seconds of a window before it may be aborted."""
    patience: Count = 1
    """Breaching candidate windows in a row before a window at the incumbent."""
    control_every: int = 5
    """Every so many windows, at least 2, one runs at the incumbent; 0: never."""
    budget: Natural = 3
    """Breaching candidate windows allowed within `budget_windows`."""
    budget_windows: Count = 20
    """Windows in which more than `budget` breaches hold candidates back."""
    kill_after: Natural = 0
    """Breaching candidate windows in all before the kill switch; 0: never."""
    kill_file: str = ""
    """The kill switch fires when this file exists; empty: none."""
    promote_margin: float | None = None
    """A feasible candidate becomes the incumbent when its reward exceeds the mean of the
    incumbent's by this much; null leaves promotion to the tuner.
    """

    def __post_init__(self) -> None:
        check_range("radius_min", self.radius_min, 0.0, self.radius, low_open=True)
        if self.control_every != 0:
            check_range("control_every", self.control_every, 2)


@settings
class Task:
    """One tuning task."""

    engine_settings: EngineSettings = field(default_factory=SimulatedConfig)
    """Settings of the engine; their kind is the engine."""
    twin_settings: SimulatedConfig = field(default_factory=SimulatedConfig)
    """Settings of the machine's twin, of a task on a real engine."""
    workload: str = "paper_mix"
    """Traffic: a built-in name, a YAML file or a trace file."""
    rates_per_s: tuple[Positive, ...] = (5.0,)
    """Mean arrival rates, one drawn an episode; empty: the workload's own."""
    trace_pool: Annotated[int, Range(0, len(TRAINING))] = 0
    """How many different traces there are; 0: endless. Windows of the reference are computed
    once a trace.
    """
    policy: str = "ewsjf"
    """What is tuned: NAME, NAME(parameter=value;...) or FILE.json. Its values are where an episode
    starts.
    """
    reference: str | None = "ewsjf"
    """What a window is compared with, on the same traffic; null: nothing, which is all that
    `live` and `remote` can have.
    """
    tuned: Names = ()
    """Parameters that move; empty: all that can be tuned, but for those that have to be named."""
    frozen: Names = ()
    """Parameters that do not move, besides."""
    objective: ObjectiveSettings = field(default_factory=ObjectiveSettings)
    """What makes a reward of a window."""
    constraints: tuple[Constraint, ...] = DEFAULT_CONSTRAINTS
    """What a window must not do: upper limits of metrics, each at most once."""
    safety: SafetySettings = field(default_factory=SafetySettings)
    """The guard."""
    windows: Count = EPISODE_WINDOWS
    """Length of an episode's traffic in windows."""
    window_s: Annotated[float, Range(LEAST_S)] = 60.0
    """Length of a measured window, seconds."""
    settle_s: NotNegative = 10.0
    """Discarded time between a change of parameters and its window, seconds."""
    warmup_s: Annotated[float, Range(LEAST_S)] = 20.0
    """Served under the policy's own values before the first observation, seconds."""
    failure_reward: Annotated[float, Range(-MAX_WEIGHT, MAX_WEIGHT)] = -5.0
    """Reward of a window in which the engine failed."""

    def __post_init__(self) -> None:
        own = self.engine_settings
        if self.reference_policy() is None:
            self._refuse_relative()
        elif self.engine in REAL_TIME:
            raise ConfigError(
                f"reference: {self.reference!r} cannot serve the traffic of engine "
                f"{self.engine!r} beside what is tuned; set reference: null"
            )
        if self._shares > 1 and not self.rates_per_s:
            raise ConfigError(
                f"rates_per_s: empty, but {self._shares} ranks share the traffic; give the "
                "mean rate of all of them"
            )
        if not math.isfinite(self.traffic_s):
            raise ConfigError(f"window_s: {self.windows} windows are no number of seconds")
        names = [constraint.name for constraint in self.constraints]
        for name in names:
            if names.count(name) > 1:
                raise ConfigError(f"constraints: {name!r} occurs twice")
        for simulated in (own, self.twin_settings):
            if isinstance(simulated, SimulatedConfig) and simulated.measure_overhead:
                raise ConfigError("simulated: measure_overhead: true is wall time, never the same")
        if self.start_policy().adaptive is not None:
            raise ConfigError(
                f"policy: {self.policy!r} changes its parameters by itself, expected a static one"
            )
        if not len(self.space()):
            raise ConfigError(f"policy: {self.policy!r} leaves no parameter to tune")

    @property
    def engine(self) -> EngineName:
        """Name of the engine, a key of `ENGINES`."""
        return self.engine_settings.engine

    @property
    def simulated(self) -> SimulatedConfig:
        """Settings of the engine in virtual time: the task's own, or its twin's."""
        own = self.engine_settings
        return own if isinstance(own, SimulatedConfig) else self.twin_settings

    @property
    def has_model(self) -> bool:
        """Whether the engine is a latency model of a machine: `compiled` or `simulated`."""
        return isinstance(self.engine_settings, SimulatedConfig)

    def check_model(self) -> None:
        """Raise ConfigError for a latency model that cannot be read, before anything begins."""
        if self.has_model:
            LatencyModel.load(self.simulated.latency, "simulated.latency")

    @property
    def _shares(self) -> int:
        """Among how many schedulers the traffic is divided."""
        own = self.engine_settings
        return own.shares if isinstance(own, RemoteConfig) else 1

    @property
    def episode_s(self) -> float:
        """Seconds of traffic of an episode."""
        return self.warmup_s + self.windows * (self.settle_s + self.window_s)

    @property
    def engine_name(self) -> str:
        """The engine beside a figure: of one in virtual time the machine and its budget, too."""
        return engine_name(self.simulated) if self.has_model else self.engine

    @property
    def traffic_s(self) -> float:
        """Seconds of traffic to draw: where time does not stop, a tuner may think meanwhile."""
        pauses = self.windows * THINKING_S if self.engine in REAL_TIME else 0.0
        return self.episode_s + pauses

    @property
    def metric_settings(self) -> MetricSettings:
        """Class limits and service levels of the engine's metrics."""
        return self.engine_settings.metrics

    def start_policy(self) -> Policy:
        """The policy that is tuned, at the values an episode starts with."""
        return parse_policy(self.policy)

    def reference_policy(self) -> Policy | None:
        """What windows are compared with."""
        return None if self.reference is None else parse_policy(self.reference, "reference")

    @cached_property
    def reference_name(self) -> str:
        """Hash of what a reference window depends on beside the trace: policy and engine."""
        policy = self.reference_policy()
        content = [policy and policy.to_dict(), to_dict(self.engine_settings)]
        text = json.dumps(content, sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def space(self) -> ParameterSpace:
        """The parameters that move, in the order of the action; defaults are the start values."""
        policy = self.start_policy()
        space = policy.space.with_defaults(policy.parameters)
        for key in ("tuned", "frozen"):
            for name in getattr(self, key):
                if name not in space:
                    hint = nearest(name, space.tunable(asked=_named(space)).names)
                    raise ConfigError(f"{key}: unknown parameter {name!r}{hint}")
        for name in self.tuned:
            if not space[name].tunable:
                hint = nearest(name, space.tunable(asked=_named(space)).names)
                raise ConfigError(f"tuned: {name!r} is a structural switch, not tuned{hint}")
        kept = space.tunable(self.frozen, asked=self.tuned)
        chosen = [name for name in self.tuned if name in kept]
        return kept.subset(chosen) if self.tuned else kept

    def twin(self) -> Task:
        """The same task on an engine in virtual time, for what cannot be tried on a real one.

        Of several ranks that share the traffic it is one, at its share of the rates.
        """
        if self.engine not in REAL_TIME:
            return self
        simulated = dataclasses.replace(self.simulated, metrics=self.metric_settings)
        rates = tuple(rate / self._shares for rate in self.rates_per_s)
        return dataclasses.replace(self, engine_settings=simulated, rates_per_s=rates)

    def build_engine(self) -> Engine:
        """A new engine without traffic."""
        return ENGINES[self.engine](self.engine_settings)

    def written(self) -> dict[str, Any]:
        """Plain values as in a file, where engines have keys of their names; see `engines`."""
        others = (f.name for f in dataclasses.fields(self) if f.name not in FIELDS)
        engines = written_engines(self.engine_settings, self.twin_settings)
        return engines | {name: to_dict(getattr(self, name)) for name in others}

    @classmethod
    def written_kinds(cls) -> dict[str, Any]:
        """The type of each key of a file."""
        kinds = get_type_hints(cls, include_extras=True)
        others = {f.name: kinds[f.name] for f in dataclasses.fields(cls) if f.name not in FIELDS}
        return {"engine": EngineName, **KINDS, **others}

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Callable[[Any], Any]) -> Any:
        """See pydantic: the fields, made of what is written."""
        others = [f.name for f in dataclasses.fields(cls) if f.name not in FIELDS]
        return core_schema.no_info_before_validator_function(
            lambda data: fields_of(data, others), handler(source)
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, core: Any, handler: Any) -> Any:
        """See pydantic: the properties as they are written."""
        schema = handler(core)
        found = handler.resolve_ref_schema(schema)
        found["properties"] = described_engines(found["properties"])
        return schema

    def _refuse_relative(self) -> None:
        relative = [c.name for c in self.constraints if c.relative]
        if self.objective.needs_reference:
            relative.insert(0, f"objective {self.objective.kind}")
        if relative:
            raise ConfigError(f"reference: null, but compared with it is {relative[0]!r}")


def _named(space: ParameterSpace) -> list[str]:
    return [p.name for p in space.parameters if p.named]


REAL_TIME_DEFAULTS: dict[str, Any] = {
    "reference": None,
    "objective": {"kind": "goodput"},
    "constraints": [
        {"metric": "ttft_short_p95_s", "limit": 5.0, "relative": False},
        {"metric": "wait_max_s", "limit": 60.0, "relative": False},
    ],
}
"""What a task on `live` or `remote` is judged by where it does not say: service levels.

The guard is on, too.
"""


def _data(source: Mapping[str, Any] | str | Path | None, where: str) -> dict[str, Any]:
    if isinstance(source, (str, Path)):
        return load_yaml(find_config(source, "env", where))
    return dict(source or {})


def load_tuning(
    source: Task | Mapping[str, Any] | str | Path | None,
    engine: str | None = None,
    where: str = "config",
    sets: Sequence[str] = (),
) -> Task:
    """Read a configuration: a mapping, a YAML file or a name of one of ours; None: the defaults.

    Args:
        source: see above; a `Task` is taken as it is.
        engine: the engine where the source names none; None: that of `Task`.
        where: what the source was given for, in an error; a file has its name.
        sets: values set on a command line, as `safety.radius=0.3`, over those of the source.

    Raises:
        ConfigError: an unknown key, a value of the wrong type or out of range, an engine other
            than `engine`, or a source of another kind.
    """
    if not isinstance(source, (Task, Mapping, str, Path, NoneType)):
        raise ConfigError(
            f"{where}: expected a Task, a mapping, the path or name of a YAML file, or "
            f"None, got {type(source).__name__} {shown(source)}"
        )
    if isinstance(source, Task):
        config = from_dict(Task, source.written(), where, sets) if sets else source
    else:
        from_file = isinstance(source, (str, Path))
        data = _data(source, where)
        data = overridden(data, sets, Task)
        if engine is not None:
            data.setdefault("engine", engine)
        if data.get("engine") in REAL_TIME:
            data = {**REAL_TIME_DEFAULTS, **data}
            safety = data.get("safety", {})
            if isinstance(safety, Mapping):
                data["safety"] = {"enabled": True, **safety}
        config = from_dict(Task, data, str(source) if from_file else where, sets)
    if engine is not None and ENGINE_IDS[config.engine] != ENGINE_IDS[engine]:
        raise ConfigError(f"engine: {config.engine!r} is configured, this id is for {engine!r}")
    return config
