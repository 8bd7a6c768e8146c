"""What does `scripts/evaluate.py` accept, and in which order does it work?"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from tqdm import tqdm

from agents.evaluation import Plan, Source, make_jobs, measure_capacities, run_jobs
from agents.plots import frontier
from agents.provenance import git_state
from agents.report import console_table, markdown
from agents.summary import summarise
from ewsjf_env import __version__
from ewsjf_env.config import ConfigError, check_range, to_dict
from ewsjf_env.engine.simulated import SimulatedConfig, SimulatedEngine
from ewsjf_env.policy import parse_policies
from ewsjf_env.scheduling.rivals import ORDERS
from ewsjf_env.workload.readers import FORMATS

DEFAULT_POLICIES = "fcfs,random,hrrn,linear_aging,boost,ewsjf"
SECONDS_A_RUN = 5.0  # for the dry run's estimate, on one core
EPILOG = """examples:
  evaluate.py --workload configs/workloads/mixed.yaml --load 0.7,0.95,1.3 --out runs/mixed
  evaluate.py --trace my_log.csv.gz --policies fcfs,hrrn,my_policy.json --rate 4 --out runs/mine
policies: names of orders, with parameters in parentheses, or policy files:
  """ + ", ".join(ORDERS)


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="evaluate.py",
        description="Replay traffic through vLLM's own scheduler under several policies and "
        "compare them: same arrivals, several seeds, paired intervals.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--workload", action="append", default=[], metavar="FILE.yaml", help="may be repeated")
    add("--trace", action="append", default=[], metavar="FILE", help="may be repeated")
    add("--trace-format", choices=FORMATS, help="default: recognised by content")
    add("--jitter", type=float, default=0.0, metavar="S", help="noise on recorded times, seconds")
    add("--policies", default="default", metavar="LIST", help="or `default`, or `all`")
    add("--load", metavar="LIST", help="fractions of the measured FCFS capacity, e.g. 0.7,1.3")
    add("--rate", metavar="LIST", help="arrival rates in requests/s, instead of --load")
    add("--seeds", type=int, default=5, metavar="N", help="traces a load (default 5)")
    add("--duration", type=float, default=300.0, metavar="S", help="window, virtual seconds (300)")
    add("--engine", metavar="FILE.yaml", help="default: Llama-2-13B on an A100, see configs/env")
    add("--jobs", type=int, default=1, metavar="N", help="worker processes (default 1)")
    add("--out", required=True, metavar="DIR", help="results; finished runs there are kept")
    add("--dry-run", action="store_true", help="print the plan and stop")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; exit code 0, 1 when a run failed, 2 for bad input, 130 for Ctrl-C."""
    arguments = make_parser().parse_args(argv)
    try:
        return _evaluate(arguments, list(sys.argv[1:] if argv is None else argv))
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: the same command goes on from the finished runs", file=sys.stderr)
        return 130


def _evaluate(arguments: argparse.Namespace, argv: list[str]) -> int:
    plan = _plan(arguments)
    check_range("jobs", arguments.jobs, 1)
    out = Path(arguments.out)
    if out.exists() and not out.is_dir():
        raise ConfigError(f"out: {out} is a file, expected a folder")
    if arguments.dry_run:
        print(_describe(plan, arguments.jobs))
        return 0
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"out: {out} cannot be made: {error.strerror}") from None
    capacities: dict[str, float] = {}
    if plan.loads:
        print("measuring FCFS capacity ...", file=sys.stderr)
        capacities = measure_capacities(plan, out, arguments.jobs)
        for name, value in capacities.items():
            print(f"  {name}: {value:.3g} requests/s", file=sys.stderr)
    jobs = make_jobs(plan, capacities)
    records, failures = run_jobs(jobs, out, arguments.jobs, _progress)
    for key, reason in failures.items():
        print(f"error: run {key} failed: {reason}", file=sys.stderr)
    if records:
        _write(records, plan, capacities, argv, out)
    return 1 if failures else 0


