"""The command `ewsjf gpu-run`: one measurement of a machine with a GPU."""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from agents.cli._command import FAILED, Parser, made_folder, number, run_command, whole
from agents.core.provenance import git_state
from agents.experiments.source import Source
from agents.machine import stages
from agents.machine.plan import RESULT, SIMULATED, STAGES, GpuPlan, Measurement
from agents.machine.server import make_launch, running
from agents.machine.table import table
from ewsjf_env.config import ConfigError, closest
from ewsjf_env.engine.base import EngineError
from ewsjf_env.engine.simulated.latency import LatencyModel
from ewsjf_env.engine.stand_in.settings import ExecutorSettings
from ewsjf_env.policy.policy import parse_policies

USAGE = "ewsjf gpu-run --out DIR [options] [-- any vllm serve argument]"
DESCRIPTION = """\
Measure a machine: step times and a latency model fitted to them, FCFS and EWSJF
on two traffics at three loads, the compiled engine's prediction of the same
requests, policy changes under load, and a tuner on the running server.
The model has random weights; nothing is downloaded."""
EPILOG = f"""\
DIR/{RESULT} is written after every piece of work.  A stage that fails says
why and the others go on; the same command does what is missing.
exit codes: 0 all done, 1 a stage failed, 2 bad input, 130 interrupted"""
SHORT = {"duration_s": 6.0, "swap_s": 5.0, "windows": 2, "window_s": 4.0, "ramp_s": 5.0}


