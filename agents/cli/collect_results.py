"""Copy a study's reports, pictures and summaries to the folder that the README shows."""

import argparse
import sys
from pathlib import Path

from agents.experiments.policies.collect import collect
from ewsjf_env.config import ConfigError


def main(argv: list[str] | None = None) -> int:
    """Run the command; exit code 2 for bad input."""
    parser = argparse.ArgumentParser(prog="collect_results.py", description=__doc__)
    parser.add_argument("study", type=Path, help="folder that scripts/study.sh wrote")
    parser.add_argument("--docs", type=Path, default=Path("docs/results"), help="docs/results")
    arguments = parser.parse_args(argv)
    try:
        print("\n".join(collect(arguments.study, arguments.docs)))
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0
