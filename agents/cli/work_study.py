"""Measure what output hints, or fair shares of tenants, are worth; see agents/work_study.py."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from agents.cli._command import run_command
from agents.core.progress import bar
from agents.experiments.tenants_and_hints.arms import STUDIES
from agents.experiments.tenants_and_hints.study import run_study


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; exit code 2 for bad input, 130 for Ctrl-C."""
    parser = argparse.ArgumentParser(prog="work_study.py", description=__doc__)
    parser.add_argument("study", choices=sorted(STUDIES))
    parser.add_argument("--out", type=Path, required=True, help="results; finished runs are kept")
    parser.add_argument("--seeds", type=int, default=5, metavar="N")
    parser.add_argument("--duration", type=float, default=100.0, metavar="S", help="virtual s")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="worker processes")
    a = parser.parse_args(argv)

    def run() -> int:
        run_study(STUDIES[a.study](), a.seeds, a.duration, a.out, a.jobs, bar("run"))
        print((a.out / "study.md").read_text(encoding="utf-8"))
        return 0

    return run_command(run, "the same command goes on from the finished runs")
