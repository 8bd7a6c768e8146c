"""The command `ewsjf compare`: tuners compared on the same traffic."""

from __future__ import annotations

import os
import shlex
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agents.cli._command import (
    FAILED,
    Parser,
    add_backend_options,
    add_set_option,
    folder,
    made_folder,
    run_command,
    say,
    sets_of,
    whole,
)
from agents.core.files import write_json, write_text
from agents.core.progress import bar
from agents.core.provenance import git_state
from agents.core.registry import agent_names
from agents.core.words import counted
from agents.experiments.backend import parallel_on
from agents.experiments.source import repeats_of
from agents.experiments.tuners.config import ComparisonConfig, TaskConfig, load_comparison
from agents.experiments.tuners.report import markdown, picture
from agents.experiments.tuners.summary import summarise
from agents.experiments.tuners.tuning_runs import play_all, runs_of
from ewsjf_env.config import ConfigError, check_range, to_dict

DEFAULT_AGENTS = "bayes,tpe,random,sac,ppo,default"
USAGE = "ewsjf compare --out DIR [--config FILE.yaml] [--agents LIST] [options]"
DESCRIPTION = """\
Tune with several agents on the same traffic, judge what each recommends on
held-out traces, and compare.  Started again it goes on from finished runs."""
EPILOG = """
  also: arms of the config, policies (hrrn: never tuned), yours as F.py:Class
  with settings: --set 'arms.hill={agent: F.py:Hill, settings: {step: 1}}'"""
RESUME = "the same command goes on from the finished runs"


def make_parser() -> Parser:
    """The command line."""
    names = textwrap.fill("agents: " + ", ".join(agent_names()), 78, subsequent_indent="  ")
    parser = Parser("ewsjf compare", USAGE, DESCRIPTION, names + EPILOG)
    add = parser.add_argument
    add("--config", default="configs/compare.yaml", metavar="FILE.yaml", help="tasks and arms")
    add_set_option(parser, "the config (repeatable)")
    add("--agents", default=DEFAULT_AGENTS, metavar="LIST", help=DEFAULT_AGENTS)
    add("--engine", metavar="NAME", help="compiled | simulated (as each task says)")
    add("--tasks", metavar="LIST", help="of the config (all)")
    add("--seeds", type=whole, default=10, metavar="N", help="tuning seeds (10)")
    add_backend_options(parser)
    add("--out", required=True, metavar="DIR", help="results; finished runs there are kept")
    add("--dry-run", action="store_true", help="print the plan and run nothing")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; exit code 0, 1 when a run failed, 2 for bad input, 130 for Ctrl-C."""
    words = list(sys.argv[1:] if argv is None else argv)
    return run_command(lambda: _compare(words), RESUME)


def _compare(words: list[str]) -> int:
    arguments = make_parser().arguments(words)
    check_range("--seeds", arguments.seeds, 1)
    check_range("--jobs", arguments.jobs, 1)
    tasks = None if arguments.tasks is None else _names("--tasks", arguments.tasks)
    names = _names("--agents", arguments.agents)
    out = folder("--out", arguments.out)
    config = load_comparison(arguments.config, tasks, sets_of(arguments), arguments.engine, names)
    config, arms = config.with_agents(names)
    for arm in arms:
        config.arm(arm)
    runs = runs_of(config, arms, arguments.seeds, out)
    plan = _describe(config, arms, arguments.seeds)  # refuses arms that cannot be
    if arguments.dry_run:
        print(plan)
        return 0
    # joblib's workers inherit it; without, each takes its share of all cores.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with parallel_on(arguments.backend, arguments.jobs):
        made_folder("--out", out)
        judged, failures = play_all(config, runs, arguments.jobs, bar("run", "runs"))
    for name, reason in failures.items():
        say(FAILED, f"error: {name} failed: {reason}")
    if judged:
        _write(judged, config, arms, arguments.seeds, words, out)
    return FAILED if failures else 0


def _names(flag: str, text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise ConfigError(f"{flag}: the list is empty")
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"{flag}: {name!r} occurs twice")
    return names


def _describe(config: ComparisonConfig, arms: Sequence[str], seeds: int) -> str:
    lines, total = [], 0
    for name in config.tasks:
        windows = {arm: config.run_config(name, arm, 0).windows for arm in arms}
        total += seeds * sum(windows.values())
        env = config.tasks[name].tuning
        about = f"windows of {env.window_s:g} s on {env.engine_name}"
        lines.append(f"task {name}: {env.workload}, {about}")
        lines.append("  " + ", ".join(f"{arm} {n}" for arm, n in windows.items()))
    runs = counted(seeds * len(arms) * len(config.tasks), "run")
    return "\n".join([*lines, f"{counted(seeds, 'seed')}: {runs}, {counted(total, 'window')}"])


def _repeats(task: TaskConfig) -> int:
    """How often the traffic that tunes or judges goes through its recording, at most."""
    judged = [x for x in (task.held_out, task.after_jump) if x is not None]
    return max(repeats_of(t) for t in (task.tuning, *(x.task(task.tuning) for x in judged)))


def _write(
    judged: list[dict[str, Any]],
    config: ComparisonConfig,
    arms: Sequence[str],
    seeds: int,
    words: list[str],
    out: Path,
) -> None:
    meta = {
        "command": shlex.join(["ewsjf", "compare", *words]),
        "seeds": seeds,
        "arms": list(arms),
        "config": to_dict(config),
        "trace_repeats": {name: _repeats(task) for name, task in config.tasks.items()},
        "engines": {name: task.tuning.engine_name for name, task in config.tasks.items()},
        "git": git_state(),
    }
    summary = summarise(judged)
    paths = [out / name for name in ("comparison.json", "comparison.md", "comparison.png")]
    write_json(paths[0], {"meta": meta, "runs": judged, "summary": summary})
    report = markdown(summary, meta)
    write_text(paths[1], report)
    picture(summary, paths[2])
    print(report)
    print("\n".join(str(path) for path in paths))


if __name__ == "__main__":
    sys.exit(main())
