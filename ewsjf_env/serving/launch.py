"""The command and the environment that start the real `vllm serve` with our scheduler.

    EWSJF_SETTINGS=FILE VLLM_PLUGINS=ewsjf,... vllm serve MODEL
        --scheduler-cls CLASS --additional-config {"ewsjf": {"settings": "EWSJF_SETTINGS"}}

The policy travels in a file of its own, see `handover`.
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
from ewsjf_env.serving import handover
from ewsjf_env.serving.settings import POLICY_KEYS, SchedulerSettings, front_end_note

SCHEDULER_CLASS = "ewsjf_env.serving.scheduler.EWSJFScheduler"
PLUGIN = "ewsjf"
CONFIG_OPTION = "--additional-config"
ENTRY = "ewsjf"  # ours in that option
_GROUPS = (
    "vllm.general_plugins",
    "vllm.platform_plugins",
    "vllm.io_processor_plugins",
    "vllm.stat_logger_plugins",
)
_RAY_VARIABLES = "VLLM_RAY_EXTRA_ENV_VARS_TO_COPY"
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
    """`vllm serve` with our scheduler, plug-ins and policy; writes the file of settings.

    Args:
        vllm_arguments: MODEL and options of `vllm serve`.
        policy: what to serve by.
        environment: of this process; VLLM_PLUGINS and where files of state go are looked at.
        allow_patch: whether the policy may be changed over HTTP.
        cost_prior: what a prefill costs until the engine's own steps have told, where
            `--additional-config` does not say.

    Raises:
        ConfigError: an option that contradicts, or settings that are not legal.
    """
    if option_value(vllm_arguments, "--scheduler-cls") is not None:
        raise ConfigError("--scheduler-cls: is set by --policy; give only one of them")
    config = read_config(vllm_arguments)
    settings = _merged(config.get(ENTRY, {}), policy, allow_patch, cost_prior)
    note = front_end_note(environment)
    if note is not None and settings.get("allow_patch"):
        raise ConfigError(f"{note}; unset it, or leave out --allow-patch and --tune")
    path = handover.hand_over(settings, environment)
    arguments = write_config(vllm_arguments, {**config, ENTRY: dict(handover.ENTRY)})
    plugins, notes = plugin_names([PLUGIN], environment.get("VLLM_PLUGINS"))
    stock = stock_launch([*arguments, "--scheduler-cls", SCHEDULER_CLASS])
    changes = {"VLLM_PLUGINS": ",".join(plugins), handover.VARIABLE: str(path)}
    if (
        "ray" in arguments or "--data-parallel-backend=ray" in arguments
    ):  # its engine processes get those variables alone that are named
        named = environment.get(_RAY_VARIABLES, "")
        changes[_RAY_VARIABLES] = ",".join(filter(None, [named, handover.VARIABLE]))
    return Launch(stock.command, changes, (*notes, *([note] if note is not None else [])))


def _merged(
    given: object, policy: Policy, allow_patch: bool, cost_prior: CostPrior | None
) -> dict[str, Any]:
    """The operator's entry and what the command's options say, key by key."""
    where = f"{CONFIG_OPTION}: {ENTRY}"
    if not isinstance(given, Mapping):
        raise ConfigError(f"{where}: expected an object, got {given!r}")
    for key in (*POLICY_KEYS, handover.KEY):
        if key in given:
            raise ConfigError(f"{where}: {key}: is set by --policy; give only one of them")
    if allow_patch and given.get("allow_patch", True) is not True:
        raise ConfigError(
            f"{where}: allow_patch: {given['allow_patch']!r} contradicts --allow-patch or --tune"
        )
    settings: dict[str, Any] = {**given, "policy": policy.to_dict()}
    if allow_patch:
        settings["allow_patch"] = True
    if cost_prior is not None:
        settings.setdefault("cost_prior", to_dict(cost_prior))
    try:
        SchedulerSettings.from_additional_config({ENTRY: settings})
    except ConfigError as error:
        raise ConfigError(f"{CONFIG_OPTION}: {error}") from None
    return settings


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
        ConfigError: see `read_config`, or the entry is there already.
    """
    config = read_config(arguments)
    if key in config:
        raise ConfigError(f"{CONFIG_OPTION}: has an entry {key!r} already")
    return write_config(arguments, {**config, key: settings})


def read_config(arguments: Sequence[str]) -> dict[str, Any]:
    """The object that `--additional-config` gives; empty where it is not given.

    Raises:
        ConfigError: that option is no JSON object, or is given in the dotted form, which vLLM
            cannot merge with the other.
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
    return config


def write_config(arguments: Sequence[str], config: Mapping[str, Any]) -> list[str]:
    """`arguments` with this object as the only `--additional-config`."""
    rest = _without(arguments, CONFIG_OPTION)
    return [*rest, CONFIG_OPTION, json.dumps(config, allow_nan=False)]


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
