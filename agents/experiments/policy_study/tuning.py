"""The tuning of each family on the training traffic, in two rounds of runs.

Round one plays every point of every family on a few training traces; the best ones, and always
the defaults, meet more traces in round two.  The winner over all loads is the family's static
policy, the winners at each load are its contextual one.  Points, seeds and J are those of
`static_search`; here all families and workloads are one list of runs, so that two workers are
busy to the end, and a point of round two keeps the traces of round one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from statistics import fmean

from agents.experiments.default_policy import training_partition
from agents.experiments.engines import cached_engine
from agents.experiments.grid import Plan, make_runs
from agents.experiments.objectives import Cell, Objectives, canonical, fcfs, objectives, unique
from agents.experiments.policy_runs import PolicyRun, Record
from agents.experiments.policy_study.config import PolicyStudyConfig
from agents.experiments.policy_study.families import RIVAL, FamilyConfig
from agents.experiments.policy_study.frontier import dominated
from agents.experiments.policy_study.traces import trace_seeds
from agents.experiments.static_search import ScanPlan, candidates
from ewsjf_env.engine.simulated.config import SimulatedConfig
from ewsjf_env.parameters import Value
from ewsjf_env.policy.policy import Policy, parse_policy
from ewsjf_env.workload import Workload


@dataclass(frozen=True)
class Measured:
    """What the training runs so far say.

    Attributes:
        scores: J of every run.
        dominated: names of the policies that a rival's point dominates, by workload and load.
    """

    scores: Objectives
    dominated: Mapping[Cell, frozenset[str]]


@dataclass(frozen=True)
class Tuned:
    """What tuning one family on one workload came to.

    Attributes:
        family: its label.
        static: the policy that is best over all training loads; its defaults for one that is
            not tuned.
        by_load: training load -> the policy that is best there.
        objective: mean J of `static` over training loads and traces.
        default_objective: the same of the defaults.
        points: that were tried.
    """

    family: str
    static: Policy
    by_load: Mapping[float, Policy]
    objective: float
    default_objective: float
    points: int

    def at(self, load: float) -> Policy:
        """The contextual policy: that of the nearest training load."""
        return self.by_load[min(self.by_load, key=lambda trained: (abs(trained - load), trained))]


def family_points(
    family: FamilyConfig, workload: Workload, engine: SimulatedConfig
) -> list[Policy]:
    """All points of a family, the defaults of its order first; always the same ones."""
    default = parse_policy(family.order)
    if not family.tuned:
        return [canonical(default)]
    base = default
    if family.partition:
        prior = cached_engine(engine).latency.cost_prior(engine.max_num_batched_tokens)
        fixed_cost_tokens = max(1.0, prior.c0_s / prior.c1_s_per_token)
        partition = training_partition(workload, fixed_cost_tokens, engine.max_model_len - 1)
        base = dataclasses.replace(default, partition=partition)
    values: list[dict[str, Value]] = []
    if family.parameters:
        values += candidates(base, ScanPlan(family.parameters, family.points, rates_per_s=()))
    for grid in family.all_grids:
        values += [dict(zip(grid, p, strict=True)) for p in product(*grid.values())]
    points = [base.with_parameters(v) for v in values]
    return list({p.name: p for p in map(canonical, [default, *points])}.values())


class Tuner:
    """The points of all families on all workloads, and what was found about them.

    Args:
        config: of the study.
        capacities: FCFS capacity in requests/s by label of the traffic.
    """

    def __init__(self, config: PolicyStudyConfig, capacities: Mapping[str, float]) -> None:
        self.config = config
        self._capacities = dict(capacities)
        self.points = {
            name: {
                label: family_points(
                    family,
                    config.source(name, training=True).load(),
                    config.machine(name),
                )
                for label, family in config.families.items()
            }
            for name in config.workloads
        }

    def first_round(self) -> list[PolicyRun]:
        """Every point on few traces."""
        chosen = {
            name: [policy for points in families.values() for policy in points]
            for name, families in self.points.items()
        }
        return self._runs(chosen, 0, self.config.tuning.seeds)

    def measured(self, records: Sequence[Record]) -> Measured:
        """All that records of either round say."""
        judges = {
            self.config.source(name, training=True).label: {
                policy.name
                for label, points in families.items()
                if self.config.families[label].role == RIVAL
                for policy in points
                if not policy.oracle
            }
            for name, families in self.points.items()
        }
        return Measured(objectives(records), dominated(records, judges))

    def second_round(self, first: Measured) -> list[PolicyRun]:
        """The finalists, and what is not tuned, on more traces."""
        plan = self.config.tuning
        chosen = {
            name: [p for label in families for p in self._finalists(name, label, first)]
            for name, families in self.points.items()
        }
        return self._runs(chosen, plan.seeds, plan.finalist_seeds)

    def winners(self, first: Measured, both: Measured) -> dict[str, dict[str, Tuned]]:
        """The tuned policies by workload and label of the family.

        Args:
            first: of the first round, which chose the finalists.
            both: of both rounds.
        """
        found: dict[str, dict[str, Tuned]] = {}
        for name, families in self.points.items():
            for label, points in families.items():
                finalists = self._finalists(name, label, first)
                means = {p.name: self._means(name, p, both.scores) for p in finalists}
                everywhere = self._allowed(name, label, finalists, both)
                static = max(everywhere, key=lambda p: fmean(means[p.name].values()))
                by_load = {
                    load: max(
                        self._allowed(name, label, finalists, both, load),
                        key=lambda p: means[p.name][load],
                    )
                    for load in self.config.tuning.loads
                }
                found.setdefault(name, {})[label] = Tuned(
                    label,
                    static,
                    by_load,
                    objective=fmean(means[static.name].values()),
                    default_objective=fmean(means[points[0].name].values()),
                    points=len(points),
                )
        return found

    def _finalists(self, name: str, family: str, first: Measured) -> list[Policy]:
        """The defaults, the best at each load and the best over all loads, without repeats."""
        points = self.points[name][family]
        means = {p.name: self._means(name, p, first.scores) for p in points}
        allowed = self._allowed(name, family, points, first)
        best = sorted(allowed, key=lambda p: -fmean(means[p.name].values()))
        chosen = [points[0], *best[: self.config.tuning.finalists]]
        for load in self.config.tuning.loads:
            allowed = self._allowed(name, family, points, first, load)
            chosen.append(max(allowed, key=lambda p: means[p.name][load]))
        return list({p.name: p for p in chosen}.values())

    def _allowed(
        self,
        name: str,
        family: str,
        points: Sequence[Policy],
        found: Measured,
        load: float | None = None,
    ) -> Sequence[Policy]:
        """Points that may win at a load, None: at all of them; the first one where none may."""
        if not self.config.families[family].frontier:
            return points
        label = self.config.source(name, training=True).label
        loads = self.config.tuning.loads if load is None else (load,)
        beaten = frozenset[str]().union(*(found.dominated[label, x] for x in loads))
        return [p for p in points if p.name not in beaten] or points[:1]

    def _means(self, name: str, policy: Policy, scores: Objectives) -> dict[float, float]:
        label = self.config.source(name, training=True).label
        return {
            load: fmean(scores[label, load][policy.name].values())
            for load in self.config.tuning.loads
        }

    def _runs(
        self, chosen: Mapping[str, Sequence[Policy]], first: int, last: int
    ) -> list[PolicyRun]:
        """Runs on the training traces from number `first` up to number `last`."""
        runs = []
        for name, policies in chosen.items():
            workload, source = self.config.workloads[name], self.config.source(name, training=True)
            capacity = self._capacities[source.label]
            for seed in trace_seeds(self.config, name, True, last, capacity)[first:]:
                plan = Plan(
                    policies=unique([fcfs(), *policies]),
                    sources=(source,),
                    loads=self.config.tuning.loads,
                    rates_per_s=(),
                    seeds=1,
                    duration_s=workload.duration_s * self.config.tuning.duration_factor,
                    engine=self.config.machine(name),
                    first_seed=seed,
                )
                runs.append(make_runs(plan, self._capacities))
        return round_robin(runs)


def round_robin(groups: Sequence[Sequence[PolicyRun]]) -> list[PolicyRun]:
    """A trace of every workload before the next one: what is left can be told from what is done.

    Args:
        groups: the runs on one trace each, those of a workload in order.
    """
    number: dict[tuple[str, float | None], int] = {}
    ranked = []
    for group in groups:
        for place in dict.fromkeys((run.workload, run.load) for run in group):
            rank = number[place] = number.get(place, -1) + 1
            ranked += [(rank, run) for run in group if (run.workload, run.load) == place]
    return [run for _, run in sorted(ranked, key=lambda pair: pair[0])]
