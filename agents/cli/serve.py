"""serve.py: start the real `vllm serve` under a policy, and perhaps a tuner beside it.

    serve.py --policy policy.json -- MODEL [any vllm serve argument]

Without --policy this is stock vLLM.  Nothing of the policy is left to be found wrong after the
start: a file that is missing, half written or of another schema ends this with one line and
exit code 2 before vLLM is even imported.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from agents.operations.launch import launch_options, make_launch, split, url
from agents.operations.supervise import supervise
from ewsjf_env.config import ConfigError, load_yaml

TRAIN_SCRIPT = Path(__file__).parents[2] / "scripts" / "train.py"


def main(argv: Sequence[str] | None = None) -> int:
    """Replace this process by `vllm serve`; 2 for bad input.

    With --tune this process stays, and its exit code is that of the server.
    """
    given = list(sys.argv[1:] if argv is None else argv)
    options, vllm_arguments = split(given)
    arguments = _parser().parse_args(options)
    try:
        launch = make_launch(arguments, vllm_arguments, os.environ)
        tuner = _tuner(arguments, vllm_arguments)
    except ConfigError as error:
        print(f"serve.py: {error}", file=sys.stderr)
        return 2
    for note in launch.notes:
        print(f"serve.py: {note}", file=sys.stderr)
    if arguments.dry_run:
        changes = [f"{name}={value}" for name, value in launch.environment.items()]
        print(shlex.join([*changes, *launch.command]))
        return 0
    environment = {**os.environ, **launch.environment}
    if tuner is not None:
        try:
            return supervise(launch.command, environment, tuner, url(vllm_arguments))
        except ConfigError as error:
            print(f"serve.py: {error}", file=sys.stderr)
            return 2
    sys.stdout.flush()
    os.execve(launch.command[0], launch.command, environment)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="serve.py",
        usage="%(prog)s [options] -- MODEL [any vllm serve argument]",
        description="Start `vllm serve` under a scheduling policy; without --policy, as it is.",
        parents=[launch_options()],
        allow_abbrev=False,
    )
    parser.add_argument(
        "--tune", metavar="CONFIG", help="also start a tuner of this configuration; allows PATCH"
    )
    parser.add_argument("--dry-run", action="store_true", help="print the command and stop")
    return parser


def _tuner(arguments: argparse.Namespace, vllm_arguments: Sequence[str]) -> list[str] | None:
    if arguments.tune is None:
        return None
    for path in (TRAIN_SCRIPT, Path(arguments.tune)):
        if not path.is_file():
            raise ConfigError(f"--tune: {path} is not a file")
    load_yaml(arguments.tune)  # a typing error is told before a model is loaded
    command = [sys.executable, str(TRAIN_SCRIPT), "--engine", "remote"]
    command += ["--url", url(vllm_arguments)]
    return [*command, "--config", arguments.tune]