def make_parser() -> Parser:
    """The command line."""
    parser = Parser("ewsjf gpu-run", USAGE, DESCRIPTION, EPILOG)
    add = parser.add_argument
    add("--out", required=True, metavar="DIR", help="folder of the measurement")
    add(
        "--like", default="llama3-8b_h100", metavar="PRESET", help="model, and where the fit starts"
    )
    add("--simulate", action="store_true", help="no device: steps take the time of --like")
    add("--speed", type=number, default=1.0, metavar="X", help="with --simulate (1)")
    add("--workload", action="append", metavar="NAME", help="traffic (paper_mix and mixed)")
    add("--trace", action="append", metavar="FILE", help="recorded traffic, instead or besides")
    add("--policies", metavar="LIST", help="as in ewsjf evaluate (fcfs,ewsjf)")
    add("--loads", metavar="LIST", help="fractions of FCFS capacity (0.7,0.95,1.3)")
    add("--duration", type=number, metavar="S", help="of a serving run (30)")
    add("--windows", type=whole, metavar="N", help="of the tuner (6)")
    add("--ramps", type=whole, metavar="N", help="of traffic whose steps are fitted, 30 s each (2)")
    add("--log-serving", action="store_true", help="one server for all, its steps are noted")
    add("--port", type=whole, default=8177, metavar="N", help="on loopback (8177)")
    add("--stages", metavar="LIST", help=f"only these of {','.join(STAGES)}")
    add("--short", action="store_true", help="seconds everywhere, to see that it works")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; for exit codes see `EPILOG`."""
    words = list(sys.argv[1:] if argv is None else argv)
    place = words.index("--") if "--" in words else len(words)
    return run_command(
        lambda: _measure(make_parser().arguments(words[:place]), tuple(words[place + 1 :])),
        "the same command goes on from what is done",
    )


def _measure(arguments: argparse.Namespace, vllm_arguments: tuple[str, ...]) -> int:
    plan = _plan(arguments, vllm_arguments)
    chosen = arguments.stages.split(",") if arguments.stages else list(STAGES)
    for name in chosen:
        if name not in STAGES:
            hint = closest(name, STAGES)
            raise ConfigError(f"--stages: {name!r} is not one of {list(STAGES)}{hint}")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    device = SIMULATED if plan.simulate is not None else _device()
    result = Measurement(made_folder("--out", arguments.out), plan, device)

    def attempt(name: str, work: Callable[[Measurement], None]) -> None:
        if name in chosen and not result.done(name):
            _attempt(result, name, work)

    attempt("machine", _describe)
    online: dict[str, Callable[[Measurement], None]] = {}
    if plan.log_serving:
        online = {"steps": stages.calibrate, "capacity": stages.measure_capacity}
    else:
        attempt("steps", stages.measure_steps)
        attempt("capacity", stages.measure_capacity)
    online |= {"serving": stages.serve, "hot_swap": stages.hot_swap}
    if plan.windows:
        online["tuning"] = stages.tune
    waiting = [name for name in online if name in chosen and not result.done(name)]
    if waiting:
        _attempt(result, "server", lambda r: _with_server(r, waiting, online))
    attempt("prediction", stages.predict)
    print(table(result.data))
    print(result.folder / RESULT)
    wanted = [name for name in chosen if name != "tuning" or plan.windows]
    return 0 if all(map(result.done, wanted)) else FAILED


def _with_server(
    result: Measurement, names: Sequence[str], work: dict[str, Callable[[Measurement], None]]
) -> None:
    """One server for the stages that need the scheduler as it is shipped; a new one if it dies."""
    left = list(names)
    tries = 0
    while left:
        tries += 1
        if tries > len(names) + 1:
            raise EngineError(f"the server went down {tries - 1} times; not done: {left}")
        number = 1 + len(list(result.folder.glob("server_[0-9]*.log")))  # earlier starts' are kept
        log = result.folder / f"server_{number}.log"
        if result.plan.log_serving:
            result.step_log = f"steps_{number}.jsonl"
        launch = make_launch(result)
        with running(launch, result.plan.url, log) as start_s:
            result.note("server", start_s=start_s)
            while left and stages.is_up(result):
                _attempt(result, left[0], work[left.pop(0)])


def _attempt(result: Measurement, name: str, work: Callable[[Measurement], None]) -> None:
    """Do a stage; what it raises is its result."""
    print(f"[{name}] ...", file=sys.stderr, flush=True)
    begun_s = time.monotonic()
    outcome: dict[str, Any] = {"ok": True, "error": None}
    try:
        work(result)
    except Exception as error:  # a machine may be had once: whatever fails, the rest is measured
        reason = " ".join(str(error).split()) or type(error).__name__
        outcome = {"ok": False, "error": f"{type(error).__name__}: {reason}"[:1000]}
    seconds = time.monotonic() - begun_s
    result.note(name, **outcome, took_s=seconds)
    state = "done" if outcome["ok"] else f"FAILED: {outcome['error']}"
    print(f"[{name}] {state} ({seconds:.0f} s)", file=sys.stderr, flush=True)


def _plan(arguments: argparse.Namespace, vllm_arguments: tuple[str, ...]) -> GpuPlan:
    LatencyModel.load(arguments.like, "--like")
    fields: dict[str, Any] = dict(SHORT) if arguments.short else {}
    for name, field in (
        ("duration", "duration_s"),
        ("windows", "windows"),
        ("ramps", "ramps"),
    ):
        if getattr(arguments, name) is not None:
            fields[field] = getattr(arguments, name)
    if arguments.loads is not None:
        try:
            fields["loads"] = tuple(float(load) for load in arguments.loads.split(","))
        except ValueError:
            raise ConfigError(f"--loads: {arguments.loads!r} is no list of numbers") from None
    if arguments.policies is not None:
        fields["policies"] = tuple(p.name for p in parse_policies(arguments.policies, "--policies"))
    sources = [Source(path, is_trace=True) for path in arguments.trace or ()]
    sources += [Source(name) for name in arguments.workload or ()]
    if sources:
        fields["sources"] = tuple(sources)
    for source in sources:
        source.load()  # whatever is wrong with it is told before a server is started
    if arguments.simulate:
        fields["simulate"] = ExecutorSettings(arguments.like, arguments.speed)
    return GpuPlan(
        like=arguments.like,
        port=arguments.port,
        log_serving=arguments.log_serving,
        vllm_arguments=vllm_arguments,
        **fields,
    )


def _device() -> str:
    """The name of the first device; ConfigError where there is none."""
    found = _nvidia("name")
    if not found:
        raise ConfigError("no NVIDIA GPU answers here (nvidia-smi); --simulate runs without one")
    return found


def _describe(result: Measurement) -> None:
    """Stage `machine`."""
    packages = {}
    for name in ("vllm", "torch", "numpy", "gymnasium", "transformers"):
        with contextlib.suppress(PackageNotFoundError):
            packages[name] = version(name)
    found: dict[str, Any] = {
        "python": platform.python_version(),
        "packages": packages,
        "git": git_state(),
        "cores": os.cpu_count(),
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    if not result.simulated:
        found["driver"] = _nvidia("driver_version")
        found["memory"] = _nvidia("memory.total")
    result.note("machine", **found)


def _nvidia(field: str) -> str:
    command = ["nvidia-smi", f"--query-gpu={field}", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        return ""
    return (done.stdout.splitlines() or [""])[0].strip()


if __name__ == "__main__":
    sys.exit(main())
