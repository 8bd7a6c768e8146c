"""The command `ewsjf policy-study`: every policy, tuned and judged."""

from __future__ import annotations

import dataclasses
import os
import shlex
import sys
from collections.abc import Sequence

from agents.cli._command import (
    Parser,
    add_set_option,
    folder,
    made_folder,
    run_command,
    sets_of,
    whole,
)
from agents.core.files import write_text
from agents.core.progress import bar
from agents.core.provenance import git_state
from agents.experiments.policy_study.config import PolicyStudyConfig, check_files, load_study
from agents.experiments.policy_study.plots import picture
from agents.experiments.policy_study.report import markdown
from agents.experiments.policy_study.study import run_study
from agents.experiments.policy_study.summary import summarise, write_summary
from ewsjf_env.config import ConfigError, check_range, nearest
from ewsjf_env.engine.simulated.config import VIRTUAL

USAGE = "ewsjf policy-study --out DIR [--config FILE.yaml] [options]"
DESCRIPTION = """\
Tune every policy on one part of the traffic and judge it on the other, beside
its defaults: J, frontiers, who loses, and where nothing helps.  Started again
it goes on from finished runs."""
CAPACITY_RUNS = 3.0  # one measurement of capacity takes about as long as so many windows
EXTRA_ROWS = 3  # arms that get more seeds where the comparison is undecided


def make_parser() -> Parser:
    """The command line."""
    parser = Parser("ewsjf policy-study", USAGE, DESCRIPTION)
    add = parser.add_argument
    add("--config", default="configs/policy_study.yaml", metavar="FILE.yaml", help="the study")
    add_set_option(parser, "the config (repeatable)")
    add("--engine", metavar="NAME", help="compiled | simulated, instead of the config's")
    add("--traces", metavar="FOLDER", help="of the recordings, instead of the config's")
    add("--only", metavar="LIST", help="of the config's workloads (all)")
    add("--seeds", type=whole, metavar="N", help="judged traces a load, not the config's")
    add("--jobs", type=whole, default=2, metavar="N", help="worker processes (2)")
    add("--out", required=True, metavar="DIR", help="results; finished runs there are kept")
    add("--dry-run", action="store_true", help="print the plan and run nothing")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; exit code 0, 1 when a run failed, 2 for bad input, 130 for Ctrl-C."""
    words = list(sys.argv[1:] if argv is None else argv)
    return run_command(lambda: _study(words), "the same command goes on from the finished runs")


def _study(words: list[str]) -> int:
    arguments = make_parser().arguments(words)
    check_range("--jobs", arguments.jobs, 1)
    config = load_study(arguments.config, arguments.traces, sets_of(arguments))
    if arguments.only is not None:
        names = [name.strip() for name in arguments.only.split(",") if name.strip()]
        if not names:
            raise ConfigError("--only: the list is empty")
        config = config.only(names)
    if arguments.engine is not None:
        if arguments.engine not in VIRTUAL:
            hint = nearest(arguments.engine, VIRTUAL)
            raise ConfigError(f"--engine: unknown {arguments.engine!r}{hint}")
        config = dataclasses.replace(config, engine=arguments.engine)
    if arguments.seeds is not None:
        check_range("--seeds", arguments.seeds, 1, 1000)
        config = dataclasses.replace(config, seeds=arguments.seeds)
    out = folder("--out", arguments.out)
    check_files(config)
    if arguments.dry_run:
        print(describe(config, arguments.jobs))
        return 0
    # joblib's workers inherit it; without, each takes its share of all cores.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    made_folder("--out", out)
    study = run_study(config, out, arguments.jobs, lambda stage: bar("run", stage))
    meta = {"command": shlex.join(["ewsjf", "policy-study", *words])}
    found = {"meta": {**meta, "git": git_state()}, **summarise(study)}
    paths = [out / name for name in ("study.json", "study.md", "study.png")]
    write_summary(paths[0], found)
    write_text(paths[1], markdown(found))
    picture(found, paths[2])
    print("\n".join(str(path) for path in paths))
    return 0


def describe(config: PolicyStudyConfig, jobs: int) -> str:
    """Runs of each stage and what they cost, about; equal policies are run once."""
    plan, controls = config.tuning, config.controls
    points = sum(family.size for family in config.families.values())
    tuned = sum(family.tuned for family in config.families.values())
    # Defaults, best points and best at each load overlap: about two of three remain.
    kept = round(2 / 3 * (1 + plan.finalists + len(plan.loads))) * tuned
    plain = sum(family.order == label for label, family in config.families.items())
    per_load = sum(family.tuned and family.per_load for family in config.families.values())
    arms = plain + tuned + round(0.5 * per_load)  # at most loads the nearest is the tuned one
    a_load = {
        "tuning, round 1": points * plan.seeds,
        "tuning, round 2": (kept + len(config.families) - tuned)
        * (plan.finalist_seeds - plan.seeds),
        "judging": arms * config.seeds,
        "controls": 2 * config.seeds * len(controls.engines),
        "more seeds (at most)": EXTRA_ROWS * config.extra_seeds * config.extra_rounds,
    }
    runs, cost_s = dict.fromkeys(a_load, 0), dict.fromkeys(a_load, 0.0)
    for name, workload in config.workloads.items():
        for stage, count in a_load.items():
            number, factor = len(config.loads), 1.0
            if stage.startswith("tuning"):
                number, factor = len(plan.loads), plan.duration_factor
            if stage == "controls":
                held = not controls.workloads or name in controls.workloads
                number = len(controls.loads) if held else 0
            runs[stage] += number * count
            cost_s[stage] += number * count * factor * workload.run_s
    cost_s["capacity"] = sum(2 * CAPACITY_RUNS * w.run_s for w in config.workloads.values())
    runs["capacity"] = 2 * len(config.workloads)
    minutes = {stage: cost / 60 / jobs for stage, cost in cost_s.items()}
    lines = [
        f"workloads ({len(config.workloads)}): " + ", ".join(config.workloads),
        f"families ({len(config.families)}): "
        + ", ".join(f"{o} {f.size}" if f.tuned else o for o, f in config.families.items()),
        f"loads: training {_listed(plan.loads)}; judging {_listed(config.loads)}",
        f"seeds: {plan.seeds} and {plan.finalist_seeds} in training, {config.seeds} in judging",
    ]
    lines += [f"{stage}: about {runs[stage]} runs, {minutes[stage]:.0f} min" for stage in runs]
    total = sum(minutes.values())
    return "\n".join(
        [*lines, f"in all about {sum(runs.values())} runs, {total / 60:.1f} h with {jobs} job(s)"]
    )


def _listed(loads: Sequence[float]) -> str:
    return ", ".join(f"{load:g}" for load in loads)


if __name__ == "__main__":
    sys.exit(main())
