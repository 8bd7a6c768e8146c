"""The command `ewsjf train`: a tuning run, begun or resumed."""

from __future__ import annotations

import argparse
import dataclasses
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agents.bayes.config import StudyConfig
from agents.bayes.fleet import open_shared
from agents.cli._command import (
    Parser,
    add_set_option,
    folder,
    number,
    own_command,
    run_command,
    say,
    sets_of,
    split_sets,
    tool_command,
    whole,
)
from agents.cli._start import INTERRUPTED
from agents.core.progress import meter
from agents.core.registry import absolute_name, agent_names, find_agent
from agents.core.words import counted
from agents.runs.config import RunConfig, make_run_config
from agents.runs.episodes import episode_options
from agents.runs.fidelity import needs_check, told
from agents.runs.folder import RunDir, check_new, default_folder
from agents.runs.loop import Progress, tune
from ewsjf_env.config import ConfigError, check_range, load_yaml, nearest
from ewsjf_env.engine.real.remote import RemoteConfig, check_server
from ewsjf_env.engine.simulated.config import VIRTUAL
from ewsjf_env.engine.simulated.machine import preset_names
from ewsjf_env.engine.simulated.preset import preset_engine
from ewsjf_env.env.registration import ENGINE_IDS
from ewsjf_env.env.task import Task, load_tuning
from ewsjf_env.parameters import ParameterSpace
from ewsjf_env.shipped import find_config
from ewsjf_env.workload import load_workload

if TYPE_CHECKING:
    from tqdm import tqdm

USAGE = "ewsjf train (--agent NAME | --resume RUN) [options]"
DESCRIPTION = "Tune the scheduler window by window; a killed or interrupted run can be resumed."
WINDOWS = 60
REMOTE_AGENT = "bayes"  # where none is named


