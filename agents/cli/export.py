"""The command `ewsjf export`: what a run recommends, as a policy file."""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from agents.cli._command import (
    Parser,
    add_backend_options,
    json_file,
    own_command,
    run_command,
    say,
    whole,
)
from agents.core.progress import bar
from agents.core.provenance import git_state
from agents.core.words import counted
from agents.experiments.backend import parallel_on
from agents.experiments.source import repeats_of
from agents.runs.confirmation import MAX_SEEDS, Confirmation, ConfirmationPlan, confirm
from agents.runs.export import KINDS, build_policy
from agents.runs.folder import CONFIG
from agents.runs.view import RunView, open_view
from ewsjf_env import __version__
from ewsjf_env.config import check_range
from ewsjf_env.policy.policy import Policy

REFUSED = 3
STORE = "confirmation"
SCHEDULER_CLASS = "ewsjf_env.serving.scheduler.EWSJFScheduler"
SEEDS, WINDOWS = 10, 5
ALIKE = "it serves as the default does"
DESCRIPTION = """\
Write what a tuning run recommends as a policy file that the scheduler serves.
It must beat the default with 95 % confidence on traffic that nobody has seen.
After a run on a real server that is played on its twin, the task's `simulated`."""
EPILOG = """\
exit codes: 0 written, 1 failed, 2 bad input, 3 refused: not better for sure

serve it:   ewsjf serve --policy policy.json -- MODEL
compare it: ewsjf evaluate --policies fcfs,ewsjf,policy.json ..."""


def make_parser() -> Parser:
    """The command line."""
    parser = Parser("ewsjf export", None, DESCRIPTION, EPILOG)
    add = parser.add_argument
    add("run", metavar="RUN", help="folder of a run")
    add("--out", required=True, metavar="FILE.json", help="policy file to write")
    add("--force", action="store_true", help="write it even if it is not better for sure")
    add("--kind", choices=KINDS, default="auto", help="auto: what the agent has learnt")
    add("--seeds", type=whole, default=SEEDS, metavar="N", help=f"unseen traces a rate ({SEEDS})")
    add("--windows", type=whole, default=WINDOWS, metavar="N", help=f"windows of each ({WINDOWS})")
    add_backend_options(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; for exit codes see `EPILOG`, 130 is Ctrl-C."""
    words = list(sys.argv[1:] if argv is None else argv)
    return run_command(
        lambda: _export(make_parser().arguments(words)),
        "the same command goes on from the finished traces",
    )


def _export(arguments: argparse.Namespace) -> int:
    check_range("--jobs", arguments.jobs, 1)
    check_range("--seeds", arguments.seeds, 1, MAX_SEEDS)
    check_range("--windows", arguments.windows, 1)
    out = json_file("--out", arguments.out)
    run = open_view(arguments.run)
    task = dataclasses.replace(run.task.twin(), windows=arguments.windows)
    plan = ConfirmationPlan(task, arguments.seeds)
    print(f"showing the agent its {counted(len(run.records), 'window')} ...", file=sys.stderr)
    policy = build_policy(run, run.agent(), arguments.kind)
    default = run.config.env.start_policy()
    doubt = _doubt(repeats_of(task))
    if doubt and not arguments.force:
        return say(REFUSED, f"refused: {doubt}; --force writes it all the same")
    if not arguments.force and _serves_alike(policy, default, run):
        return say(REFUSED, f"refused: {ALIKE}; --force writes it all the same")
    # joblib's workers inherit it; without, each takes its share of all cores.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    store = Path(arguments.run) / STORE
    with parallel_on(arguments.backend, arguments.jobs):
        result = confirm(policy, default, plan, store, bar("trace", "confirming"), arguments.jobs)
    print(f"{policy.name}: {policy.kind}; {result}")
    if not result.better and not arguments.force:
        return say(REFUSED, f"refused: {_reason(result)}; --force writes it all the same")
    reasons = [doubt] if doubt else []
    reasons += [] if result.better else [_reason(result)]
    for reason in reasons:
        print(f"warning: written by --force although {reason}", file=sys.stderr)
    notes = provenance(run, result, plan, forced=bool(reasons))
    if doubt:
        notes["evaluation"]["better"] = False
    dataclasses.replace(policy, provenance=notes).save(out)
    print(out)
    if result.violations > result.default_violations:
        print(f"warning: {_broken(result, run, arguments.run)}", file=sys.stderr)
    print(advice(result, out, sure=not reasons))
    return 0


def advice(result: Confirmation, out: Path, sure: bool) -> str:
    """Whether to serve the policy, and the command: the last line of an export.

    Args:
        result: of the confirmation.
        out: the policy file.
        sure: the policy is better than the start with 95 % confidence.
    """
    serve = own_command("serve", "--policy", str(out), "--", "MODEL")
    if not sure:
        return "do not serve it: nothing shows that it is better than the start"
    if result.violations > result.default_violations:
        return (
            "do not serve it as it is: keep what you serve; where the objective matters more than "
            f"the constraints: {serve}"
        )
    return f"serve it: {serve}"


def _broken(result: Confirmation, run: RunView, folder: str) -> str:
    """What the policy breaks, how often, and where that is set."""
    names = ", ".join(constraint.name for constraint in run.config.env.constraints)
    return (
        f"it breaks a constraint in {result.violations:.0%} of the unseen windows, the start in "
        f"{result.default_violations:.0%}; the constraints ({names}) are `constraints` of the "
        f"task, kept in {Path(folder) / CONFIG} below `env`"
    )


def provenance(
    run: RunView, result: Confirmation, plan: ConfirmationPlan, forced: bool
) -> dict[str, Any]:
    """Where a policy comes from: the run, the code, what it was judged by, what it is for."""
    return {
        "made_by": "ewsjf export",
        "run": run.name,
        "agent": run.config.agent,
        "seed": run.config.seed,
        "windows": len(run.records),
        "measured_windows": len(run.measured),
        "workload": run.config.env.workload,
        "engine": run.config.env.engine,
        "run_git": run.versions.get("git"),
        "git": git_state(),
        "ewsjf_env": __version__,
        "vllm": version("vllm"),
        "scheduler": SCHEDULER_CLASS,
        "evaluation": result.to_dict(plan),
        "forced": forced,
    }


def _serves_alike(policy: Policy, default: Policy, run: RunView) -> bool:
    """True when nothing needs to be played to know that it is no better."""
    if policy.order != default.order or policy.adaptive is not None:
        return False
    space = run.task.space()
    ours, theirs = ({n: p.parameters[n] for n in space.names} for p in (policy, default))
    return np.array_equal(space.to_box(ours), space.to_box(theirs))


def _doubt(repeats: int) -> str | None:
    """What forbids to call the result sure, however large the gain is."""
    if repeats <= 1:
        return None
    return (
        f"the recording is shorter than a trace and is repeated up to {repeats} times: the unseen "
        "traces have the same requests and prove nothing; take a longer recording or fewer "
        "--windows"
    )


def _reason(result: Confirmation) -> str:
    if not result.gain.bounded:
        return "one seed gives no interval"
    if result.gain.value == result.gain.high == 0.0:
        return ALIKE
    return f"the interval of the gain over the start begins at {result.gain.low:+.3f}"


if __name__ == "__main__":
    sys.exit(main())
