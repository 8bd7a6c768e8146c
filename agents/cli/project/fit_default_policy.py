"""The command `ewsjf fit-default-policy`: the policy that ships, fitted to training traffic."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from agents.cli._command import Parser, folder, json_file, made_folder, run_command, whole
from agents.core.progress import bar
from agents.experiments.default_policy import POINTS, fit
from ewsjf_env.config import check_range

USAGE = "ewsjf fit-default-policy --out FILE.json [options]"
DESCRIPTION = """\
Fit partition and score of the default policy to the workload training_mix.
Started again it goes on from the finished runs."""


def make_parser() -> Parser:
    """The command line."""
    parser = Parser("ewsjf fit-default-policy", USAGE, DESCRIPTION)
    add = parser.add_argument
    add("--out", required=True, metavar="FILE.json", help="policy file to write")
    scan = "runs/default_policy"
    add("--scan", default=scan, metavar="DIR", help=f"runs, resumable ({scan})")
    add("--points", type=whole, default=POINTS, metavar="N", help=f"Sobol points ({POINTS})")
    add("--jobs", type=whole, default=1, metavar="N", help="worker processes (1)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; exit code 1 failed, 2 bad input, 130 for Ctrl-C."""
    words = list(sys.argv[1:] if argv is None else argv)
    return run_command(lambda: _fit(words), "the same command goes on from the finished runs")


def _fit(words: list[str]) -> int:
    arguments = make_parser().arguments(words)
    check_range("--jobs", arguments.jobs, 1)
    check_range("--points", arguments.points, 1)
    out = json_file("--out", arguments.out)
    scanned = folder("--scan", arguments.scan)
    made_folder("--scan", scanned)
    lines = fit(out, scanned, arguments.points, arguments.jobs, bar("run"))
    print("\n".join([*lines, str(out)]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
