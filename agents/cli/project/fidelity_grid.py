"""The command `ewsjf fidelity-grid`: both engines in virtual time, compared over a whole grid."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.metadata import version
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
from agents.core.progress import bar
from agents.core.provenance import git_state
from agents.experiments.fidelity_grid import ROWS, play_grid, settings_of, summarise
from ewsjf_env.config import ConfigError, check_range, nearest

DESCRIPTION = """\
Play every order on every traffic, load and machine in the engines `compiled`
and `simulated`, and count the requests that differ.  Exit code 1 where one does."""


def make_parser() -> Parser:
    """The command line."""
    parser = Parser("ewsjf fidelity-grid", None, DESCRIPTION)
    add = parser.add_argument
    add("--traces", metavar="FOLDER", help="of the recordings (none: synthetic traffic alone)")
    add("--rows", metavar="LIST", help="of " + ", ".join(row.name for row in ROWS))
    add("--duration", type=number, default=15.0, metavar="S", help="of a window, virtual s (15)")
    add("--seed", type=whole, default=0, metavar="N", help="of the drawn traces (0)")
    add("--jobs", type=whole, default=2, metavar="N", help="worker processes (2)")
    add("--out", required=True, metavar="DIR", help="results; finished ones there are kept")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; exit code 1 where a request differs, 2 for bad input, 130 for Ctrl-C."""
    words = list(sys.argv[1:] if argv is None else argv)
    return run_command(lambda: _play(words), "the same command goes on from what is finished")


def _play(words: list[str]) -> int:
    arguments = make_parser().arguments(words)
    check_range("--duration", arguments.duration, 0.0, low_open=True)
    check_range("--seed", arguments.seed, 0, 10_000)
    check_range("--jobs", arguments.jobs, 1)
    traces = None if arguments.traces is None else Path(arguments.traces)
    if traces is not None and not traces.is_dir():
        raise ConfigError(f"--traces: {traces} is not a folder")
    rows = {row.name: row for row in ROWS}
    names = list(rows) if arguments.rows is None else arguments.rows.split(",")
    for name in names:
        if name not in rows:
            raise ConfigError(f"--rows: unknown {name!r}{nearest(name, rows)}")
    out = folder("--out", arguments.out)
    settings = settings_of(
        traces, arguments.duration, arguments.seed, [rows[name] for name in names]
    )
    # joblib's workers inherit it; without, each takes its share of all cores.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    made_folder("--out", out)
    results, failures = play_grid(settings, out, arguments.jobs, bar("setting", "fidelity"))
    for key, reason in failures.items():
        say(FAILED, f"error: {key} failed: {reason}")
    found = summarise(results)
    meta = {"duration_s": arguments.duration, "vllm": version("vllm"), "git": git_state()}
    write_json(out / "fidelity.json", {"meta": meta, **found})
    total = found["total"]
    print(
        f"{total['differing']} of {total['requests']} requests differ in {total['cases']} cases, "
        f"{total['preemptions_simulated']} preemptions: {out / 'fidelity.json'}"
    )
    return FAILED if failures or total["differing"] else 0


if __name__ == "__main__":
    sys.exit(main())
