"""The command `ewsjf evaluate`: policies compared on traffic, in virtual time."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import textwrap
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from agents.cli._command import (
    FAILED,
    Parser,
    add_backend_options,
    add_set_option,
    folder,
    made_folder,
    number,
    run_command,
    say,
    sets_of,
    whole,
)
from agents.core.files import write_json, write_text
from agents.core.progress import bar
from agents.core.provenance import git_state
from agents.core.words import counted
from agents.experiments.backend import parallel_on
from agents.experiments.capacity import measure_capacities
from agents.experiments.engines import cached_engine
from agents.experiments.grid import Plan, make_runs, recorded_rate_per_s
from agents.experiments.policies.plots import frontier
from agents.experiments.policies.report import console_table, markdown
from agents.experiments.policies.summary import summarise
from agents.experiments.policy_runs import run_all, store_of
from agents.experiments.source import Source
from ewsjf_env import __version__
from ewsjf_env.config import ConfigError, check_range, nearest, to_dict
from ewsjf_env.engine.simulated.config import SimulatedConfig
from ewsjf_env.engine.simulated.machine import preset_names
from ewsjf_env.engine.simulated.preset import engine_name, load_engine
from ewsjf_env.policy.policy import Policy, parse_policies, split_policies
from ewsjf_env.scheduling.orders.registry import ORDERS
from ewsjf_env.workload.readers import FORMATS
from ewsjf_env.workload.replay import MAX_JITTER_S
from ewsjf_env.workload.spec import YAML_SUFFIXES

DEFAULT_POLICIES = "fcfs,random,hrrn,linear_aging,boost,ewsjf"
DEFAULT_LOADS = "0.7,0.95,1.3"
RECORDED = "recorded"
CORE_SECONDS = {"compiled": 5e-5, "simulated": 1.7e-2}
"""Of one core for a virtual second; for the dry run's estimate."""
USAGE = "ewsjf evaluate (--workload NAME | --trace FILE) --out DIR [options]"
DESCRIPTION = """\
Replay traffic through vLLM's own scheduler under several policies and compare
them: same arrivals for all, several seeds, paired intervals."""
EXAMPLES = """\
examples:
  ewsjf evaluate --workload mixed --out runs/mixed --jobs 2
  ewsjf evaluate --trace my_log.csv.gz --policies fcfs,hrrn,my_policy.json \\
      --rate 4 --out runs/mine

policies: names, with parameters in parentheses, or policy files:
"""


