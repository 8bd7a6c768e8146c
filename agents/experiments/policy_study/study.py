"""The study of policies: each at its defaults and tuned, on traffic that no tuning has seen.

    capacity   FCFS capacity of every training and every judging traffic
    tuning     see `tuning`
    judging    every arm on the same unseen traces: defaults, `X tuned` (one policy for all
               loads), `X per load` (that of the nearest training load), and other engines
    more seeds where the comparison that matters is undecided

All runs are files of a store: started again after whatever ended it, the study repeats nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from agents.analysis.statistics import Estimate, difference
from agents.core.progress import Progress
from agents.experiments.capacity.limit import measure_capacities
from agents.experiments.grid import Plan, make_runs
from agents.experiments.objectives import Cell, canonical, fcfs, objectives, unique
from agents.experiments.policy_runs import PolicyRun, Record, run_every
from agents.experiments.policy_study.config import PolicyStudyConfig
from agents.experiments.policy_study.families import MAIN, OUR, RIVAL, FamilyConfig
from agents.experiments.policy_study.traces import trace_seeds
from agents.experiments.policy_study.tuning import Tuned, Tuner, round_robin
from ewsjf_env.config import ConfigError
from ewsjf_env.policy.policy import Policy, parse_policy

TUNED, PER_LOAD = " tuned", " per load"
SUBJECT = MAIN + TUNED
SMALLEST_AIM = 0.02  # of J: where there is nothing to gain, less than this decides nothing
Shown = Callable[[str], Progress]
"""Name of a stage -> how its progress is shown."""


@dataclass
class PolicyStudy:
    """What is known of a study that has been run.

    Attributes:
        config: of it.
        capacities: FCFS capacity in requests/s by label of a traffic.
        seeds: judged traces of each workload, the extra ones at the end.
        tuned: by workload and label of the family.
        arms: the policy of each arm, by (workload, load) and label, in order.
        runs: judged records by (workload, load), policy name and seed.
        control_runs: FCFS and tuned EWSJF under other engines, by (workload, load), label of the
            engine, policy name and seed.
        objectives: J of `runs`, by (workload, load), policy name and seed.
        training_digests, judging_digests: of all traces.
    """

    config: PolicyStudyConfig
    capacities: dict[str, float] = field(default_factory=dict)
    seeds: dict[str, list[int]] = field(default_factory=dict)
    tuned: dict[str, dict[str, Tuned]] = field(default_factory=dict)
    arms: dict[Cell, dict[str, Policy]] = field(default_factory=dict)
    runs: dict[Cell, dict[str, dict[int, Record]]] = field(default_factory=dict)
    control_runs: dict[Cell, dict[str, dict[str, dict[int, Record]]]] = field(default_factory=dict)
    objectives: dict[Cell, dict[str, dict[int, float]]] = field(default_factory=dict)
    training_digests: set[str] = field(default_factory=set)
    judging_digests: set[str] = field(default_factory=set)

    def objective(self, cell: Cell, label: str) -> dict[int, float]:
        """J of an arm by seed."""
        return self.objectives[cell][self.arms[cell][label].name]

    def records(self, cell: Cell, label: str) -> dict[int, Record]:
        """Runs of an arm by seed."""
        return self.runs[cell][self.arms[cell][label].name]

    def labels(self) -> list[str]:
        """All arms, in order."""
        return list(next(iter(self.arms.values())))

    def overall(self, label: str) -> list[float]:
        """Mean J over all workloads and loads, trace by trace: those that all arms met."""
        return [
            fmean(self.objective(cell, label)[self.seeds[cell[0]][i]] for cell in self.arms)
            for i in range(self.config.seeds)
        ]

    def judged(self, name: str) -> list[int]:
        """The traces of a workload that all arms met."""
        return self.seeds[name][: self.config.seeds]

    def common(self, cell: Cell, label: str) -> list[float]:
        """J of an arm on the traces that all arms met: arms are ranked by these."""
        found = self.objective(cell, label)
        return [found[seed] for seed in self.judged(cell[0])]

    def family(self, label: str) -> FamilyConfig:
        """Whose arm it is."""
        return self.config.families[label.removesuffix(TUNED).removesuffix(PER_LOAD)]

    def main_arms(self) -> list[str]:
        """Arms of the order that the study is about, however it is tuned."""
        first = next(iter(self.arms.values()))
        return [x for x, p in first.items() if self.family(x).role == OUR and p.order == MAIN]

    def rivals(self) -> list[str]:
        """Arms that are neither ours nor controls, and do not read true outputs."""
        first = next(iter(self.arms.values()))
        return [x for x, p in first.items() if self.family(x).role == RIVAL and not p.oracle]

    def best_rival(self, labels: Sequence[str]) -> str:
        """The strongest of some arms in hindsight: by mean J over everything."""
        return max(labels, key=lambda label: fmean(self.overall(label)))

    def single_rival(self) -> str:
        """The strongest rival, tuned or not, that has one policy for all loads of a workload."""
        return self.best_rival([r for r in self.rivals() if not r.endswith(PER_LOAD)])

    def chosen_rival(self) -> str:
        """The rival that the training traffic alone would have chosen."""
        rivals = [
            label
            for label, family in self.config.families.items()
            if family.role == RIVAL and not parse_policy(family.order).oracle
        ]
        tuned = self.tuned.values()
        return self.single_arm(max(rivals, key=lambda x: fmean(f[x].objective for f in tuned)))

    def single_arm(self, family: str) -> str:
        """The arm of a family that has one policy for all loads: tuned, where it is tuned."""
        return family + TUNED if self.config.families[family].tuned else family

    def gain(self, cell: Cell, label: str, other: str) -> Estimate:
        """Paired difference of J between two arms over the seeds that both have."""
        ours, theirs = self.objective(cell, label), self.objective(cell, other)
        seeds = sorted(set(ours) & set(theirs))
        return difference([ours[s] for s in seeds], [theirs[s] for s in seeds])

    def aim(self, cell: Cell, other: str) -> float:
        """By how much J should exceed that of an arm."""
        theirs = abs(fmean(self.objective(cell, other).values()))
        return max(self.config.aim * theirs, SMALLEST_AIM)

    def undecided(self, other: str) -> list[Cell]:
        """Where the interval of tuned EWSJF's gain over an arm holds both 0 and the aim."""
        found = []
        for cell in self.arms:
            gain = self.gain(cell, SUBJECT, other)
            if gain.bounded and gain.low <= 0.0 and gain.high >= self.aim(cell, other):
                found.append(cell)
        return found


