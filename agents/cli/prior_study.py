"""Compare theory's ranking of a score's weights with the simulated engine's."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from tqdm import tqdm

from agents.cli._command import run_command
from agents.experiments.prior_study import PriorStudy, run_study


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; exit code 2 for bad input, 130 for Ctrl-C."""
    default = PriorStudy()
    parser = argparse.ArgumentParser(prog="prior_study.py", description=__doc__)
    add = parser.add_argument
    add("--out", type=Path, required=True, help="results; finished runs are kept")
    add("--workloads", nargs="+", default=default.workloads, metavar="NAME")
    add("--loads", nargs="+", type=float, default=default.loads, metavar="X", help="of capacity")
    add("--points", type=int, default=default.points, metavar="N", help="Sobol points")
    add("--seed", type=int, default=default.seed, metavar="N", help="of the trace")
    add("--window", type=float, default=default.window_s, metavar="S", help="virtual s")
    add("--backlog", type=int, default=default.backlog, metavar="N", help="measures capacity")
    add("--jobs", type=int, default=1, metavar="N", help="worker processes")
    a = parser.parse_args(argv)

    def progress(keys: Iterable[str], total: int) -> Iterator[str]:
        yield from tqdm(keys, total=total, unit="run", mininterval=1.0)

    def run() -> int:
        study = PriorStudy(
            tuple(a.workloads),
            tuple(a.loads),
            a.points,
            a.seed,
            window_s=a.window,
            backlog=a.backlog,
        )
        run_study(study, a.out, a.jobs, progress)
        print((a.out / "study.md").read_text(encoding="utf-8"))
        return 0

    return run_command(run, "the same command goes on from the finished runs")
