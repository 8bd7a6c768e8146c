"""What may an operator configure in `additional_config["ewsjf"]`, and on which vLLM?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ewsjf_env.config import ConfigError, from_dict, refuse_unknown
from ewsjf_env.policy import Policy, default_policy
from ewsjf_env.scheduling.cost import CostPrior

OLDEST_VLLM = (0, 26)
FIRST_UNTESTED_VLLM = (0, 34)
_POLICY_KEYS = ("name", "order", "parameters", "partition")
_KEYS = (*_POLICY_KEYS, "policy", "policy_file", "seed", "cost_prior")


@dataclass(frozen=True)
class SchedulerSettings:
    """Validated settings of the scheduler.

    Attributes:
        policy: what to serve by; the default EWSJF policy when nothing is named.
        seed: for the order `random` and the length sample, >= 0.
        cost_prior: prefill cost until the engine's own step times are known.
    """

    policy: Policy
    seed: int = 0
    cost_prior: CostPrior | None = None

    @classmethod
    def from_additional_config(cls, additional_config: object) -> SchedulerSettings:
        """Read the `ewsjf` entry of vLLM's `additional_config`.

        The policy is given inline (`{"order": "hrrn", "parameters": {...}}` or
        `{"policy": {...}}`) or as `{"policy_file": "policy.json"}`.

        Raises:
            ConfigError: unknown key, illegal value or a policy given twice.
        """
        config = additional_config if isinstance(additional_config, Mapping) else {}
        data = config.get("ewsjf", {})
        where = "additional_config['ewsjf']"
        if not isinstance(data, Mapping):
            raise ConfigError(f"{where}: expected a mapping, got {data!r}")
        refuse_unknown(data, _KEYS, where)
        seed = data.get("seed", 0)
        if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
            raise ConfigError(f"{where}: seed: {seed!r} is not a whole number >= 0")
        prior = data.get("cost_prior")
        return cls(
            policy=_policy(data, where),
            seed=seed,
            cost_prior=None
            if prior is None
            else from_dict(CostPrior, prior, f"{where}: cost_prior"),
        )


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


def check_vllm_version(version: str) -> None:
    """Raise ConfigError for a vLLM on which the scheduler has not been tested."""
    pieces = version.split("+")[0].split(".")
    try:
        release = (int(pieces[0]), int(pieces[1]))
    except (IndexError, ValueError):
        release = (0, 0)
    if not OLDEST_VLLM <= release < FIRST_UNTESTED_VLLM:
        low, high = (".".join(map(str, v)) for v in (OLDEST_VLLM, FIRST_UNTESTED_VLLM))
        raise ConfigError(f"vllm version: {version!r} is outside the tested range [{low}, {high})")
