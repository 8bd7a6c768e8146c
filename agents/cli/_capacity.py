"""`ewsjf evaluate --capacity`: requests/s at a service level, instead of windows at loads."""

from __future__ import annotations

import argparse
import dataclasses
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agents.cli._command import made_folder
from agents.core.files import write_json, write_text
from agents.core.progress import bar
from agents.core.provenance import git_state, package_versions
from agents.experiments.capacity import report
from agents.experiments.capacity.attainment import CapacityPlan, play_ladders
from agents.experiments.capacity.estimate import BASE, capacity_rows
from agents.experiments.capacity.limit import measure_capacities
from agents.experiments.engines import cached_engine
from agents.experiments.grid import Plan
from ewsjf_env.config import ConfigError, check_range, to_dict
from ewsjf_env.engine.simulated.preset import engine_name
from ewsjf_env.measure.service import ServiceLevel
from ewsjf_env.policy.policy import parse_policy
from ewsjf_env.workload.replay import TraceWorkload


def capacity_plan(arguments: argparse.Namespace, plan: Plan) -> CapacityPlan:
    """What `--capacity` asks for, beside the rest of the command line.

    Raises:
        ConfigError: naming the option, what is wrong with it.
    """
    if arguments.against is not None:
        raise ConfigError("--against: is not of --capacity, which compares with fcfs and rivals")
    shares = []
    for part in arguments.capacity.split(","):
        try:
            shares.append(float(part))
        except ValueError:
            raise ConfigError(f"--capacity: {part!r} is not a share in (0, 1)") from None
        check_range("--capacity", shares[-1], 0.0, 0.9999, low_open=True)
    if len(set(shares)) < len(shares):
        raise ConfigError(f"--capacity: a value occurs twice in {arguments.capacity}")
    if arguments.price is not None:
        check_range("--price", arguments.price, 0.0, low_open=True)
    policies = plan.policies
    if all(policy.name != BASE for policy in policies):
        policies = (parse_policy(BASE), *policies)
    engine = plan.engine
    level = engine.service_levels or cached_engine(engine).latency.service or ServiceLevel()
    if arguments.service is not None:
        level = ServiceLevel.parse(arguments.service, "--service")
    if engine.scheduler == "ewsjf":  # orders that know service levels are told this one
        engine = dataclasses.replace(engine, service_levels=level)
    return CapacityPlan(
        policies=policies,
        sources=plan.sources,
        shares=tuple(shares),
        level=level,
        seeds=plan.seeds,
        duration_s=plan.duration_s,
        engine=engine,
        price_per_hour=arguments.price,
    )


def describe(plan: CapacityPlan) -> str:
    """What would be played, for `--dry-run`."""
    return "\n".join(
        [
            f"policies ({len(plan.policies)}): " + ", ".join(p.name for p in plan.policies),
            f"traffic ({len(plan.sources)}): " + ", ".join(s.path for s in plan.sources),
            "capacity where " + ", ".join(f"{x:.4g}" for x in plan.shares) + f" keep {plan.level}",
            f"seeds: 0 to {plan.seeds - 1}; windows of {plan.duration_s:g} s or more",
            f"engine: {engine_name(plan.engine)}",
        ]
    )


def run(plan: CapacityPlan, grid: Plan, argv: Sequence[str], out: Path, jobs: int) -> int:
    """Measure, and write evaluation.json, evaluation.md and attainment.png."""
    made_folder("--out", out)
    workloads = grid.workloads()
    engine = engine_name(plan.engine)
    print(f"engine: {engine}; service level: {plan.level}", file=sys.stderr)
    limits = measure_capacities(workloads, plan.engine, out, jobs, bar("traffic", "traffics"))
    names = {name: source for name, (source, _) in workloads.items()}
    ladders = play_ladders(plan, limits, names, out, jobs, bar("capacity", "ladders"))
    rows = capacity_rows(ladders, plan.shares, engine, plan.price_per_hour)
    highest = {name: max(r["requests_per_s"] or 0.0 for r in rows if r["workload"] == name)
               for name in names}  # fmt: skip
    repeats = [
        workload.repeats(plan.duration_s, highest[name])
        for name, (_, workload) in workloads.items()
        if isinstance(workload, TraceWorkload) and highest[name]
    ]
    meta: dict[str, Any] = {
        "command": shlex.join(["ewsjf", "evaluate", *argv]),
        "service": str(plan.level),
        "duration_s": plan.duration_s,
        "seeds": plan.seeds,
        "repeats": max(repeats, default=1),
        "policies": [policy.to_dict() for policy in plan.policies],
        "engine": to_dict(plan.engine),
        "engine_name": engine,
        "kv_blocks": cached_engine(plan.engine).kv_blocks,
        "latency_hash": cached_engine(plan.engine).latency.content_hash,
        "versions": package_versions(),
        "git": git_state(),
    }
    data = {"meta": meta, "runs": [], "summary": [], "capacity": rows, "ladders": ladders}
    write_json(out / "evaluation.json", data)
    write_text(out / "evaluation.md", report.markdown(rows, meta))
    report.attainment_plot(ladders, plan.shares, out / "attainment.png")
    print(report.console_table(rows))
    return 0
