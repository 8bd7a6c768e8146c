"""The command `ewsjf benchmark`: the CPU time of our scheduler beside that of vLLM's own."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agents.cli._command import Parser, json_file, number, run_command, whole
from agents.core.files import write_text
from agents.core.provenance import git_state
from agents.experiments import benchmark
from agents.experiments import clock as virtual_clock
from ewsjf_env.config import check_range

DESCRIPTION = "Compare the CPU time of our scheduler with vLLM's own, as ratios in one run."


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; exit code 0, or 2 for bad input."""
    words = list(sys.argv[1:] if argv is None else argv)
    return run_command(lambda: _benchmark(make_parser().arguments(words)), "nothing was written")


def make_parser() -> Parser:
    """The command line."""
    default = benchmark.StepPlan()
    parser = Parser("ewsjf benchmark", "ewsjf benchmark [options]", DESCRIPTION)
    add = parser.add_argument
    add("--waiting", type=whole, nargs="+", default=default.waiting, metavar="N", help="depths")
    add("--running", type=whole, default=default.running, metavar="N", help="requests in a step")
    add("--orders", nargs="+", default=default.arms, metavar="ORDER", help="beside stock")
    add("--repeats", type=whole, default=default.repeats, metavar="N", help="ratios taken")
    add(
        "--load",
        metavar="X",
        type=number,
        default=0.7,
        help="of FCFS capacity, for the virtual clock",
    )
    add("--virtual", type=number, default=120.0, metavar="S", help="0 leaves that part out")
    add("--profile", metavar="ORDER", help="show where the steps of this order spend their time")
    add("--against", type=Path, metavar="TREE", help="instead: the virtual clock, ours and its")
    add("--turns", type=whole, default=8, metavar="N", help="of each version, with --against")
    add("--out", metavar="FILE.json", help="for the result")
    return parser


def _benchmark(arguments: Namespace) -> int:
    a = arguments
    out = None if a.out is None else json_file("--out", a.out)
    if a.against:
        return _against(a, out)
    check_range("--load", a.load, 0.0, low_open=True)
    check_range("--virtual", a.virtual, 0.0)
    plan = benchmark.StepPlan(tuple(a.waiting), a.running, tuple(a.orders), a.repeats)
    if arguments.profile:
        stats = benchmark.profile_steps(plan, arguments.profile, max(plan.waiting))
        stats.sort_stats("tottime").print_stats(re.escape(benchmark.PACKAGE), 25)
        print(
            f"{benchmark.own_share(stats):.1%} of the profiled CPU time is spent in our functions"
        )
        return 0
    costs = benchmark.measure_steps(plan)
    print(f"{'waiting':>8} {'order':>14} {'us/step':>8} {'stock':>8}  ratio [95 %]")
    for c in costs:
        r = c.ratio
        print(
            f"{c.waiting:8d} {c.arm:>14} {c.step_us:8.0f} {c.stock_us:8.0f}"
            f"  {r.value:.3f} [{r.low:.3f}, {r.high:.3f}]"
        )
    speeds = benchmark.measure_simulation(a.load, a.virtual) if a.virtual else []
    for s in speeds:
        v = s.speed
        print(
            f"load {s.load:g}, {s.arm}: {v.value:.0f} [{v.low:.0f}, {v.high:.0f}] "
            "virtual seconds a CPU second"
        )
    if out is not None:
        found: dict[str, Any] = {"meta": {"plan": dataclasses.asdict(plan), "git": git_state()}}
        found["steps"] = [dataclasses.asdict(c) for c in costs]
        found["simulation"] = [dataclasses.asdict(s) for s in speeds]
        write_text(out, json.dumps(found, indent=1) + "\n")
    return 0


def _against(arguments: Namespace, out: Path | None) -> int:
    a = arguments
    speeds = virtual_clock.compare_clocks(a.against, a.virtual or 60.0, a.turns)
    for s in speeds:
        g, shares = s.gain, ", ".join(f"{k} {v:.0%}" for k, v in s.shares.items())
        print(
            f"{s.case}: {s.speed.value:.0f} virtual seconds a CPU second, before "
            f"{s.before.value:.0f}; gain {g.value:.3f} [{g.low:.3f}, {g.high:.3f}]; {shares}"
        )
    if out is not None:
        meta = {"git": git_state(), "virtual_s": a.virtual, "turns": a.turns}
        found: dict[str, Any] = {"meta": meta, "cases": virtual_clock.to_rows(speeds)}
        write_text(out, json.dumps(found, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
