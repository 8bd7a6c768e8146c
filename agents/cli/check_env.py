"""The command `ewsjf check-env`: environments under the checkers of Gymnasium and SB3."""

import dataclasses
import sys
from collections.abc import Sequence

import gymnasium
from gymnasium.utils.env_checker import check_env as check_gymnasium
from stable_baselines3.common.env_checker import check_env as check_sb3

from agents.cli._command import FAILED, Parser, add_set_option, run_command, say, sets_of
from ewsjf_env.config import to_dict
from ewsjf_env.env.env import SchedulerTuningEnv
from ewsjf_env.env.registration import ENGINE_IDS, EPISODE_WINDOWS, REAL_TIME
from ewsjf_env.env.task import Task, load_tuning

DESCRIPTION = """\
Check environments with Gymnasium's and Stable-Baselines3's checkers, and print
their spaces."""


def main(argv: Sequence[str] | None = None) -> int:
    """Check the environment of each engine, or of a configuration; 0 when all is well."""
    words = list(sys.argv[1:] if argv is None else argv)
    return run_command(lambda: _check(words), "the check was not finished")


def make_parser() -> Parser:
    """The command line."""
    parser = Parser("ewsjf check-env", None, DESCRIPTION)
    add = parser.add_argument
    add("--config", metavar="TASK", help="check this one: a YAML file, or a name in configs/env")
    add_set_option(parser, "the task (repeatable)")
    return parser


def _check(words: list[str]) -> int:
    arguments = make_parser().arguments(words)
    engines = [engine for engine in ENGINE_IDS if engine not in REAL_TIME]  # those need a machine
    try:
        if arguments.config is None:
            for engine in engines:
                check(load_tuning({"engine": engine}, where="--config", sets=sets_of(arguments)))
        else:
            check(load_tuning(arguments.config, where="--config", sets=sets_of(arguments)))
    except AssertionError as error:
        return say(FAILED, f"check failed: {error}")
    return 0


def check(config: Task) -> None:
    """Run both checkers on one task and print what it offers."""
    env_id = ENGINE_IDS[config.engine]
    # The checkers look at the interface, not at what is measured: short windows do.  But
    # Stable-Baselines3's steps on after the end of an episode, so that must not be short.
    config = dataclasses.replace(
        config,
        windows=max(config.windows, EPISODE_WINDOWS),
        window_s=min(config.window_s, 10.0),
        settle_s=min(config.settle_s, 2.0),
        warmup_s=min(config.warmup_s, 5.0),
    )
    env = gymnasium.make(f"ewsjf_env:{env_id}", config=to_dict(config))
    base = env.unwrapped
    assert isinstance(base, SchedulerTuningEnv), f"{env_id}: not a SchedulerTuningEnv"
    print(f"{env_id}\n  action       {env.action_space}")
    for parameter in base.parameter_space.parameters:
        print(f"    {parameter.name:<16} {parameter.allowed:<28} {parameter.description}")
    print(f"  observation  {env.observation_space}\n    {' '.join(base.feature_names)}")
    check_gymnasium(base)
    check_sb3(env)
    env.close()
    print("  checked by gymnasium and stable_baselines3: well")


if __name__ == "__main__":
    sys.exit(main())