def make_parser() -> Parser:
    """The command line."""
    lines = [f"  {name:<16} {find_agent(name).summary}" for name in agent_names()]
    parser = Parser("ewsjf train", USAGE, DESCRIPTION, "agents:\n" + "\n".join(lines))
    add = parser.add_argument
    add("--agent", metavar="NAME", help="see below, or module:Class of your own")
    add("--config", metavar="TASK", help="YAML file, or a name in configs/env (tuning)")
    add("--agent-config", metavar="FILE", help="settings, or a name in configs/agents")
    add("--engine", metavar="NAME", help=" | ".join(ENGINE_IDS) + ", or a preset")
    add_set_option(parser, "the task, or agent.A.B=3 (repeatable)")
    about_url = "of the server, with --engine remote; again for replicas"
    add("--url", action="append", metavar="URL", help=about_url)
    add("--storage", metavar="S", help="study shared with other runs: journal file or URL")
    add("--seed", type=whole, metavar="N", help="of traffic and proposals (0)")
    add("--windows", type=whole, metavar="N", help=f"windows in all ({WINDOWS})")
    add("--context", metavar="LIST", help="features agents see, see config.yaml of a run")
    add("--out", metavar="DIR", help="folder of the run (runs/ENV/AGENT/WORKLOAD/SEED__TIME)")
    add("--resume", metavar="RUN", help="continue this run, to --windows if given")
    about_fidelity = "s of traffic to check on vLLM's scheduler (60; 0: none)"
    add("--fidelity", type=number, default=60.0, metavar="S", help=about_fidelity)
    add("--dry-run", action="store_true", help="print the parameters and run nothing")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; exit code 0, 1 when the run failed, 2 for bad input, 130 for Ctrl-C."""
    words = list(sys.argv[1:] if argv is None else argv)
    return run_command(lambda: _train(words), "no run was begun")


def _train(words: list[str]) -> int:
    arguments = make_parser().arguments(words)
    check_range("--fidelity", arguments.fidelity, 0.0)
    # Small models: threads cost more than they give, and two runs side by side fight for cores.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if arguments.dry_run:
        planned = _planned(arguments)
        _check_traffic(planned)
        if arguments.out is not None:
            check_new(folder("--out", arguments.out))
        print(_describe(planned))
        return 0
    if arguments.resume is not None:
        run, windows = _resumed(arguments)
    else:
        config = _config(arguments)
        _check_traffic(config)
        if config.storage:  # before there is a folder
            open_shared(config.storage, config.shared_name, config.shared_marks)
        new = default_folder(config)
        path = new if arguments.out is None else folder("--out", arguments.out)
        run, windows = RunDir.create(path, config), config.windows
    # A tuner that is asked to end leaves a server as one that is interrupted does.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    bar = _Bar(windows, arguments.fidelity if needs_check(run.config.task) else 0.0)

    def begin(done: int) -> None:
        if arguments.resume is not None and done < windows:
            _check_traffic(run.config)
        run.note_command()
        print(f"run: {run.path}", file=sys.stderr)
        bar.begin(done)

    try:
        with bar:
            summary = tune(run, windows, bar.show, bar.conclude, begin, arguments.fidelity)
        _print_summary(summary, run)
    except KeyboardInterrupt:
        return say(INTERRUPTED, f"interrupted: {_rest(run, windows, bar.full)}")
    finally:
        signal.signal(signal.SIGTERM, before)
        run.close()
    return 0


def _rest(run: RunDir, windows: int, done: bool) -> str:
    """What is left to do after Ctrl-C."""
    more = () if windows == run.config.windows else ("--windows", str(windows))
    resume = own_command("train", "--resume", str(run.path), *more)
    if done:
        return f"all {counted(windows, 'window')} are done; the result: {resume}"
    return f"continue with: {resume}"


def _check_traffic(config: RunConfig) -> None:
    """ConfigError for what cannot be had, before there is a folder that is in the way."""
    if isinstance(config.env.engine_settings, RemoteConfig):
        check_server(config.env.engine_settings)
    config.env.check_model()
    workload = load_workload(config.env.workload)
    seed = episode_options(config.env, config.seed, 0)["trace_seed"]
    for rate in config.env.rates_per_s or (None,):
        workload.draw(seed, config.env.traffic_s, rate)


def _config(arguments: argparse.Namespace) -> RunConfig:
    if arguments.url is not None and arguments.engine != "remote":
        raise ConfigError(f"--url: {arguments.url[0]!r} needs --engine remote")
    if arguments.agent is None and arguments.engine != "remote":
        raise ConfigError("--agent: missing; see --help for the list, or --resume a run")
    fields: dict[str, Any] = {}
    for name, least in (("seed", 0), ("windows", 1)):
        value = getattr(arguments, name)
        if value is not None:
            check_range(f"--{name}", value, least)
            fields[name] = value
    if arguments.context is not None:
        fields["context"] = tuple(n.strip() for n in arguments.context.split(",") if n.strip())
    agent = REMOTE_AGENT if arguments.agent is None else arguments.agent
    find_agent(absolute_name(agent), "--agent")
    if arguments.agent_config is not None:
        find_config(arguments.agent_config, "agents", "--agent-config")
    sets, own = split_sets(arguments)
    task = _task(arguments, sets)
    fields = {"windows": WINDOWS, **fields}
    config = make_run_config(agent, task, arguments.agent_config, own, **fields)
    if config.env.engine == "remote" and not _names_server(arguments):
        raise ConfigError(
            "--url: missing, and no remote.url is in --config: which server is tuned?"
        )
    return config if arguments.storage is None else _sharing(config, arguments.storage)


def _task(arguments: argparse.Namespace, sets: list[str]) -> Task:
    """The task of --config, --engine, --url and --set."""
    task = {**_task_file(arguments), **_engine(arguments)}
    if arguments.url is not None:
        for url in arguments.url:
            try:
                RemoteConfig(url=url)
            except ConfigError as error:
                raise ConfigError(f"--{error}") from None
        remote = task.get("remote", {})
        if isinstance(remote, dict):  # else it is refused when it is read
            remote = {k: v for k, v in remote.items() if k not in ("url", "urls")}
            task["remote"] = {**remote, **_addresses(arguments.url)}
    return load_tuning(task, where=arguments.config or "--config", sets=sets)


def _task_file(arguments: argparse.Namespace) -> dict[str, Any]:
    """What --config says, as it stands there."""
    if arguments.config is None:
        return {}
    return load_yaml(find_config(arguments.config, "env", "--config"))


def _engine(arguments: argparse.Namespace) -> dict[str, Any]:
    """What --engine changes of a task: a preset is that machine, in virtual time."""
    if arguments.engine is None or arguments.engine in ENGINE_IDS:
        return {} if arguments.engine is None else {"engine": arguments.engine}
    names = [*ENGINE_IDS, *preset_names()]
    if arguments.engine not in names:
        hint = nearest(arguments.engine, names)
        raise ConfigError(f"--engine: {arguments.engine!r} is neither an engine nor a preset{hint}")
    preset, task = preset_engine(arguments.engine), _task_file(arguments)
    own, engine = task.get("simulated", {}), task.get("engine")
    changes = {"latency": preset.latency, "max_num_seqs": preset.max_num_seqs}
    changes["max_num_batched_tokens"] = preset.max_num_batched_tokens
    return {
        "engine": engine if engine in VIRTUAL else preset.engine,
        "simulated": {**own, **changes} if isinstance(own, dict) else own,
    }


def _names_server(arguments: argparse.Namespace) -> bool:
    """Whoever forgets the address must not change a stranger's server at the default one."""
    remote = _task_file(arguments).get("remote")
    named = isinstance(remote, dict) and bool({"url", "urls"} & set(remote))
    given = sets_of(arguments)
    named = named or any(text.startswith(("remote.url=", "remote.urls=")) for text in given)
    return named or arguments.url is not None


