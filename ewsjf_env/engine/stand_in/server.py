"""Options and environment that make `vllm serve` run on the simulated executor."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from ewsjf_env.config import ConfigError, to_dict
from ewsjf_env.engine.simulated.latency import LatencyModel
from ewsjf_env.engine.simulated.preset import vllm_budget
from ewsjf_env.engine.stand_in.model_folder import model_folder
from ewsjf_env.engine.stand_in.plugin import SWITCH
from ewsjf_env.engine.stand_in.settings import KEY, ExecutorSettings
from ewsjf_env.scheduling.cost import CostPrior
from ewsjf_env.serving.launch import Launch, option_value, plugin_names, with_config

PLUGIN = "ewsjf_simulated"
EXECUTOR_CLASS = "ewsjf_env.engine.stand_in.executor.SimulatedExecutor"
# As `SimulatedConfig`, so that the virtual-time engine answers for the same machine.
BUDGET = "--max-num-batched-tokens"
_DEFAULTS = {
    "--max-model-len": "16384",
    "--block-size": "16",
    "--gpu-memory-utilization": "0.9",
}
_PREFIX_CACHING = ("--enable-prefix-caching", "--no-enable-prefix-caching")


def simulated_arguments(
    vllm_arguments: Sequence[str],
    settings: ExecutorSettings,
    folder: str | Path | None = None,
) -> list[str]:
    """Arguments of `vllm serve` for the simulated executor.

    Args:
        vllm_arguments: options, after a MODEL or without one; they win over our defaults.
        settings: of the executor.
        folder: where the model folder is made if no MODEL is given; None is the user's cache.

    Raises:
        ConfigError: unknown preset, or a contradicting `--additional-config`.
    """
    arguments = list(vllm_arguments)
    if not arguments or arguments[0].startswith("-"):
        made = model_folder(settings.latency, folder)
        arguments.insert(0, str(made))
        if option_value(arguments, "--served-model-name") is None:
            arguments += ["--served-model-name", made.name]
    for option, value in {**_DEFAULTS, **_budget(arguments, settings)}.items():
        if option_value(arguments, option) is None:
            arguments += [option, value]
    if all(option_value(arguments, option) is None for option in _PREFIX_CACHING):
        arguments.append("--no-enable-prefix-caching")
    arguments += ["--load-format", "dummy", "--distributed-executor-backend", EXECUTOR_CLASS]
    return with_config(arguments, KEY, to_dict(settings))


def _budget(arguments: Sequence[str], settings: ExecutorSettings) -> dict[str, str]:
    """VLLM's own budget on the simulated device; as in vLLM, no more requests than tokens."""
    tokens, requests = vllm_budget(LatencyModel.load(settings.latency).machine.gpu)
    given = option_value(arguments, BUDGET) or ""
    if given.isdigit() and int(given) > 0:
        requests = min(requests, int(given))
    return {BUDGET: str(tokens), "--max-num-seqs": str(requests)}


def simulated_cost_prior(vllm_arguments: Sequence[str], settings: ExecutorSettings) -> CostPrior:
    """The prefill cost that the scheduler starts from: the machine's own, as in `SimulatedEngine`.

    Args:
        vllm_arguments: made by `simulated_arguments`.
        settings: of the executor.
    """
    budget = option_value(vllm_arguments, BUDGET) or ""
    if not budget.isdigit() or int(budget) < 1:
        raise ConfigError(f"--max-num-batched-tokens: {budget!r} is not a whole number >= 1")
    prior = LatencyModel.load(settings.latency).cost_prior(int(budget))
    return CostPrior(*(value / settings.speed for value in dataclasses.astuple(prior)))


def simulated_launch(launch: Launch, environment: Mapping[str, str]) -> Launch:
    """The same launch on the simulated platform.

    Args:
        launch: of arguments made by `simulated_arguments`.
        environment: of this process; only VLLM_PLUGINS is looked at.
    """
    changes = dict(launch.environment) | {SWITCH: "1"}
    listed = changes.get("VLLM_PLUGINS", environment.get("VLLM_PLUGINS"))
    if listed is not None:  # no list: vLLM loads ours as all others
        changes["VLLM_PLUGINS"] = ",".join(plugin_names([PLUGIN], listed)[0])
    return dataclasses.replace(launch, environment=changes)
