"""The command `ewsjf fit-latency`: a latency model of measured steps."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Sequence

from agents.cli._command import Parser, json_file, run_command
from ewsjf_env.engine.simulated.latency import LatencyModel
from ewsjf_env.engine.steps.step_fit import fit_steps
from ewsjf_env.engine.steps.step_samples import read_steps

DESCRIPTION = """\
Fit a latency model to the measured steps of a real vLLM.
The error it prints is that on steps that were not fitted."""
EPILOG = """\
measure steps:  vllm serve MODEL
    --scheduler-cls ewsjf_env.engine.steps.step_log.StepLogScheduler
    --additional-config '{"ewsjf_step_log": "steps.jsonl"}'
then send prompts of all lengths, alone and many at once.
`ewsjf gpu-run` does both."""


def make_parser() -> Parser:
    """The command line."""
    parser = Parser("ewsjf fit-latency", None, DESCRIPTION, EPILOG)
    add = parser.add_argument
    add("steps", metavar="STEPS.jsonl", help="the log of a StepLogScheduler")
    add("--like", required=True, metavar="NAME", help="preset or file of the same model")
    add("--out", required=True, metavar="FILE.json", help="latency model to write")
    add("--name", metavar="NAME", help="of the machine (that of --like)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; exit code 0, 1 when it failed, 2 for bad input, 130 for Ctrl-C."""
    words = list(sys.argv[1:] if argv is None else argv)
    return run_command(lambda: _fit(words), "nothing was written")


def _fit(words: list[str]) -> int:
    arguments = make_parser().arguments(words)
    out = json_file("--out", arguments.out)
    start = LatencyModel.load(arguments.like, "--like")
    if arguments.name:
        start = dataclasses.replace(
            start, machine=dataclasses.replace(start.machine, name=arguments.name)
        )
    found = fit_steps(start, read_steps(arguments.steps))
    found.model.save(out)
    print(json.dumps(found.to_dict(), indent=1))
    print(out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