def run_study(config: PolicyStudyConfig, out: Path, workers: int, shown: Shown) -> PolicyStudy:
    """Run what has no result yet.

    Args:
        config: of the study.
        out: folder of the results.
        workers: processes.
        shown: name of a stage -> its progress.

    Raises:
        ConfigError: traffic that an engine cannot serve.
        EngineError: some runs failed; the others are kept.
    """
    study = PolicyStudy(config)
    study.capacities = _capacities(config, out, workers, shown)
    most = config.seeds + config.extra_rounds * config.extra_seeds
    study.seeds = {  # before anything is tuned: what cannot be judged is told at once
        name: trace_seeds(config, name, False, most, study.capacities[name])
        for name in config.workloads
    }
    _tune(study, out, workers, shown)
    study.arms = {
        (name, load): arms_of(config, study.tuned[name], load)
        for name in config.workloads
        for load in config.loads
    }
    _judge(study, _judging_runs(study), out, workers, shown("judging"))
    _control(study, out, workers, shown)
    for number in range(config.extra_rounds if config.extra_seeds else 0):
        rival = study.single_rival()
        cells = study.undecided(rival)
        if not cells:
            break
        runs = _extra_runs(study, cells, rival, config.seeds + number * config.extra_seeds)
        _judge(study, runs, out, workers, shown(f"more seeds ({number + 1})"))
    return study


def arms_of(
    config: PolicyStudyConfig, tuned: Mapping[str, Tuned], load: float
) -> dict[str, Policy]:
    """The arms on one workload at one load: defaults, tuned, per load."""
    families = config.families.items()
    arms = {x: canonical(parse_policy(x)) for x, family in families if family.order == x}
    arms |= {x + TUNED: tuned[x].static for x, family in families if family.tuned}
    per_load = [x for x, family in families if family.tuned and family.per_load]
    return arms | {x + PER_LOAD: tuned[x].at(load) for x in per_load}


