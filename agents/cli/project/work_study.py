"""The command `ewsjf work-study`: what output hints, or fair shares of tenants, are worth."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from agents.cli._command import Parser, made_folder, number, run_command, whole
from agents.core.progress import bar
from agents.experiments.tenants_and_hints.arms import STUDIES
from agents.experiments.tenants_and_hints.study import run_study

DESCRIPTION = """\
Measure what output hints, or fair shares of tenants, are worth, on synthetic
traffic in virtual time."""


def make_parser() -> Parser:
    """The command line."""
    parser = Parser("ewsjf work-study", "ewsjf work-study STUDY --out DIR [options]", DESCRIPTION)
    add = parser.add_argument
    add("study", choices=sorted(STUDIES), metavar="STUDY", help=" | ".join(sorted(STUDIES)))
    add("--out", type=Path, required=True, metavar="DIR", help="results; finished runs are kept")
    add("--seeds", type=whole, default=5, metavar="N", help="of traffic (5)")
    add("--duration", type=number, default=100.0, metavar="S", help="virtual s (100)")
    add("--jobs", type=whole, default=1, metavar="N", help="worker processes (1)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; exit code 2 for bad input, 130 for Ctrl-C."""
    words = list(sys.argv[1:] if argv is None else argv)

    def run() -> int:
        a = make_parser().arguments(words)
        out = made_folder("--out", a.out)
        run_study(STUDIES[a.study](), a.seeds, a.duration, out, a.jobs, bar("run"))
        print((out / "study.md").read_text(encoding="utf-8"))
        return 0

    return run_command(run, "the same command goes on from the finished runs")


if __name__ == "__main__":
    sys.exit(main())
