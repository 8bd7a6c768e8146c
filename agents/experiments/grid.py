"""The grid of runs that make an evaluation, their rates, and the keys of their results."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from agents.core.store import Key, key_of
from agents.experiments.capacity.limit import check_servable
from agents.experiments.engines import engine_content
from agents.experiments.policy_runs import PolicyRun
from agents.experiments.source import Source
from ewsjf_env.config import ConfigError, check_range
from ewsjf_env.engine.simulated.config import SimulatedConfig
from ewsjf_env.policy.policy import Policy
from ewsjf_env.seeds import JUDGED
from ewsjf_env.workload import Workload
from ewsjf_env.workload.replay import TraceWorkload

RECORD_VERSION = 2
MAX_SEEDS = len(JUDGED)


@dataclass(frozen=True)
class Plan:
    """The grid: policies x sources x (loads or rates) x seeds.

    Attributes:
        loads: fractions of the measured FCFS capacity, > 0; or none when rates are given.
        rates_per_s: arrival rates, > 0; or none when loads are given.
        seeds: number of traces per rate, at most 10,000; a seed is the same trace for every
            policy.
        duration_s: length of the fixed window.
        engine: what is simulated.
        first_seed: the seeds are this one and those that follow.
        recorded: also at the rate of the recording; its load is told in the results.
    """

    policies: tuple[Policy, ...]
    sources: tuple[Source, ...]
    loads: tuple[float, ...]
    rates_per_s: tuple[float, ...]
    seeds: int
    duration_s: float
    engine: SimulatedConfig
    first_seed: int = 0
    recorded: bool = False

    def __post_init__(self) -> None:
        if (bool(self.loads) or self.recorded) == bool(self.rates_per_s):
            raise ConfigError("--load, --rate: give exactly one of them")
        for name in ("loads", "rates_per_s"):
            for value in getattr(self, name):
                check_range({"loads": "--load"}.get(name, "--rate"), value, 0.0, low_open=True)
        check_range("--seeds", self.seeds, 1, MAX_SEEDS)
        check_range("--duration", self.duration_s, 0.0, low_open=True)
        if not self.policies:
            raise ConfigError("--policies: the list is empty")
        if not self.sources:
            raise ConfigError("--workload, --trace: give at least one of them")

    @property
    def runs(self) -> int:
        """Number of runs."""
        points = len(self.loads) + self.recorded or len(self.rates_per_s)
        return len(self.policies) * len(self.sources) * points * self.seeds

    def workloads(self) -> dict[str, tuple[Source, Workload]]:
        """Read all sources; by name.

        Raises:
            ConfigError: a bad file, or two workloads of one name.
        """
        found: dict[str, tuple[Source, Workload]] = {}
        for source in self.sources:
            workload = source.load()
            if workload.name in found:
                raise ConfigError(
                    f"--workload, --trace: {workload.name!r} is the name of both "
                    f"{found[workload.name][0].path} and {source.path}; a name may occur once"
                )
            found[workload.name] = source, workload
        return found


def make_runs(plan: Plan, capacities: Mapping[str, float]) -> list[PolicyRun]:
    """All runs, in an order that draws each trace once: source, rate, seed, policy.

    Raises:
        ConfigError: a draw without requests, or with one that can never be served.
    """
    runs = []
    for name, (source, workload) in plan.workloads().items():
        points: list[tuple[float | None, float]] = [(x, x * capacities[name]) for x in plan.loads]
        points += [(None, rate) for rate in plan.rates_per_s]
        if plan.recorded:
            own = recorded_rate_per_s(workload)
            points.insert(0, (round(own / capacities[name], 3), own))
        for load, rate in points:
            for seed in range(plan.first_seed, plan.first_seed + plan.seeds):
                trace = workload.draw(seed, plan.duration_s, rate)
                check_servable(trace, plan.engine)
                content = [trace.digest(), plan.duration_s]
                for policy in plan.policies:
                    key = key_of_run(policy, name, load, rate, seed, content, plan.engine)
                    runs.append(
                        PolicyRun(key, policy, source, name, load, rate, seed,
                                  plan.duration_s, plan.engine)
                    )  # fmt: skip
    return runs


def recorded_rate_per_s(workload: Workload) -> float:
    """The rate at which a traffic was recorded; ConfigError for one that is no recording."""
    if not isinstance(workload, TraceWorkload):
        raise ConfigError(
            f"--load: recorded: {workload.name} has no times of its own; give a load or --rate"
        )
    return workload.native_rate_per_s


def key_of_run(
    policy: Policy,
    workload: str,
    load: float | None,
    rate_per_s: float,
    seed: int,
    content: object,
    engine: SimulatedConfig,
) -> Key:
    """The key of a run; `content` is what it depends on besides: its trace, its duration."""
    point = f"rate{rate_per_s:g}" if load is None else f"load{load:g}"
    served = {k: v for k, v in policy.to_dict().items() if k != "provenance"}
    decides = [RECORD_VERSION, served, workload, load, rate_per_s, content, engine_content(engine)]
    return key_of(decides, workload, point, f"seed{seed}", policy.name)
