"""The command and the environment that start the real `vllm serve` with our scheduler.

    vllm serve MODEL --scheduler-cls CLASS --additional-config {"ewsjf": {...}}
    VLLM_PLUGINS=ewsjf,...

The policy travels inside the command, so that what was checked is what is served, also when the
file changes or disappears before the engine reads it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from typing import Any

from ewsjf_env.config import ConfigError, to_dict
from ewsjf_env.policy.policy import Policy
from ewsjf_env.scheduling.cost import CostPrior

SCHEDULER_CLASS = "ewsjf_env.serving.scheduler.EWSJFScheduler"
PLUGIN = "ewsjf"
CONFIG_OPTION = "--additional-config"
_GROUPS = (
    "vllm.general_plugins",
    "vllm.platform_plugins",
    "vllm.io_processor_plugins",
    "vllm.stat_logger_plugins",
)
_ROUTES_GROUP = "vllm.endpoint_plugins"


@dataclass(frozen=True)
class Launch:
    """A command, what it needs in its environment, and what the operator should be told."""

    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def stock_launch(vllm_arguments: Sequence[str]) -> Launch:
    """`vllm serve` as it is."""
    # The module instead of the script `vllm`, which need not be on PATH.
    serve = (sys.executable, "-m", "vllm.entrypoints.cli.main", "serve")
    return Launch(command=(*serve, *vllm_arguments))


def ewsjf_launch(
    vllm_arguments: Sequence[str],
    policy: Policy,
    environment: Mapping[str, str],
    allow_patch: bool = False,
    cost_prior: CostPrior | None = None,
) -> Launch:
    """`vllm serve` with our scheduler, plug-ins and policy.

    Args:
        vllm_arguments: MODEL and options of `vllm serve`.
        policy: what to serve by.
        environment: of this process; only VLLM_PLUGINS is looked at.
        allow_patch: whether the policy may be changed over HTTP.
        cost_prior: what a prefill costs until the engine's own steps have told.

    Raises:
        ConfigError: an option that contradicts.
    """
    if option_value(vllm_arguments, "--scheduler-cls") is not None:
        raise ConfigError("--scheduler-cls: is set by --policy; give only one of them")
    settings: dict[str, Any] = {"policy": policy.to_dict()}
    if allow_patch:
        settings["allow_patch"] = True
    if cost_prior is not None:
        settings["cost_prior"] = to_dict(cost_prior)
    arguments = with_config(vllm_arguments, "ewsjf", settings)
    plugins, notes = plugin_names([PLUGIN], environment.get("VLLM_PLUGINS"))
    stock = stock_launch([*arguments, "--scheduler-cls", SCHEDULER_CLASS])
    return Launch(stock.command, {"VLLM_PLUGINS": ",".join(plugins)}, notes)


def plugin_names(ours: Iterable[str], listed: str | None) -> tuple[list[str], tuple[str, ...]]:
    """The allow-list VLLM_PLUGINS with our plug-ins added.

    vLLM loads routes only of plug-ins that the list names, and then nothing that it does not
    name.  So where there is no list yet, every installed plug-in that would have been loaded is
    named, except for one that would thereby also get its routes.

    Args:
        ours: names to add.
        listed: VLLM_PLUGINS as it is; None when it is not set.

    Returns:
        The names, and what the operator should know of them.
    """
    if listed is not None:
        names = [name for name in listed.split(",") if name]
        return [*names, *(name for name in ours if name not in names)], ()
    wanted = list(ours)
    with_routes = {point.name for point in entry_points(group=_ROUTES_GROUP)} - set(wanted)
    installed = {point.name for group in _GROUPS for point in entry_points(group=group)}
    left_out = sorted(installed & with_routes)
    notes = tuple(
        f"plug-in {name!r} is not loaded, since naming it would open its HTTP routes; set "
        "VLLM_PLUGINS to choose"
        for name in left_out
    )
    return [*wanted, *sorted(installed - with_routes - set(wanted))], notes


def option_value(arguments: Sequence[str], option: str) -> str | None:
    """The value given last for `--option VALUE` or `--option=VALUE`; None when it is not given.

    vLLM takes underscores for hyphens, too.
    """
    found = None
    for index, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name.startswith("--") and name.replace("_", "-") == option:
            found = value if equals else "".join(arguments[index + 1 : index + 2])
    return found


def with_config(arguments: Sequence[str], key: str, settings: object) -> list[str]:
    """`arguments` with an entry added to the JSON of `--additional-config`.

    Raises:
        ConfigError: that option is no JSON object, has the entry already, or is given in the
            dotted form, which vLLM cannot merge with the other.
    """
    dotted = [a for a in arguments if a.replace("_", "-").startswith(CONFIG_OPTION + ".")]
    if dotted:
        raise ConfigError(f"{dotted[0]}: give {CONFIG_OPTION} as one JSON object")
    given = option_value(arguments, CONFIG_OPTION)
    try:
        config = {} if given is None else json.loads(given)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{CONFIG_OPTION}: not valid JSON: {error}") from None
    if not isinstance(config, dict):
        raise ConfigError(f"{CONFIG_OPTION}: expected an object, got {given}")
    if key in config:
        raise ConfigError(f"{CONFIG_OPTION}: has an entry {key!r} already")
    rest = _without(arguments, CONFIG_OPTION)
    return [*rest, CONFIG_OPTION, json.dumps({**config, key: settings}, allow_nan=False)]


def _without(arguments: Sequence[str], option: str) -> list[str]:
    kept: list[str] = []
    skip = False
    for argument in arguments:
        name, equals, _ = argument.partition("=")
        if skip:
            skip = False
        elif name.startswith("--") and name.replace("_", "-") == option:
            skip = not equals
        else:
            kept.append(argument)
    return kept
