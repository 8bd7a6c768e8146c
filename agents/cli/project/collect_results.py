"""The command `ewsjf collect-results`: a study's reports, copied to where the README shows them."""

import sys
from collections.abc import Sequence
from pathlib import Path

from agents.cli._command import Parser, run_command
from agents.experiments.policies.collect import collect

DESCRIPTION = "Copy a study's reports, pictures and summaries to the folder of the docs."


def make_parser() -> Parser:
    """The command line."""
    parser = Parser("ewsjf collect-results", None, DESCRIPTION)
    parser.add_argument("study", type=Path, help="folder that scripts/study.sh wrote")
    docs = Path("docs/results")
    parser.add_argument("--docs", type=Path, default=docs, metavar="DIR", help=f"({docs})")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; exit code 2 for bad input."""
    words = list(sys.argv[1:] if argv is None else argv)
    return run_command(lambda: _collect(words), "nothing was copied")


def _collect(words: list[str]) -> int:
    arguments = make_parser().arguments(words)
    print("\n".join(collect(arguments.study, arguments.docs)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
