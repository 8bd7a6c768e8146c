"""What does `scripts/train.py` accept, and in which order does it work?"""

from __future__ import annotations

import argparse
import dataclasses
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from agents.command_line import Parser, run_command, whole
from agents.config import StudyConfig
from agents.loop import Progress, tune
from agents.registry import AGENTS
from agents.run_config import DEFAULT_CONTEXT, RunConfig, make_run_config
from agents.run_dir import RunDir, default_folder
from agents.starting_point import TaskPrior, starting_point
from ewsjf_env.config import ConfigError, load_yaml
from ewsjf_env.engine.remote import check_server
from ewsjf_env.parameters import ParameterSpace
from ewsjf_env.registration import ENGINE_IDS
from ewsjf_env.workload import load_workload

USAGE = """\
train.py --agent NAME [--config FILE.yaml] [options]
       train.py --resume RUN [--windows N]"""
DESCRIPTION = """\
Tune the scheduler with an agent, window by window, and keep every window.
A killed or interrupted run continues with --resume."""
WINDOWS = 60
REMOTE_AGENT = "bayes"  # where none is named


def make_parser() -> Parser:
    """The command line."""
    lines = [f"  {name:<16} {entry.summary}" for name, entry in AGENTS.items()]
    parser = Parser("train.py", USAGE, DESCRIPTION, "agents:\n" + "\n".join(lines))
    add = parser.add_argument
    add("--agent", metavar="NAME", help=f"see below (with --engine remote: {REMOTE_AGENT})")
    add("--config", metavar="FILE.yaml", help="the task (configs/env/tuning.yaml)")
    add("--agent-config", metavar="FILE", help="settings of the agent (configs/agents)")
    add("--engine", metavar="NAME", help=" | ".join(ENGINE_IDS) + ", instead of the task's")
    add("--url", metavar="URL", help="of the server, with --engine remote (the task's)")
    add("--seed", type=whole, metavar="N", help="of traffic and proposals (0)")
    add("--windows", type=whole, metavar="N", help=f"windows in all ({WINDOWS})")
    add("--context", metavar="LIST", help=f"features agents see ({','.join(DEFAULT_CONTEXT)})")
    add("--out", metavar="DIR", help="folder of the run (runs/ENV/AGENT/WORKLOAD/SEED__TIME)")
    add("--resume", metavar="RUN", help="continue this run, to --windows if given")
    add("--dry-run", action="store_true", help="print the parameters and run nothing")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; exit code 0, 1 when the run failed, 2 for bad input, 130 for Ctrl-C."""
    words = list(sys.argv[1:] if argv is None else argv)
    return run_command(lambda: _train(words), "continue with --resume and the folder above")


def _train(words: list[str]) -> int:
    arguments = make_parser().arguments(words)
    # Small models: threads cost more than they give, and two runs side by side fight for cores.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if arguments.dry_run:
        print(_describe(_planned(arguments)))
        return 0
    if arguments.resume is not None:
        run, windows = _resumed(arguments)
    else:
        config = _config(arguments)
        if config.env.engine == "remote":  # before there is a folder
            check_server(config.env.remote)
        load_workload(config.env.workload)
        if _starts_by_theory(config):
            TaskPrior(config.task)
        folder = Path(arguments.out) if arguments.out else default_folder(config)
        run, windows = RunDir.create(folder, config), config.windows
    # A tuner that is asked to end leaves a server as one that is interrupted does.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        run.note_command()
        print(f"run: {run.path}", file=sys.stderr)
        with _Bar(windows, len(run.windows())) as bar:
            summary = tune(run, windows, bar.show)
    finally:
        signal.signal(signal.SIGTERM, before)
        run.close()
    _print_summary(summary, run)
    return 0


def _config(arguments: argparse.Namespace) -> RunConfig:
    if arguments.url is not None and arguments.engine != "remote":
        raise ConfigError(f"--url: {arguments.url!r} needs --engine remote")
    if arguments.agent is None and arguments.engine != "remote":
        raise ConfigError("--agent: missing; see --help for the list, or --resume a run")
    fields: dict[str, Any] = {
        name: value
        for name in ("seed", "windows")
        if (value := getattr(arguments, name)) is not None
    }
    if arguments.context is not None:
        fields["context"] = tuple(n.strip() for n in arguments.context.split(",") if n.strip())
    task: dict[str, Any] | str | None = arguments.config
    if arguments.engine is not None:
        task = load_yaml(arguments.config) if arguments.config else {}
        task = {**task, "engine": arguments.engine}
        if arguments.url is not None:
            remote = task.get("remote", {})
            if isinstance(remote, dict):  # else it is refused when it is read
                task["remote"] = {**remote, "url": arguments.url}
    return make_run_config(
        arguments.agent or REMOTE_AGENT,
        task,
        arguments.agent_config,
        **{"windows": WINDOWS, **fields},
    )


def _planned(arguments: argparse.Namespace) -> RunConfig:
    if arguments.resume is None:
        return _config(arguments)
    _refuse_changes(arguments)
    config = RunDir.open(arguments.resume).config
    windows = config.windows if arguments.windows is None else arguments.windows
    return dataclasses.replace(config, windows=windows)


def _resumed(arguments: argparse.Namespace) -> tuple[RunDir, int]:
    _refuse_changes(arguments)
    run = RunDir.open(arguments.resume, lock=True)
    windows = run.config.windows if arguments.windows is None else arguments.windows
    if windows < 1:
        run.close()
        raise ConfigError(f"--windows: {windows} is outside [1, inf)")
    return run, windows


def _refuse_changes(arguments: argparse.Namespace) -> None:
    for name in ("agent", "config", "agent_config", "engine", "url", "seed", "context", "out"):
        if getattr(arguments, name) is not None:
            flag = "--" + name.replace("_", "-")
            raise ConfigError(f"{flag}: cannot be changed by --resume; the run's own is kept")


def _describe(config: RunConfig) -> str:
    task = config.task
    rows = [("parameter", "start", "allowed", "meaning")]
    space: ParameterSpace = task.space()
    for p in space.parameters:
        start = p.default if isinstance(p.default, str) else f"{p.default:g}"
        rows.append((p.name, str(start), p.allowed, p.description))
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    table = ["  ".join([*map(str.ljust, row[:3], widths), row[3]]) for row in rows]
    return "\n".join(
        [
            f"agent {config.agent}, seed {config.seed}, {config.windows} windows of "
            f"{task.window_s:g} s after {task.settle_s:g} s",
            f"traffic {task.workload}, engine {task.engine}, policy {task.policy}, "
            f"reference {task.reference}",
            f"context: {', '.join(config.context) or 'none'}",
            f"space {space.content_hash}, {len(space)} parameters",
            *table,
            *_theory(config),
        ]
    )


def _starts_by_theory(config: RunConfig) -> bool:
    return isinstance(config.settings, StudyConfig) and config.settings.start == "analytic"


def _theory(config: RunConfig) -> list[str]:
    """What an agent with `start: analytic` tries after the start values."""
    if not _starts_by_theory(config):
        return []
    point = starting_point(config.task)
    loads = ", ".join(f"{load:.2f}" for load in point.loads)
    predicted = f"predicted reward {point.objective:+.3f}, start values {point.own_objective:+.3f}"
    if not point.moved:
        return [f"start: analytic, load {loads}: the start values; {predicted}"]
    own = config.task.space().defaults
    moved = ", ".join(f"{k}={_short(v)}" for k, v in point.values.items() if v != own[k])
    return [f"start: analytic, load {loads}: {moved}; {predicted}"]


class _Bar:
    """A progress bar with the incumbent, the windows that violated a constraint, and the ETA."""

    def __init__(self, windows: int, done: int) -> None:
        self._bar = tqdm(total=windows, initial=done, unit="window", mininterval=0.5)

    def show(self, progress: Progress) -> None:
        values = " ".join(f"{k}={_short(v)}" for k, v in list(progress.incumbent.items())[:3])
        self._bar.set_postfix_str(
            f"J={progress.reward:+.3f} violations={progress.violations} best: {values}",
            refresh=False,
        )
        self._bar.update(1)

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()


def _short(value: Any) -> str:
    return value if isinstance(value, str) else f"{value:.3g}"


def _print_summary(summary: dict[str, Any], run: RunDir) -> None:
    values = ", ".join(f"{k}={_short(v)}" for k, v in summary["recommendation"].items())
    print(f"{summary['windows']} windows, {summary['violations']} with a violation", end="")
    print(f", {summary['void']} void, {summary['failed']} failed")
    print(f"recommended: {values}")
    if summary["killed"]:
        print(f"ended by the kill switch: {summary['killed']}")
    print(f"{run.path}\ntensorboard --logdir {run.path}")
