"""serve.py: start the real `vllm serve` under a policy, and perhaps a tuner beside it.

    serve.py --policy policy.json -- MODEL [any vllm serve argument]

Without --policy this is stock vLLM.  Nothing of the policy is left to be found wrong after the
start: a file that is missing, half written or of another schema ends this with one line and
exit code 2 before vLLM is even imported.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from agents.supervise import supervise
from ewsjf_env.config import ConfigError, load_yaml
from ewsjf_env.engine.executor_settings import ExecutorSettings
from ewsjf_env.engine.simulated_server import (
    simulated_arguments,
    simulated_cost_prior,
    simulated_launch,
)
from ewsjf_env.policy import parse_policy
from ewsjf_env.serving.launch import Launch, ewsjf_launch, option_value, stock_launch

TRAIN_SCRIPT = Path(__file__).parents[1] / "scripts" / "train.py"


def main(argv: Sequence[str] | None = None) -> int:
    """Replace this process by `vllm serve`; 2 for bad input.

    With --tune this process stays, and its exit code is that of the server.
    """
    given = list(sys.argv[1:] if argv is None else argv)
    options, vllm_arguments = split(given)
    arguments = _parser().parse_args(options)
    try:
        launch = make_launch(arguments, vllm_arguments, os.environ)
        tuner = _tuner(arguments, vllm_arguments)
    except ConfigError as error:
        print(f"serve.py: {error}", file=sys.stderr)
        return 2
    for note in launch.notes:
        print(f"serve.py: {note}", file=sys.stderr)
    if arguments.dry_run:
        changes = [f"{name}={value}" for name, value in launch.environment.items()]
        print(shlex.join([*changes, *launch.command]))
        return 0
    environment = {**os.environ, **launch.environment}
    if tuner is not None:
        try:
            return supervise(launch.command, environment, tuner, url(vllm_arguments))
        except ConfigError as error:
            print(f"serve.py: {error}", file=sys.stderr)
            return 2
    sys.stdout.flush()
    os.execve(launch.command[0], launch.command, environment)


def make_launch(
    arguments: argparse.Namespace, vllm_arguments: Sequence[str], environment: Mapping[str, str]
) -> Launch:
    """What to start; ConfigError for anything that is wrong with the arguments."""
    if arguments.tune and not arguments.policy:
        raise ConfigError("--tune: needs --policy to start from")
    prior = None
    if arguments.simulate:
        settings = ExecutorSettings(latency=arguments.simulate, speed=arguments.speed)
        vllm_arguments = simulated_arguments(vllm_arguments, settings, arguments.model_folder)
        prior = simulated_cost_prior(vllm_arguments, settings)
    elif not vllm_arguments or vllm_arguments[0].startswith("-"):
        raise ConfigError("MODEL: is missing; it comes first after --")
    if arguments.policy:
        policy = parse_policy(arguments.policy)
        allow_patch = arguments.allow_patch or arguments.tune is not None
        launch = ewsjf_launch(vllm_arguments, policy, environment, allow_patch, prior)
    elif arguments.allow_patch:
        raise ConfigError("--allow-patch: needs --policy; stock vLLM has none to change")
    else:
        launch = stock_launch(vllm_arguments)
    return simulated_launch(launch, environment) if arguments.simulate else launch


def launch_options() -> argparse.ArgumentParser:
    """The options that decide what is started."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument(
        "--policy", metavar="POLICY", help="policy file (.json), or NAME or NAME(parameter=value)"
    )
    parser.add_argument(
        "--allow-patch", action="store_true", help="let PATCH /ewsjf/policy change it"
    )
    parser.add_argument(
        "--simulate", metavar="PRESET", help="no GPU: steps take the time of this latency model"
    )
    parser.add_argument(
        "--speed", type=float, default=1.0, help="of the simulated machine (default: 1)"
    )
    parser.add_argument(
        "--model-folder", metavar="DIR", help="make the simulated model here (default: a cache)"
    )
    return parser


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="serve.py",
        usage="%(prog)s [options] -- MODEL [any vllm serve argument]",
        description="Start `vllm serve` under a scheduling policy; without --policy, as it is.",
        parents=[launch_options()],
        allow_abbrev=False,
    )
    parser.add_argument(
        "--tune", metavar="CONFIG", help="also start a tuner of this configuration; allows PATCH"
    )
    parser.add_argument("--dry-run", action="store_true", help="print the command and stop")
    return parser


def split(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Our options, and what comes after the first `--`."""
    if "--" not in arguments:
        return arguments, []
    place = arguments.index("--")
    return arguments[:place], arguments[place + 1 :]


def _tuner(arguments: argparse.Namespace, vllm_arguments: Sequence[str]) -> list[str] | None:
    if arguments.tune is None:
        return None
    for path in (TRAIN_SCRIPT, Path(arguments.tune)):
        if not path.is_file():
            raise ConfigError(f"--tune: {path} is not a file")
    load_yaml(arguments.tune)  # a typing error is told before a model is loaded
    command = [sys.executable, str(TRAIN_SCRIPT), "--engine", "remote"]
    command += ["--url", url(vllm_arguments)]
    return [*command, "--config", arguments.tune]


def url(vllm_arguments: Sequence[str]) -> str:
    """Where the server will answer on this machine."""
    host = option_value(vllm_arguments, "--host") or "127.0.0.1"
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    host = f"[{host}]" if ":" in host and not host.startswith("[") else host
    return f"http://{host}:{option_value(vllm_arguments, '--port') or 8000}"
