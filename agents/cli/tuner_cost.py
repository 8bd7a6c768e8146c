"""The command `ewsjf tuner-cost`: what a tuner takes of a running server's engine core."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import psutil

from agents.cli._command import Parser, json_file, made_folder, number, run_command, whole
from agents.core.files import write_json
from agents.operations.tuner_cost import CostPlan, measure
from ewsjf_env.config import check_range
from ewsjf_env.engine.base import EngineError

USAGE = "ewsjf tuner-cost --url URL --out FILE.json [options]"
DESCRIPTION = """\
Measure how much CPU time a tuner takes of a running server's engine core.  The
server is on this machine and was started with `ewsjf serve --allow-patch`; its
policy is changed a little, on a lease, and goes back to what it trusts."""


def make_parser() -> Parser:
    """The command line."""
    parser = Parser("ewsjf tuner-cost", USAGE, DESCRIPTION)
    add = parser.add_argument
    add("--url", required=True, metavar="URL", help="of the server, http://127.0.0.1:8123")
    add("--out", type=Path, required=True, metavar="FILE.json", help="for the result")
    add("--window-s", type=number, default=60.0, metavar="S", help="a tuner's window (60)")
    add("--phase-s", type=number, default=10.0, metavar="S", help="length of a phase (10)")
    add("--repeats", type=whole, default=5, metavar="N", help="rounds of four phases (5)")
    add("--calls-per-s", type=number, default=50.0, metavar="X", help="in phases with calls (50)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Measure; exit code 0 when done, 1 when the server fails, 2 for bad input."""
    words = list(sys.argv[1:] if argv is None else argv)
    return run_command(lambda: _measure(words), "nothing was written")


def _measure(words: list[str]) -> int:
    arguments = make_parser().arguments(words)
    check_range("--repeats", arguments.repeats, 2)
    check_range("--phase-s", arguments.phase_s, 0.5)
    check_range("--calls-per-s", arguments.calls_per_s, 1.0, 1000.0)
    check_range("--window-s", arguments.window_s, 0.0, low_open=True)
    plan = CostPlan(
        arguments.url,
        arguments.window_s,
        arguments.phase_s,
        arguments.repeats,
        arguments.calls_per_s,
    )
    made_folder("--out", arguments.out.parent)
    out = json_file("--out", arguments.out)
    try:
        result = measure(plan, os.environ.get("VLLM_API_KEY"))
    except psutil.Error as error:
        raise EngineError(str(error)) from None
    write_json(out, result)
    look, change = result["look_ms"], result["change_ms"]
    print(
        f"engine core: a look {_text(look)} ms, a change {_text(change)} ms; "
        f"share of a window of {plan.window_s:g} s: {result['share']:.3%}; busy with all else: "
        f"{result['busy_without']:.1%} ({out})"
    )
    return 0


def _text(estimate: dict[str, float]) -> str:
    return f"{estimate['value']:.2f} [{estimate['low']:.2f}, {estimate['high']:.2f}]"


if __name__ == "__main__":
    sys.exit(main())
