"""The command `ewsjf check-fidelity`: both engines on the same drawn traces."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence

from agents.cli._command import FAILED, Parser, json_file, number, run_command, say, whole
from agents.core.files import write_json
from ewsjf_env.config import ConfigError, check_range
from ewsjf_env.engine.compiled.fidelity import FidelityCase, compare_engines
from ewsjf_env.engine.compiled.policy import check_policy
from ewsjf_env.engine.compiled.settings import check_settings
from ewsjf_env.engine.simulated.config import VIRTUAL, SimulatedConfig
from ewsjf_env.engine.simulated.latency import LatencyModel
from ewsjf_env.engine.simulated.machine import preset_names
from ewsjf_env.engine.simulated.preset import load_engine, machine_names
from ewsjf_env.env.registration import ENGINE_IDS
from ewsjf_env.policy.policy import Policy, parse_policies, split_policies
from ewsjf_env.scheduling.orders.registry import ORDERS
from ewsjf_env.workload import Trace, Workload, load_workload, trace_workload

DEFAULT_POLICIES = "fcfs,hrrn,sjf,ewsjf"
DESCRIPTION = """\
Play the same traffic in the compiled engine and through vLLM's own scheduler,
and compare first token, finish and preemptions of every request."""
EPILOG = """\
exit codes: 0 every request is equal, 1 one differs or the check failed,
            2 bad input or what the compiled engine refuses

example: ewsjf check-fidelity --trace my_log.csv.gz --policies fcfs,ewsjf \\
             --duration 300 --seeds 2 --out fidelity.json"""


def make_parser() -> Parser:
    """The command line."""
    parser = Parser("ewsjf check-fidelity", None, DESCRIPTION, EPILOG)
    add = parser.add_argument
    add("--workload", metavar="NAME", help="built-in name or a .yaml file")
    add("--trace", metavar="FILE", help="a recorded log")
    add("--rate", type=number, metavar="R", help="requests/s (the traffic's own)")
    policies = f"names, with parameters in parentheses, files, or `all` ({DEFAULT_POLICIES})"
    add("--policies", default=DEFAULT_POLICIES, metavar="LIST", help=policies)
    add("--engine", metavar="PRESET", help="or a YAML file (llama2-13b_a100-80g)")
    add("--duration", type=number, default=300.0, metavar="S", help="virtual s (300)")
    add("--seeds", type=whole, default=1, metavar="N", help="drawn traces (1)")
    add("--out", required=True, metavar="FILE.json", help="the cases")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; for exit codes see `EPILOG`, 130 is Ctrl-C."""
    words = list(sys.argv[1:] if argv is None else argv)
    return run_command(lambda: _check(make_parser().arguments(words)), "nothing is kept")


def _check(arguments: argparse.Namespace) -> int:
    check_range("--duration", arguments.duration, 0.0, low_open=True)
    check_range("--seeds", arguments.seeds, 1)
    if arguments.rate is not None:
        check_range("--rate", arguments.rate, 0.0, low_open=True)
    out = json_file("--out", arguments.out)
    config = _machine(arguments.engine)
    check_settings(config)
    policies = _policies(arguments.policies)
    workload = _workload(arguments)
    seeds = range(arguments.seeds)
    traces = [workload.draw(seed, arguments.duration, arguments.rate) for seed in seeds]
    if not any(len(trace) for trace in traces):
        raise ConfigError(f"--duration: no request arrives in {arguments.duration:g} s")
    print("preparing both engines (compiling takes a minute where it is new) ...", file=sys.stderr)
    cases = []
    for case in _cases(config, policies, traces, arguments.duration):
        cases.append(case)
        print(_line(case), flush=True)
    content = {"cases": [case.to_dict() for case in cases]}
    write_json(out, content)
    differing, requests = sum(c.differing for c in cases), sum(c.requests for c in cases)
    if differing:
        return say(FAILED, f"error: {differing} of {requests} requests differ, see {out}")
    print(f"all {requests} requests are equal in {len(cases)} cases")
    return 0


def _machine(given: str | None) -> SimulatedConfig:
    """The machine on which both engines play."""
    if given in ENGINE_IDS and given not in VIRTUAL:
        known = ", ".join([*preset_names(), *machine_names()])
        raise ConfigError(
            f"--engine: {given!r} is not simulated: the fidelity check plays the engines "
            f"{' and '.join(VIRTUAL)} on one machine; allowed: {known}, or a YAML file of a machine"
        )
    return load_engine(given, "--engine")


def _cases(
    config: SimulatedConfig, policies: list[Policy], traces: list[Trace], duration_s: float
) -> Iterator[FidelityCase]:
    latency = LatencyModel.load(config.latency)
    for seed, trace in enumerate(traces):
        for policy in policies if len(trace) else []:
            yield compare_engines(config, latency, policy, trace, duration_s, seed)


def _policies(text: str) -> list[Policy]:
    names = [",".join(ORDERS) if item == "all" else item for item in split_policies(text)]
    policies = parse_policies(",".join(names))
    for policy in policies:
        check_policy(policy)
    return policies


def _workload(arguments: argparse.Namespace) -> Workload:
    if (arguments.workload is None) == (arguments.trace is None):
        raise ConfigError("--workload, --trace: expected exactly one of them")
    if arguments.trace is not None:
        return trace_workload(arguments.trace)
    return load_workload(arguments.workload)


def _line(case: FidelityCase) -> str:
    asked = "" if case.rate_per_s is None else f"{case.rate_per_s:.3g}/s asked, "
    return (
        f"{case.workload} {asked}{case.arrived_per_s:.3g}/s arrived, seed {case.seed}, "
        f"{case.policy}: "
        f"first tokens {case.first_tokens_equal} of {case.first_tokens}, "
        f"finishes {case.finishes_equal} of {case.finishes}, "
        f"preemptions {case.preemptions} and {case.preemptions_simulated}, "
        f"{case.differing} of {case.requests} differ, {case.compiled_x_real_time:,.0f}x and "
        f"{case.simulated_x_real_time:,.0f}x real time"
    )


if __name__ == "__main__":
    sys.exit(main())
