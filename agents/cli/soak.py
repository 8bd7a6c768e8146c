"""The command `ewsjf soak`: a server under load for long, with policy changes."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from agents.cli._command import (
    FAILED,
    Parser,
    folder,
    made_folder,
    number,
    run_command,
    say,
    whole,
)
from agents.core.files import write_json
from agents.operations import launch as server_launch
from agents.operations.soak import run
from agents.operations.soak_load import LoadSettings
from ewsjf_env.config import check_range
from ewsjf_env.serving.launch import option_value

USAGE = "ewsjf soak --out DIR [options] -- [MODEL] [any vllm serve argument]"
DESCRIPTION = "Load a server with policy changes and clients that leave, and watch it."
EPILOG = """\
example: ewsjf soak --policy ewsjf --simulate llama3-8b_h100 --out runs/soak --
exit codes: 0 passed, 1 failed, 2 bad input"""


def make_parser() -> Parser:
    """The command line, before `--`."""
    parser = Parser("ewsjf soak", USAGE, DESCRIPTION, EPILOG, [server_launch.launch_options()])
    add = parser.add_argument
    add("--out", required=True, metavar="DIR", help="folder for soak.json and server.log")
    add("--minutes", type=number, default=5.0, metavar="X", help="of load (5)")
    add("--rate", type=number, default=8.0, metavar="X", help="requests/s (8)")
    add("--abort-share", type=number, default=0.1, metavar="X", help="of clients that leave (0.1)")
    add("--seed", type=whole, default=0, metavar="N", help="of everything drawn (0)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a soak; exit code 0 when it passed, 1 when it failed, 2 for bad input."""
    words = list(sys.argv[1:] if argv is None else argv)
    return run_command(lambda: _soak(words), "the server has been stopped")


def _soak(words: list[str]) -> int:
    options, vllm_arguments = server_launch.split(words)
    arguments = make_parser().arguments(options)
    check_range("--minutes", arguments.minutes, 0.0, low_open=True)
    check_range("--rate", arguments.rate, 0.0, low_open=True)
    check_range("--abort-share", arguments.abort_share, 0.0, 1.0)
    arguments.allow_patch, arguments.tune = True, None
    out: Path = folder("--out", arguments.out)
    launch = server_launch.make_launch(arguments, vllm_arguments, os.environ)
    model = option_value(launch.command, "--served-model-name") or vllm_arguments[0]
    settings = LoadSettings(
        server_launch.url(vllm_arguments),
        model,
        arguments.rate,
        arguments.abort_share,
        seed=arguments.seed,
        api_key=option_value(vllm_arguments, "--api-key") or os.environ.get("VLLM_API_KEY"),
    )
    made_folder("--out", out)
    result = run(launch, settings, 60.0 * arguments.minutes, out / "server.log")
    path = out / "soak.json"
    write_json(path, {"minutes": arguments.minutes, "command": launch.command, **result})
    for problem in result["problems"]:
        say(FAILED, f"failed: {problem}")
    print(f"soak {'passed' if result['well'] else 'failed'}: {result['counts']} in {path}")
    return 0 if result["well"] else FAILED


if __name__ == "__main__":
    sys.exit(main())