def _plan(arguments: argparse.Namespace) -> Plan:
    text = arguments.policies
    text = {"default": DEFAULT_POLICIES, "all": ",".join(ORDERS)}.get(text, text)
    engine = SimulatedConfig() if arguments.engine is None else _engine(arguments.engine)
    load = arguments.load if arguments.load or arguments.rate else "0.7,0.95,1.3"
    traces = [Source(t, True, arguments.trace_format, arguments.jitter) for t in arguments.trace]
    plan = Plan(
        policies=tuple(parse_policies(text)),
        sources=tuple([*(Source(w) for w in arguments.workload), *traces]),
        loads=_numbers("load", load),
        rates_per_s=_numbers("rate", arguments.rate),
        seeds=arguments.seeds,
        duration_s=arguments.duration,
        engine=engine,
    )
    for source in plan.sources:
        source.load()  # a bad file is refused before anything runs
    return plan


def _engine(path: str) -> SimulatedConfig:
    config = SimulatedConfig.load(path)
    SimulatedEngine(config).close()  # an unknown latency preset is refused here
    return config


def _numbers(name: str, text: str | None) -> tuple[float, ...]:
    values = []
    for part in text.split(",") if text is not None else []:
        try:
            values.append(float(part))
        except ValueError:
            raise ConfigError(f"{name}: {part!r} is not a number > 0") from None
        check_range(name, values[-1], 0.0, low_open=True)
    if len(set(values)) < len(values):
        raise ConfigError(f"{name}: a value occurs twice in {text}")
    return tuple(values)


def _describe(plan: Plan, jobs: int) -> str:
    points = [f"load {x:g}" for x in plan.loads] or [f"{x:g} req/s" for x in plan.rates_per_s]
    minutes = plan.runs * SECONDS_A_RUN / jobs / 60
    return "\n".join(
        [
            f"policies ({len(plan.policies)}): " + ", ".join(p.name for p in plan.policies),
            f"traffic ({len(plan.sources)}): " + ", ".join(s.path for s in plan.sources),
            f"points ({len(points)}): " + ", ".join(points),
            f"seeds: 0 to {plan.seeds - 1}; window {plan.duration_s:g} s; engine "
            f"{plan.engine.latency}",
            f"{plan.runs} runs, roughly {minutes:.0f} minutes with {jobs} job(s)",
        ]
    )


def _progress(keys: Iterable[str], total: int) -> Iterator[str]:
    yield from tqdm(keys, total=total, unit="run", desc="runs", mininterval=1.0)


def _write(
    records: list[dict[str, Any]],
    plan: Plan,
    capacities: dict[str, float],
    argv: list[str],
    out: Path,
) -> None:
    meta = {
        "command": shlex.join(["python", "scripts/evaluate.py", *argv]),
        "duration_s": plan.duration_s,
        "seeds": plan.seeds,
        "loads": list(plan.loads),
        "rates_per_s": list(plan.rates_per_s),
        "capacity_requests_per_s": capacities,
        "policies": [p.to_dict() for p in plan.policies],
        "engine": to_dict(plan.engine),
        "kv_blocks": SimulatedEngine(plan.engine).kv_blocks,
        "latency_hash": SimulatedEngine(plan.engine).latency.content_hash,
        "versions": _versions(),
        "git": git_state(),
    }
    data = {"meta": meta, "runs": records, "summary": summarise(records)}
    paths = [out / name for name in ("evaluation.json", "evaluation.md", "frontier.png")]
    for path, text in (
        (paths[0], json.dumps(data, indent=1, allow_nan=False) + "\n"),
        (paths[1], markdown(records, meta)),
    ):
        temporary = path.with_name(path.name + ".tmp")
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    frontier(records, paths[2])
    print(console_table(records))
    print("\n" + "\n".join(str(path) for path in paths))


def _versions() -> dict[str, str | None]:
    found: dict[str, str | None] = {"ewsjf_env": __version__, "python": sys.version.split()[0]}
    for package in ("vllm", "torch", "numpy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found
