"""What is tuned, on which traffic, and how is it judged?  The configuration of an environment.

Every key is optional; `configs/env/tuning.yaml` says what each one means in one line.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ewsjf_env.config import ConfigError, check_range, from_dict, load_yaml, nearest
from ewsjf_env.engine.base import Engine
from ewsjf_env.engine.fake import FakeConfig, FakeEngine
from ewsjf_env.engine.real.live import LiveConfig, LiveEngine
from ewsjf_env.engine.real.remote import RemoteConfig, RemoteEngine
from ewsjf_env.engine.simulated.config import SimulatedConfig
from ewsjf_env.engine.simulated.engine import SimulatedEngine
from ewsjf_env.engine.simulated.preset import engine_name
from ewsjf_env.env.registration import EPISODE_WINDOWS, REAL_TIME
from ewsjf_env.measure.constraints import DEFAULT_CONSTRAINTS, Constraint
from ewsjf_env.measure.objective import MAX_WEIGHT, ObjectiveSettings
from ewsjf_env.measure.records import MetricSettings
from ewsjf_env.parameters import ParameterSpace
from ewsjf_env.policy.policy import Policy, parse_policy
from ewsjf_env.shipped import find_config

LEAST_S = 0.1  # of what is measured: in less, nothing is served
THINKING_S = 180.0  # longest time that a tuner takes between two windows, by and large


@dataclass(frozen=True)
class SafetySettings:
    """How candidates are kept from hurting users; see `safety.SafetyGuard`.

    Attributes:
        enabled: wrap the environment in the guard.
        radius: half-width of the trust region round the incumbent, in action units, (0, 2].
        radius_min: it shrinks no further than this.
        shrink: factor on the radius after a breach, (0, 1].
        grow: factor after a window without one, up to `radius`, >= 1.
        abort_margin: a window is aborted when a constraint's margin exceeds this, >= 0.
        abort_after_s: but not before this many seconds of it.
        patience: breaching candidate windows in a row before a window at the incumbent, >= 1.
        control_every: every k-th window runs at the incumbent, >= 2; 0: never.
        budget: breaching candidate windows allowed ...
        budget_windows: ... within this many windows, before candidates are held back, >= 1.
        kill_after: breaching candidate windows in all before the kill switch; 0: never.
        kill_file: the kill switch fires when this file exists; empty: none.
        promote_margin: a feasible candidate becomes the incumbent when its reward exceeds the
            mean of the incumbent's by this much; None leaves promotion to the tuner.
    """

    enabled: bool = False
    radius: float = 0.5
    radius_min: float = 0.05
    shrink: float = 0.5
    grow: float = 1.25
    abort_margin: float = 0.4
    abort_after_s: float = 10.0
    patience: int = 1
    control_every: int = 5
    budget: int = 3
    budget_windows: int = 20
    kill_after: int = 0
    kill_file: str = ""
    promote_margin: float | None = None

    def __post_init__(self) -> None:
        check_range("radius", self.radius, 0.0, 2.0, low_open=True)
        check_range("radius_min", self.radius_min, 0.0, self.radius, low_open=True)
        check_range("shrink", self.shrink, 0.0, 1.0, low_open=True)
        check_range("grow", self.grow, 1.0)
        for name in ("abort_margin", "abort_after_s", "budget", "kill_after"):
            check_range(name, getattr(self, name), 0)
        check_range("patience", self.patience, 1)
        check_range("budget_windows", self.budget_windows, 1)
        if self.control_every != 0:
            check_range("control_every", self.control_every, 2)
        if self.promote_margin is not None:
            check_range("promote_margin", self.promote_margin)


@dataclass(frozen=True)
class TuningConfig:
    """One tuning task.

    Attributes:
        engine: a key of `ENGINES`.
        simulated, fake, live, remote: settings of that engine.  For a run on `live` or `remote`,
            `simulated` describes the machine's twin, see `twin`.
        workload: built-in name, YAML file or trace file.
        rates_per_s: mean arrival rates, one drawn an episode; empty: the workload's own.
        trace_pool: how many different traces there are, drawn anew after that; 0: endless.
            Windows of the reference are computed once a trace.
        policy: what is tuned, as in `parse_policy`; its values are where an episode starts.
        reference: what a window is compared with, on the same traffic; None: nothing, which is
            all that `live` and `remote` can have.
        tuned: names of the parameters that move; empty: all that can be tuned, but for those
            that have to be named (`w_cached`, `w_output`).
        frozen: names of those that do not, besides.
        objective: window -> reward.
        constraints: window -> margins.
        safety: the guard.
        windows: length of an episode's traffic in windows, >= 1.
        window_s: length of a measured window, >= 0.1.
        settle_s: discarded time between a change of parameters and its window, >= 0.
        warmup_s: served under the policy's own values before the first observation, >= 0.1.
        failure_reward: of a window in which the engine failed.
    """

    engine: Literal["simulated", "fake", "live", "remote"] = "simulated"
    simulated: SimulatedConfig = field(default_factory=SimulatedConfig)
    fake: FakeConfig = field(default_factory=FakeConfig)
    live: LiveConfig = field(default_factory=LiveConfig)
    remote: RemoteConfig = field(default_factory=RemoteConfig)
    workload: str = "paper_mix"
    rates_per_s: tuple[float, ...] = (5.0,)
    trace_pool: int = 0
    policy: str = "ewsjf"
    reference: str | None = "ewsjf"
    tuned: tuple[str, ...] = ()
    frozen: tuple[str, ...] = ()
    objective: ObjectiveSettings = field(default_factory=ObjectiveSettings)
    constraints: tuple[Constraint, ...] = DEFAULT_CONSTRAINTS
    safety: SafetySettings = field(default_factory=SafetySettings)
    windows: int = EPISODE_WINDOWS
    window_s: float = 60.0
    settle_s: float = 10.0
    warmup_s: float = 20.0
    failure_reward: float = -5.0

    def __post_init__(self) -> None:
        check_range("windows", self.windows, 1)
        check_range("trace_pool", self.trace_pool, 0)
        check_range("window_s", self.window_s, LEAST_S)
        check_range("settle_s", self.settle_s, 0.0)
        check_range("warmup_s", self.warmup_s, LEAST_S)
        check_range("failure_reward", self.failure_reward, -MAX_WEIGHT, MAX_WEIGHT)
        for rate in self.rates_per_s:
            check_range("rates_per_s", rate, 0.0, low_open=True)
        if self.reference_policy() is None:
            self._refuse_relative()
        elif self.engine in REAL_TIME:
            raise ConfigError(
                f"reference: {self.reference!r} cannot serve the traffic of engine "
                f"{self.engine!r} beside what is tuned; set reference: null"
            )
        if self.engine == "remote" and self.remote.shares > 1 and not self.rates_per_s:
            raise ConfigError(
                f"rates_per_s: empty, but {self.remote.shares} ranks share the traffic; give the "
                "mean rate of all of them"
            )
        names = [constraint.name for constraint in self.constraints]
        for name in names:
            if names.count(name) > 1:
                raise ConfigError(f"constraints: {name!r} occurs twice")
        if self.simulated.measure_overhead:
            raise ConfigError("simulated: measure_overhead: true is wall time, never the same")
        if self.start_policy().adaptive is not None:
            raise ConfigError(
                f"policy: {self.policy!r} changes its parameters by itself, expected a static one"
            )
        if not len(self.space()):
            raise ConfigError(f"policy: {self.policy!r} leaves no parameter to tune")

    @property
    def episode_s(self) -> float:
        """Seconds of traffic of an episode."""
        return self.warmup_s + self.windows * (self.settle_s + self.window_s)

    @property
    def engine_name(self) -> str:
        """The engine beside a figure: of the simulated one the machine and its budget, too."""
        if self.engine != "simulated":
            return self.engine
        return f"simulated {engine_name(self.simulated)}"

    @property
    def traffic_s(self) -> float:
        """Seconds of traffic to draw: where time does not stop, a tuner may think meanwhile."""
        pauses = self.windows * THINKING_S if self.engine in REAL_TIME else 0.0
        return self.episode_s + pauses

    @property
    def metric_settings(self) -> MetricSettings:
        """Class limits and service levels of the engine's metrics."""
        settings: MetricSettings = getattr(self, self.engine).metrics
        return settings

    def start_policy(self) -> Policy:
        """The policy that is tuned, at the values an episode starts with."""
        return parse_policy(self.policy)

    def reference_policy(self) -> Policy | None:
        """What windows are compared with."""
        return None if self.reference is None else parse_policy(self.reference)

    @property
    def reference_name(self) -> str:
        """What a reference window depends on beside the trace: policy and engine."""
        return repr((self.reference_policy(), getattr(self, self.engine)))

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

    def twin(self) -> TuningConfig:
        """The same task on the simulated engine, for what cannot be tried on a real one.

        Of several ranks that share the traffic it is one, at its share of the rates.
        """
        if self.engine not in REAL_TIME:
            return self
        simulated = dataclasses.replace(self.simulated, metrics=self.metric_settings)
        ranks = self.remote.shares if self.engine == "remote" else 1
        rates = tuple(rate / ranks for rate in self.rates_per_s)
        return dataclasses.replace(self, engine="simulated", simulated=simulated, rates_per_s=rates)

    def build_engine(self) -> Engine:
        """A new engine without traffic."""
        return ENGINES[self.engine](self)

    def _refuse_relative(self) -> None:
        relative = [c.name for c in self.constraints if c.relative]
        if self.objective.needs_reference:
            relative.insert(0, f"objective {self.objective.kind}")
        if relative:
            raise ConfigError(f"reference: null, but compared with it is {relative[0]!r}")


