"""What an operator may configure in `additional_config["ewsjf"]`, and on which vLLM."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Mapping
from typing import Annotated, Any

from ewsjf_env.config import (
    ConfigError,
    Instance,
    Natural,
    Range,
    from_dict,
    refuse_unknown,
    settings,
)
from ewsjf_env.measure.service import ServiceLevel
from ewsjf_env.policy.policy import Policy, default_policy
from ewsjf_env.scheduling.cost import CostPrior
from ewsjf_env.scheduling.tenants import TenantSettings
from ewsjf_env.serving import handover

OLDEST_VLLM = (0, 26)
FIRST_UNTESTED_VLLM = (0, 34)
UNTESTED = "EWSJF_UNTESTED_VLLM"
RUST_FRONT_END = "VLLM_USE_RUST_FRONTEND"
WHERE = "additional_config['ewsjf']"
logger = logging.getLogger("vllm.ewsjf")  # under vLLM's logger: its level, format and handlers
_POLICY_KEYS = ("name", "order", "parameters", "partition")
_OTHER_KEYS = ("seed", "cost_prior", "allow_patch", "window_records", "tenants", "service_levels")
POLICY_KEYS = ("policy", "policy_file", *_POLICY_KEYS)
_KEYS = (*POLICY_KEYS, *_OTHER_KEYS)


@settings
class SchedulerSettings:
    """Validated settings of the scheduler."""

    policy: Annotated[Policy, Instance()]
    """What to serve by; the default EWSJF policy when nothing is named."""
    seed: Natural = 0
    """Seed of the order `random` and of the length sample."""
    cost_prior: CostPrior | None = None
    """Prefill cost until the engine's own step times are known."""
    allow_patch: bool = False
    """Whether the policy may be changed over HTTP."""
    window_records: Annotated[int, Range(1, 1_000_000)] = 16_384
    """Finished requests that are kept for `GET /ewsjf/window`, about 400 bytes each. At
    least 4,096 are kept: policies that follow the traffic look back on them."""
    tenants: TenantSettings | None = None
    """How service is shared among tenants; null: there are none."""
    service_levels: ServiceLevel | None = None
    """What requests are promised, for orders and lanes that know it; null: nothing."""

    @classmethod
    def from_additional_config(cls, additional_config: object) -> SchedulerSettings:
        """Read the `ewsjf` entry of vLLM's `additional_config`.

        The policy is given inline (`{"order": "hrrn", "parameters": {...}}` or
        `{"policy": {...}}`) or as `{"policy_file": "policy.json"}`.  What `ewsjf serve` gives
        stands for a file with all of that, see `handover`.

        Raises:
            ConfigError: unknown key, illegal value or a policy given twice.
        """
        data = _entry(additional_config)
        others = {key: data[key] for key in _OTHER_KEYS if key in data}
        return from_dict(cls, {"policy": _policy(data, WHERE), **others}, WHERE)


def patch_is_allowed(additional_config: object) -> bool:
    """The setting `allow_patch` alone: a front end needs no policy file."""
    allowed = _entry(additional_config).get("allow_patch", SchedulerSettings.allow_patch)
    if not isinstance(allowed, bool):
        raise ConfigError(f"{WHERE}: allow_patch: expected true or false, got {allowed!r}")
    return allowed


def _entry(additional_config: object) -> Mapping[str, Any]:
    """The `ewsjf` entry; empty when there is none, ConfigError for what is not known."""
    config = additional_config if isinstance(additional_config, Mapping) else {}
    data = config.get("ewsjf", {})
    if not isinstance(data, Mapping):
        raise ConfigError(f"{WHERE}: expected a mapping, got {data!r}")
    if handover.KEY in data:
        data = handover.take_over(data, os.environ, WHERE)
        if not isinstance(data, Mapping):
            raise ConfigError(f"{handover.VARIABLE}: expected a mapping, got {data!r}")
    refuse_unknown(data, _KEYS, WHERE)
    return data


def _policy(data: Mapping[str, Any], where: str) -> Policy:
    inline = {key: data[key] for key in _POLICY_KEYS if key in data}
    given = [key for key in ("policy", "policy_file") if key in data] + (["order"] * bool(inline))
    if len(given) > 1:
        raise ConfigError(f"{where}: give one of {', '.join(given)}, not all")
    if "policy_file" in data:
        if not isinstance(data["policy_file"], str):
            raise ConfigError(f"{where}: policy_file: {data['policy_file']!r} is not a path")
        return Policy.load(data["policy_file"])
    if "policy" in data:
        return Policy.from_dict(data["policy"], f"{where}: policy")
    if inline:
        return Policy.from_dict(inline, where)
    return default_policy()


def check_vllm_version(version: str, environment: Mapping[str, str] = os.environ) -> None:
    """Raise ConfigError for a vLLM on which the scheduler has not been tested.

    Args:
        version: of vLLM; that of a build from source need not say which release it follows.
        environment: of this process; with EWSJF_UNTESTED_VLLM=1 the log is told instead.
    """
    pieces = version.split("+")[0].split(".")
    try:
        release = (int(pieces[0]), int(pieces[1]))
    except (IndexError, ValueError):
        release = (0, 0)
    if OLDEST_VLLM <= release < FIRST_UNTESTED_VLLM:
        return
    low, high = (".".join(map(str, v)) for v in (OLDEST_VLLM, FIRST_UNTESTED_VLLM))
    allowed = environment.get(UNTESTED, "0")
    if allowed not in ("", "0", "1"):
        raise ConfigError(f"{UNTESTED}: {allowed!r} is neither 0 nor 1")
    if allowed != "1":
        raise ConfigError(
            f"vllm version: {version!r} is outside the tested range [{low}, {high}); "
            f"{UNTESTED}=1 takes it all the same, for a build from source or a nightly"
        )
    _say_untested(version, low, high)


@functools.cache
def _say_untested(version: str, low: str, high: str) -> None:
    """Once a process."""
    logger.warning(
        "vLLM %s is outside the tested range [%s, %s) and taken by %s=1; untested with it: that "
        "fcfs schedules as stock vLLM step by step, aborts, preemption, step shaping, and the "
        "routes and metrics of ewsjf",
        version,
        low,
        high,
        UNTESTED,
    )


def front_end_note(environment: Mapping[str, str]) -> str | None:
    """What the operator of vLLM's Rust front end should know; None with the usual one."""
    if environment.get(RUST_FRONT_END, "0").strip() in ("", "0"):
        return None
    return (
        f"{RUST_FRONT_END}: the Rust front end serves no routes and metrics of ewsjf: the policy "
        "is in force, but cannot be seen, changed or tuned"
    )


def say_front_end(vllm_config: Any) -> None:
    """Log the note of a server that was started by hand; `ewsjf serve` has printed it."""
    note = front_end_note(os.environ)
    first = not getattr(vllm_config.parallel_config, "data_parallel_index", 0)
    if note is not None and first and handover.VARIABLE not in os.environ:
        logger.warning(note)