def make_parser() -> Parser:
    """The command line."""
    names = textwrap.fill(", ".join(ORDERS), 78, initial_indent="  ", subsequent_indent="  ")
    parser = Parser("ewsjf evaluate", USAGE, DESCRIPTION, EXAMPLES + names)
    add = parser.add_argument
    add("--workload", action="append", default=[], metavar="NAME", help="or a file; repeatable")
    add("--trace", action="append", default=[], metavar="FILE", help="may be repeated")
    add("--trace-format", metavar="NAME", help=" | ".join(FORMATS))
    add("--jitter", type=number, default=0.0, metavar="S", help="noise on recorded times, s (0)")
    add("--policies", default="default", metavar="LIST", help="also `default` and `all`")
    add("--load", metavar="LIST", help=f"of FCFS capacity, or {RECORDED} ({DEFAULT_LOADS})")
    add("--rate", metavar="LIST", help="arrival rates in requests/s, instead of --load")
    add("--seeds", type=whole, default=5, metavar="N", help="traces a load (5)")
    add("--duration", type=number, default=300.0, metavar="S", help="window, virtual s (300)")
    add("--against", metavar="POLICY", help="also compare with this one of --policies, not fcfs")
    about = f"{' | '.join(preset_names())},\nor a YAML file ({SimulatedConfig().latency})"
    add("--engine", metavar="PRESET", help=about)
    add_set_option(parser, "the engine (repeatable)")
    add_backend_options(parser)
    add("--out", required=True, metavar="DIR", help="results; finished runs there are kept")
    add("--dry-run", action="store_true", help="print the plan and write nothing")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; exit code 0, 1 when a run failed, 2 for bad input, 130 for Ctrl-C."""
    words = list(sys.argv[1:] if argv is None else argv)
    return run_command(
        lambda: _evaluate(make_parser().arguments(words), words),
        "the same command goes on from the finished runs",
    )


def _evaluate(arguments: argparse.Namespace, argv: list[str]) -> int:
    plan = _plan(arguments)
    out = folder("--out", arguments.out)
    names = [policy.name for policy in plan.policies]
    if arguments.against is not None and arguments.against not in names:
        hint = nearest(arguments.against, names)
        raise ConfigError(f"--against: {arguments.against!r} is none of --policies{hint}")
    if arguments.dry_run:
        print(_describe(plan, arguments.jobs))
        return 0
    # joblib's workers inherit it; without, each takes its share of all cores.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with parallel_on(arguments.backend, arguments.jobs):
        return _run(arguments, argv, plan, out)


def _run(arguments: argparse.Namespace, argv: list[str], plan: Plan, out: Path) -> int:
    made_folder("--out", out)
    capacities: dict[str, float] = {}
    runs = make_runs(plan, capacities) if plan.rates_per_s else []  # refuses what cannot be served
    if arguments.engine is None:
        print(f"engine: {engine_name(plan.engine)}; --engine names another", file=sys.stderr)
    print("measuring FCFS capacity ...", file=sys.stderr)
    try:
        shown = bar("traffic", "traffics")
        capacities = measure_capacities(plan.workloads(), plan.engine, out, arguments.jobs, shown)
    except ConfigError as error:
        if plan.loads or plan.recorded:
            raise
        print(f"  unknown, and so are loads: {error}", file=sys.stderr)
    else:
        for name, value in capacities.items():
            told = f"{value:.3g} requests/s on {engine_name(plan.engine)}"
            print(f"  {name}: {told}", file=sys.stderr)
    runs = runs or make_runs(plan, capacities)
    if others := store_of(out).others(run.key for run in runs):
        found = counted(others, "result")
        print(f"not used: {found} of other settings in {store_of(out).folder}", file=sys.stderr)
    records, failures = run_all(runs, out, arguments.jobs, bar("run", "runs"))
    for key, reason in failures.items():
        say(FAILED, f"error: run {key} failed: {reason}")
    if records:
        _write(records, plan, capacities, argv, out, arguments.against)
    return 1 if failures else 0


def _plan(arguments: argparse.Namespace) -> Plan:
    """Everything that was asked for, read and checked before anything runs."""
    check_range("--jobs", arguments.jobs, 1)
    check_range("--jitter", arguments.jitter, 0.0, MAX_JITTER_S)
    trace_format = arguments.trace_format
    if trace_format is not None and trace_format not in FORMATS:
        hint = nearest(trace_format, FORMATS)
        raise ConfigError(f"--trace-format: unknown {trace_format!r}{hint}")
    for path in arguments.trace:
        if Path(path).suffix in YAML_SUFFIXES:
            raise ConfigError(f"--trace: {path} is a YAML file; expected a trace, or --workload")
    sets = {"default": DEFAULT_POLICIES, "all": ",".join(ORDERS)}
    asked = [sets.get(item, item) for item in split_policies(arguments.policies)]
    policies = tuple(parse_policies(",".join(asked), "--policies"))
    load, rate = arguments.load, arguments.rate
    if load is None and rate is None:
        load = DEFAULT_LOADS
    parts = [] if load is None else [part.strip() for part in load.split(",")]
    recorded = RECORDED in parts
    if recorded:
        load = ",".join(part for part in parts if part != RECORDED) or None
    traces = [Source(t, True, trace_format, arguments.jitter) for t in arguments.trace]
    plan = Plan(
        policies=policies,
        sources=tuple([*(Source(w) for w in arguments.workload), *traces]),
        loads=_numbers("--load", load),
        rates_per_s=_numbers("--rate", rate),
        seeds=arguments.seeds,
        duration_s=arguments.duration,
        engine=_engine(arguments, policies),
        recorded=recorded,
    )
    for _, workload in plan.workloads().values():
        if recorded:
            recorded_rate_per_s(workload)
    return plan


def _engine(arguments: argparse.Namespace, policies: Sequence[Policy]) -> SimulatedConfig:
    given, sets = arguments.engine, sets_of(arguments)
    if given is None and not sets:
        return SimulatedConfig()
    config = load_engine(given, "--engine", sets)
    try:
        engine = cached_engine(config)  # refuses an unknown latency preset
        for policy in policies:
            engine.install(policy)
    except ConfigError as error:
        raise ConfigError(f"{given or '--set'}: {error}") from None
    return config


def _numbers(flag: str, text: str | None) -> tuple[float, ...]:
    values = []
    for part in text.split(",") if text is not None else []:
        try:
            values.append(float(part))
        except ValueError:
            raise ConfigError(f"{flag}: {part!r} is not a number > 0") from None
        check_range(flag, values[-1], 0.0, low_open=True)
    if len(set(values)) < len(values):
        raise ConfigError(f"{flag}: a value occurs twice in {text}")
    return tuple(values)


def _describe(plan: Plan, jobs: int) -> str:
    points = [f"load {x:g}" for x in plan.loads] + [f"{x:g} req/s" for x in plan.rates_per_s]
    points += ["as recorded"] if plan.recorded else []
    minutes = plan.runs * plan.duration_s * CORE_SECONDS[plan.engine.engine] / jobs / 60
    return "\n".join(
        [
            f"policies ({len(plan.policies)}): " + ", ".join(p.name for p in plan.policies),
            f"traffic ({len(plan.sources)}): " + ", ".join(s.path for s in plan.sources),
            f"points ({len(points)}): " + ", ".join(points),
            f"seeds: 0 to {plan.seeds - 1}; window {plan.duration_s:g} s",
            f"engine: {engine_name(plan.engine)}",
            f"{counted(plan.runs, 'run')}, very roughly {minutes:.2g} minutes with "
            f"{counted(jobs, 'job')}",
        ]
    )


def _write(
    records: list[dict[str, Any]],
    plan: Plan,
    capacities: dict[str, float],
    argv: list[str],
    out: Path,
    against: str | None,
) -> None:
    meta = {
        "command": shlex.join(["ewsjf", "evaluate", *argv]),
        "duration_s": plan.duration_s,
        "seeds": plan.seeds,
        "loads": list(plan.loads),
        "rates_per_s": list(plan.rates_per_s),
        "capacity_requests_per_s": capacities,
        "policies": [p.to_dict() for p in plan.policies],
        "engine": to_dict(plan.engine),
        "engine_name": engine_name(plan.engine),
        "kv_blocks": cached_engine(plan.engine).kv_blocks,
        "latency_hash": cached_engine(plan.engine).latency.content_hash,
        "versions": _versions(),
        "git": git_state(),
    }
    data = {"meta": meta, "runs": records, "summary": summarise(records)}
    paths = [out / name for name in ("evaluation.json", "evaluation.md", "frontier.png")]
    write_json(paths[0], data)
    write_text(paths[1], markdown(records, meta, against))
    frontier(records, paths[2])
    print(console_table(records, meta))
    print("\n" + "\n".join(str(path) for path in paths))


def _versions() -> dict[str, str | None]:
    found: dict[str, str | None] = {"ewsjf_env": __version__, "python": sys.version.split()[0]}
    for package in ("vllm", "torch", "numpy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


if __name__ == "__main__":
    sys.exit(main())
