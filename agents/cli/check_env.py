"""Check environments with Gymnasium's and Stable-Baselines3's checkers; print their spaces."""

import argparse
import dataclasses
import sys
from collections.abc import Sequence

import gymnasium
from gymnasium.utils.env_checker import check_env as check_gymnasium
from stable_baselines3.common.env_checker import check_env as check_sb3

from ewsjf_env.config import ConfigError, to_dict
from ewsjf_env.engine.base import EngineError
from ewsjf_env.env.env import SchedulerTuningEnv
from ewsjf_env.env.registration import ENGINE_IDS, EPISODE_WINDOWS, REAL_TIME
from ewsjf_env.env.task import TuningConfig, load_tuning


def main(argv: Sequence[str] | None = None) -> int:
    """Check the environment of each engine, or of a configuration; 0 when all is well."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", metavar="FILE.yaml", help="check this one, see configs/env")
    arguments = parser.parse_args(argv)
    try:
        if arguments.config is None:
            for engine in ENGINE_IDS:
                if engine not in REAL_TIME:  # those need a --config, and a machine
                    check(load_tuning({"engine": engine}))
        else:
            check(load_tuning(arguments.config))
    except (ConfigError, EngineError) as error:
        print(f"check_env.py: {error}", file=sys.stderr)
        return 2
    except AssertionError as error:
        print(f"check_env.py: check failed: {error}", file=sys.stderr)
        return 1
    return 0


def check(config: TuningConfig) -> None:
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
