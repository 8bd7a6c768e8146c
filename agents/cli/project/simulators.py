"""The command `ewsjf simulators`: our compiled engine beside NVIDIA's AISimulate.

AISimulate needs an environment of its own, of which only the compiled module is used:

    python3 -m venv DIR
    DIR/bin/pip install --no-deps --only-binary=:all: --pre aisimulate
"""

from __future__ import annotations

import sys
import tempfile
from argparse import Namespace
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from agents.cli._command import Parser, json_file, number, run_command, whole
from agents.core.files import write_json
from agents.core.provenance import git_state
from agents.experiments.simulators.comparison import (
    SimulatorCase,
    SimulatorPlan,
    compare_simulators,
    to_dict,
)

DESCRIPTION = """\
Play the same requests in the compiled engine and in NVIDIA's AISimulate, with
one length of step and without look-ahead, and compare moments and speeds."""
EPILOG = """\
AISimulate needs an environment of its own:
  python3 -m venv DIR
  DIR/bin/pip install --no-deps --only-binary=:all: --pre aisimulate

exit codes: 0 done (agreement is a result), 2 bad input or no AISimulate"""


def make_parser() -> Parser:
    """The command line."""
    default = SimulatorPlan()
    parser = Parser("ewsjf simulators", None, DESCRIPTION, EPILOG)
    add = parser.add_argument
    add(
        "--python", type=Path, required=True, metavar="FILE", help="with AISimulate: DIR/bin/python"
    )
    add("--workload", default=default.workload, metavar="NAME", help=f"({default.workload})")
    add("--loads", type=number, nargs="+", default=default.loads, metavar="X", help="of capacity")
    add(
        "--duration", type=number, default=default.duration_s, metavar="S", help="of arrivals (600)"
    )
    add("--turns", type=whole, default=default.turns, metavar="N", help="of each (9)")
    add("--seed", type=whole, default=default.seed, metavar="N", help="of the traffic (0)")
    add("--out", type=Path, required=True, metavar="FILE.json", help="for the result")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; for exit codes see `EPILOG`."""
    words = list(sys.argv[1:] if argv is None else argv)
    return run_command(lambda: _run(make_parser().arguments(words)), "nothing was written")


def _run(arguments: Namespace) -> int:
    a = arguments
    out = json_file("--out", a.out)
    plan = SimulatorPlan(a.workload, tuple(a.loads), a.duration, a.turns, a.seed)
    with tempfile.TemporaryDirectory() as folder:
        comparison = compare_simulators(a.python, plan, Path(folder))
    versions = {name: _version(name) for name in ("ewsjf-env", "vllm", "numba", "numpy")}
    meta = {"git": git_state(), "versions": versions}
    content = {"meta": meta, **to_dict(comparison, plan)}
    write_json(out, content)
    for case in comparison.cases:
        print(_line(case))
    return 0


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _line(case: SimulatorCase) -> str:
    call, alone = case.call, case.scheduling
    return (
        f"load {case.load:g}: first tokens {case.first_tokens_equal} and finishes "
        f"{case.finishes_equal} of {case.requests} equal, preemptions {case.preemptions} and "
        f"{case.preemptions_aisimulate}; a call {call.compiled.value:,.0f}x and "
        f"{call.aisimulate.value:,.0f}x real time, ratio {call.ratio.value:.1f} "
        f"[{call.ratio.low:.1f}, {call.ratio.high:.1f}]; scheduling alone "
        f"{alone.compiled.value:,.0f}x and {alone.aisimulate.value:,.0f}x, ratio "
        f"{alone.ratio.value:.1f} [{alone.ratio.low:.1f}, {alone.ratio.high:.1f}]"
    )


if __name__ == "__main__":
    sys.exit(main())