def _named(space: ParameterSpace) -> list[str]:
    return [p.name for p in space.parameters if p.named]


ENGINES: dict[str, Callable[[TuningConfig], Engine]] = {
    "simulated": lambda config: SimulatedEngine(config.simulated),
    "fake": lambda config: FakeEngine(config.fake),
    "live": lambda config: LiveEngine(config.live),
    "remote": lambda config: RemoteEngine(config.remote),
}

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


def _read(given: str | Path) -> dict[str, Any]:
    return load_yaml(find_config(given, "env"))


def load_tuning(
    source: TuningConfig | Mapping[str, Any] | str | Path | None,
    engine: str | None = None,
    where: str = "config",
) -> TuningConfig:
    """Read a configuration: a mapping, a YAML file or a name of one of ours; None: the defaults.

    Args:
        source: see above; a `TuningConfig` is taken as it is.
        engine: the engine where the source names none; None: that of `TuningConfig`.
        where: what a mapping is called in an error.

    Raises:
        ConfigError: an unknown key, a value of the wrong type or out of range, or an engine
            other than `engine`.
    """
    if isinstance(source, TuningConfig):
        config = source
    else:
        from_file = isinstance(source, (str, Path))
        data = _read(source) if isinstance(source, (str, Path)) else dict(source or {})
        if engine is not None:
            data.setdefault("engine", engine)
        if data.get("engine") in REAL_TIME:
            data = {**REAL_TIME_DEFAULTS, **data}
            safety = data.get("safety", {})
            if isinstance(safety, Mapping):
                data["safety"] = {"enabled": True, **safety}
        config = from_dict(TuningConfig, data, str(source) if from_file else where)
    if engine is not None and config.engine != engine:
        raise ConfigError(f"engine: {config.engine!r} is configured, this id is for {engine!r}")
    return config
