"""The launch of a server from a command's options: stock vLLM, under a policy, or simulated."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence

from ewsjf_env.config import ConfigError
from ewsjf_env.engine.simulated.latency import LatencyModel
from ewsjf_env.engine.stand_in.server import (
    simulated_arguments,
    simulated_cost_prior,
    simulated_launch,
)
from ewsjf_env.engine.stand_in.settings import ExecutorSettings
from ewsjf_env.policy.policy import parse_policy
from ewsjf_env.serving.launch import Launch, ewsjf_launch, option_value, stock_launch


def make_launch(
    arguments: argparse.Namespace, vllm_arguments: Sequence[str], environment: Mapping[str, str]
) -> Launch:
    """What to start; ConfigError for anything that is wrong with the arguments."""
    if arguments.tune is not None and arguments.policy is None:
        raise ConfigError("--tune: needs --policy to start from")
    if arguments.model_folder == "":
        raise ConfigError("--model-folder: '': expected a folder")
    prior = None
    if arguments.simulate is not None:
        LatencyModel.load(arguments.simulate, "--simulate")
        try:
            settings = ExecutorSettings(latency=arguments.simulate, speed=arguments.speed)
        except ConfigError as error:  # of the speed
            raise ConfigError(f"--{error}") from None
        vllm_arguments = simulated_arguments(vllm_arguments, settings, arguments.model_folder)
        prior = simulated_cost_prior(vllm_arguments, settings)
    elif not vllm_arguments or vllm_arguments[0].startswith("-"):
        raise ConfigError("MODEL: is missing; it comes first after --")
    if arguments.policy is not None:
        policy = parse_policy(arguments.policy, "--policy")
        allow_patch = arguments.allow_patch or arguments.tune is not None
        launch = ewsjf_launch(vllm_arguments, policy, environment, allow_patch, prior)
    elif arguments.allow_patch:
        raise ConfigError("--allow-patch: needs --policy; stock vLLM has none to change")
    else:
        launch = stock_launch(vllm_arguments)
    return simulated_launch(launch, environment) if arguments.simulate is not None else launch


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


def split(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Our options, and what comes after the first `--`."""
    if "--" not in arguments:
        return arguments, []
    place = arguments.index("--")
    return arguments[:place], arguments[place + 1 :]


def url(vllm_arguments: Sequence[str]) -> str:
    """Where the server will answer on this machine."""
    host = option_value(vllm_arguments, "--host") or "127.0.0.1"
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    host = f"[{host}]" if ":" in host and not host.startswith("[") else host
    return f"http://{host}:{option_value(vllm_arguments, '--port') or 8000}"
