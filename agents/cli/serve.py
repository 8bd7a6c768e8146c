"""The command `ewsjf serve`: the real `vllm serve` under a policy, perhaps with a tuner beside it.

Without --policy this is stock vLLM.  Nothing of the policy is left to be found wrong after the
start: a file that is missing, half written or of another schema ends this with one line and
exit code 2 before vLLM is even imported.
"""

from __future__ import annotations

import os
import shlex
import sys
from argparse import Namespace
from collections.abc import Sequence

from agents.cli._command import Parser, add_set_option, run_command, split_sets
from agents.operations.launch import launch_options, make_launch, split, url
from agents.operations.supervise import supervise
from ewsjf_env.config import ConfigError, load_yaml
from ewsjf_env.shipped import find_config

USAGE = "ewsjf serve [options] -- MODEL [any vllm serve argument]"
DESCRIPTION = "Start `vllm serve` under a scheduling policy; without --policy, as it is."
EPILOG = """\
examples:
  ewsjf serve --policy policy.json -- MODEL --port 8000
  ewsjf serve --policy ewsjf --simulate llama3-8b_h100 -- --port 8000   (no GPU)
exit codes: those of vLLM, 2 bad input"""


def make_parser() -> Parser:
    """The command line, before `--`."""
    parser = Parser("ewsjf serve", USAGE, DESCRIPTION, EPILOG, [launch_options()])
    add = parser.add_argument
    add("--tune", metavar="TASK", help="also start a tuner of this task; allows PATCH")
    add_set_option(parser, "the task, or agent.A.B=3 (repeatable)")
    add("--dry-run", action="store_true", help="print the command and stop")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Replace this process by `vllm serve`; 2 for bad input.

    With --tune this process stays, and its exit code is that of the server.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    return run_command(lambda: _serve(words), "the server has ended")


def _serve(words: list[str]) -> int:
    options, vllm_arguments = split(words)
    arguments = make_parser().arguments(options)
    launch = make_launch(arguments, vllm_arguments, os.environ)
    tuner = _tuner(arguments, vllm_arguments)
    for note in launch.notes:
        print(f"ewsjf serve: {note}", file=sys.stderr)
    if arguments.dry_run:
        changes = [f"{name}={value}" for name, value in launch.environment.items()]
        print(shlex.join([*changes, *launch.command]))
        return 0
    environment = {**os.environ, **launch.environment}
    if tuner is not None:
        return supervise(launch.command, environment, tuner, url(vllm_arguments))
    sys.stdout.flush()
    os.execve(launch.command[0], launch.command, environment)


def _tuner(arguments: Namespace, vllm_arguments: Sequence[str]) -> list[str] | None:
    sets, own = split_sets(arguments)
    if arguments.tune is None:
        if given := arguments.set:
            raise ConfigError(f"--set: {given[0]!r} needs --tune")
        return None
    task = find_config(arguments.tune, "env", "--tune")
    # A typing error is told before a model is loaded; the import takes longer than the rest here.
    from agents.cli.train import REMOTE_AGENT
    from agents.runs.config import make_run_config
    from ewsjf_env.env.task import load_tuning

    told = {**load_yaml(task), "engine": "remote"}
    make_run_config(REMOTE_AGENT, load_tuning(told, where=arguments.tune, sets=sets), None, own)
    command = [sys.executable, "-m", "agents.cli", "train", "--engine", "remote"]
    command += ["--url", url(vllm_arguments), "--config", str(task)]
    return command + [word for text in arguments.set or [] for word in ("--set", text)]


if __name__ == "__main__":
    sys.exit(main())
