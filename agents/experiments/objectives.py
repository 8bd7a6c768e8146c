"""Objectives of runs against first come first served, by content of the policy.

A grid that tunes plays the same policy under many names: `canonical` gives equal policies one
name, so that each is played once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from agents.core.store import digest
from agents.experiments.policy_runs import Record
from ewsjf_env.config import ConfigError
from ewsjf_env.measure.objective import relative_objective
from ewsjf_env.measure.records import WindowMetrics
from ewsjf_env.policy.policy import Policy, parse_policy

REFERENCE = "fcfs"
Cell = tuple[str, float]
"""Workload, and load (where there is none, rate)."""
Objectives = dict[Cell, dict[str, dict[int, float]]]
"""J by cell, name of the policy, and seed."""


def canonical(policy: Policy) -> Policy:
    """The same policy under a name that tells its content, so that equal ones are run once."""
    content = {k: v for k, v in policy.to_dict().items() if k not in ("name", "provenance")}
    return dataclasses.replace(policy, name=f"{policy.order}-{digest(content, 10)}")


def fcfs() -> Policy:
    """The reference of J."""
    return canonical(parse_policy(REFERENCE))


def unique(policies: Sequence[Policy]) -> tuple[Policy, ...]:
    """Each name once, in order."""
    return tuple({p.name: p for p in policies}.values())


def objectives(records: Sequence[Record]) -> Objectives:
    """J of every record against first come first served on the same trace.

    Raises:
        ConfigError: a trace without the run of the reference.
    """
    reference = fcfs().name
    by_trace = {
        _trace_of(r): WindowMetrics.from_dict(r["metrics"])
        for r in records
        if r["policy"] == reference
    }
    found: Objectives = {}
    for r in records:
        trace = _trace_of(r)
        cell = trace[0], trace[1]
        if trace not in by_trace:
            raise ConfigError(f"{trace}: {REFERENCE} was not run on this trace")
        score = relative_objective(WindowMetrics.from_dict(r["metrics"]), by_trace[trace]).total
        found.setdefault(cell, {}).setdefault(r["policy"], {})[r["seed"]] = score
    return found


def _trace_of(record: Record) -> tuple[str, float, int]:
    point = record["rate_per_s"] if record["load"] is None else record["load"]
    return (record["workload"], point, record["seed"])