def _sharing(config: RunConfig, storage: str) -> RunConfig:
    """The run with its study in a storage."""
    if not storage:
        raise ConfigError("--storage: the name is empty, expected a journal file or a URL")
    if not isinstance(config.settings, StudyConfig):
        raise ConfigError(f"--storage: agent {config.agent!r} is not on a study")
    if "://" not in storage:
        storage = str(Path(storage).absolute())  # a run may be resumed from elsewhere
    return dataclasses.replace(
        config, settings=dataclasses.replace(config.settings, storage=storage)
    )


def _addresses(urls: list[str]) -> dict[str, Any]:
    return {"url": urls[0]} if len(urls) == 1 else {"urls": urls}


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
    kept = (
        "agent",
        "config",
        "agent_config",
        "set",
        "engine",
        "url",
        "storage",
        "seed",
        "context",
        "out",
    )
    for name in kept:
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
            f"agent {config.agent}, seed {config.seed}, {counted(config.windows, 'window')} of "
            f"{task.window_s:g} s after {task.settle_s:g} s",
            f"traffic {task.workload}, engine {task.engine_name}, policy {task.policy}, "
            f"reference {task.reference}",
            f"context: {', '.join(config.context) or 'none'}",
            f"space {space.content_hash}, {counted(len(space), 'parameter')}",
            *table,
        ]
    )


class _Bar:
    """A progress bar with the incumbent, the windows that violated a constraint, and the ETA."""

    def __init__(self, windows: int, fidelity_s: float) -> None:
        self._windows = windows
        self._fidelity_s = fidelity_s
        self._bar: tqdm[Any] | None = None

    @property
    def full(self) -> bool:
        """All windows are done."""
        return self._bar is not None and self._bar.n >= self._windows

    def begin(self, done: int) -> None:
        self._bar = meter(total=self._windows, initial=done, unit="window", mininterval=0.5)

    def show(self, progress: Progress) -> None:
        assert self._bar is not None  # `tune` begins before it reports
        values = " ".join(f"{k}={_short(v)}" for k, v in list(progress.incumbent.items())[:3])
        self._bar.set_postfix_str(
            f"J={progress.reward:+.3f} violations={progress.violations} best: {values}",
            refresh=False,
        )
        self._bar.update(1)

    def conclude(self, _: object) -> None:
        """Say what comes after the last window."""
        if self._bar is not None and self._fidelity_s > 0.0:
            self._bar.close()
            print(f"playing {self._fidelity_s:g} s on vLLM's own scheduler ...", file=sys.stderr)

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()


def _short(value: Any) -> str:
    return value if isinstance(value, str) else f"{value:.3g}"


def _print_summary(summary: dict[str, Any], run: RunDir) -> None:
    values = ", ".join(f"{k}={_short(v)}" for k, v in summary["recommendation"].items())
    windows = counted(summary["windows"], "window")
    print(f"{windows}, {summary['violations']} with a violation", end="")
    print(f", {summary['void']} void, {summary['failed']} failed")
    print(f"recommended: {values}")
    if summary["fidelity"] is not None:
        print(told(summary["fidelity"]))
    if summary["killed"]:
        print(f"ended by the kill switch: {summary['killed']}")
    print(run.path)
    print(own_command("export", str(run.path), "--out", "policy.json"))
    print(tool_command("tensorboard", "--logdir", str(run.path)))


if __name__ == "__main__":
    sys.exit(main())