def _capacities(
    config: PolicyStudyConfig, out: Path, workers: int, shown: Shown
) -> dict[str, float]:
    """One call an engine: its traffics are measured side by side."""
    by_engine: dict[Any, list[str]] = {}
    for name in config.workloads:
        by_engine.setdefault(config.machine(name), []).append(name)
    found: dict[str, float] = {}
    for engine, names in by_engine.items():
        sources = tuple(config.source(n, training) for n in names for training in (True, False))
        plan = Plan((fcfs(),), sources, config.loads, (), 1, 1.0, engine)
        traffics = plan.workloads()
        found |= measure_capacities(traffics, engine, out, workers, shown("capacity"))
    return found


def _tune(study: PolicyStudy, out: Path, workers: int, shown: Shown) -> None:
    tuner = Tuner(study.config, study.capacities)
    records = _played(tuner.first_round(), out, workers, shown("tuning, round 1"))
    first = tuner.measured(records)
    more = _played(tuner.second_round(first), out, workers, shown("tuning, round 2"))
    study.training_digests = {r["notes"]["trace"] for r in (*records, *more)}
    study.tuned = tuner.winners(first, tuner.measured([*records, *more]))


def _judging_runs(study: PolicyStudy) -> list[PolicyRun]:
    runs: list[list[PolicyRun]] = []
    for cell, arms in study.arms.items():
        policies = unique([fcfs(), *arms.values()])
        runs += _runs(study, cell, policies, study.judged(cell[0]))
    return round_robin(runs)


def _extra_runs(
    study: PolicyStudy, cells: Sequence[Cell], rival: str, first: int
) -> list[PolicyRun]:
    runs: list[list[PolicyRun]] = []
    last = first + study.config.extra_seeds
    for cell in cells:
        policies = unique([fcfs(), study.arms[cell][SUBJECT], study.arms[cell][rival]])
        runs += _runs(study, cell, policies, study.seeds[cell[0]][first:last])
    return round_robin(runs)


def _runs(
    study: PolicyStudy,
    cell: Cell,
    policies: Sequence[Policy],
    seeds: Sequence[int],
    engine: Any = None,
) -> list[list[PolicyRun]]:
    """Runs by trace."""
    name, load = cell
    workload = study.config.workloads[name]
    plans = [
        Plan(
            policies=tuple(policies),
            sources=(study.config.source(name, training=False),),
            loads=(load,),
            rates_per_s=(),
            seeds=1,
            duration_s=workload.duration_s,
            engine=study.config.machine(name) if engine is None else engine,
            first_seed=seed,
        )
        for seed in seeds
    ]
    return [make_runs(plan, study.capacities) for plan in plans]


def _judge(
    study: PolicyStudy, runs: list[PolicyRun], out: Path, workers: int, progress: Progress
) -> None:
    records = _played(runs, out, workers, progress)
    study.judging_digests |= {r["notes"]["trace"] for r in records}
    if shared := study.judging_digests & study.training_digests:
        raise ConfigError(f"trace {min(shared)} would judge what was tuned on it")
    for record in records:
        by_policy = study.runs.setdefault((record["workload"], record["load"]), {})
        by_policy.setdefault(record["policy"], {})[record["seed"]] = record
    for cell, found in objectives(records).items():
        for policy, seeds in found.items():
            study.objectives.setdefault(cell, {}).setdefault(policy, {}).update(seeds)


def _control(study: PolicyStudy, out: Path, workers: int, shown: Shown) -> None:
    """FCFS and tuned EWSJF under other settings of the engine, on the judged traces."""
    config, places = study.config, {}
    groups: list[list[PolicyRun]] = []
    for name in config.workloads:
        for label, engine in config.controlled(name).items():
            for load in config.controls.loads:
                cell = (name, load)
                policies = unique([fcfs(), study.arms[cell][SUBJECT]])
                found = _runs(study, cell, policies, study.judged(name), engine)
                groups += found
                for run in (run for group in found for run in group):
                    places[run.key] = (cell, label, run.policy.name, run.seed)
    ordered = round_robin(groups)
    for run, record in zip(ordered, _played(ordered, out, workers, shown("controls")), strict=True):
        cell, label, policy, seed = places[run.key]
        by_policy = study.control_runs.setdefault(cell, {}).setdefault(label, {})
        by_policy.setdefault(policy, {})[seed] = record


def _played(runs: list[PolicyRun], out: Path, workers: int, progress: Progress) -> list[Record]:
    """The records of all runs, in their order."""
    return run_every(runs, out, workers, progress) if runs else []
