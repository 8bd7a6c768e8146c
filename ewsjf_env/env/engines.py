"""The engines of a task: their settings are a union told apart by `engine`.

In a file the settings of an engine stand beside its name: `engine: fake` and `fake: {active: 2}`.
Settings of other engines may be there, so that one file serves several; they are checked and left
out.  Those of `simulated` describe the machine's twin where another engine is used.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic_core import ArgsKwargs

from ewsjf_env.config import ConfigError, from_dict, nearest, refuse_unknown, to_dict
from ewsjf_env.engine.base import Engine
from ewsjf_env.engine.fake import FakeConfig, FakeEngine
from ewsjf_env.engine.real.live import LiveConfig, LiveEngine
from ewsjf_env.engine.real.remote import RemoteConfig, RemoteEngine
from ewsjf_env.engine.simulated.config import SimulatedConfig
from ewsjf_env.engine.simulated.engine import SimulatedEngine
from ewsjf_env.env.registration import REAL_TIME

EngineName = Literal["simulated", "fake", "live", "remote"]
EngineSettings = Annotated[
    SimulatedConfig | FakeConfig | LiveConfig | RemoteConfig, Field(discriminator="engine")
]

ENGINES: dict[str, Callable[[Any], Engine]] = {
    "simulated": SimulatedEngine,
    "fake": FakeEngine,
    "live": LiveEngine,
    "remote": RemoteEngine,
}
"""The engine of each kind of settings, by its name."""

KINDS: dict[str, Any] = {
    "simulated": SimulatedConfig,
    "fake": FakeConfig,
    "live": LiveConfig,
    "remote": RemoteConfig,
}
"""The settings of each engine, by its name."""

FIELDS = ("engine_settings", "twin_settings")
"""The fields of a task that are written under the names of engines."""


def fields_of(data: Any, others: Collection[str]) -> Any:
    """Fields of a task for what is written, which names engines.

    Args:
        data: a mapping, or pydantic's arguments of a call; anything else is returned as it is.
        others: names of the task's other fields.

    Raises:
        ConfigError: an unknown key or engine, or what is wrong with the settings of one.
    """
    written = data.kwargs if isinstance(data, ArgsKwargs) else data
    if not isinstance(written, Mapping):
        return data
    names = ("engine", *KINDS)
    given = {key: value for key, value in written.items() if key not in FIELDS}
    refuse_unknown(given, [*names, *others], "")
    fields = {key: value for key, value in written.items() if key not in names}
    engines = {name: _checked(name, written[name]) for name in KINDS if name in written}
    if "engine" in written or engines:
        chosen = written.get("engine", "simulated")
        if not isinstance(chosen, str) or chosen not in KINDS:
            reason = f"{chosen!r} is not one of {list(KINDS)}{nearest(str(chosen), KINDS)}"
            raise ConfigError(f"engine: {reason}", ("engine",), reason)
        fields["engine_settings"] = engines[chosen] if chosen in engines else KINDS[chosen]()
        if chosen != "simulated" and "simulated" in engines:
            fields["twin_settings"] = engines["simulated"]
    return ArgsKwargs((), fields) if isinstance(data, ArgsKwargs) else fields


def written_engines(own: EngineSettings, twin: SimulatedConfig) -> dict[str, Any]:
    """The keys that name engines; inverse of `fields_of`."""
    written: dict[str, Any] = {"engine": own.engine, own.engine: to_dict(own)}
    if own.engine in REAL_TIME:
        written["simulated"] = to_dict(twin)
    for name in KINDS.keys() & written.keys():
        del written[name]["engine"]
    return written


def described_engines(properties: dict[str, Any]) -> dict[str, Any]:
    """Properties of a task's JSON Schema, as they are written."""
    kinds = properties["engine_settings"]["discriminator"]["mapping"]
    found: dict[str, Any] = {
        "engine": {
            "enum": list(kinds),
            "default": "simulated",
            "description": "Which engine serves the traffic.",
        }
    }
    for name, kind in kinds.items():
        used = " Else those of the machine's twin." if name == "simulated" else ""
        told = f"Settings of the engine `{name}`, where it is used.{used}"
        found[name] = {"$ref": kind, "description": told}
    return found | {key: part for key, part in properties.items() if key not in FIELDS}


def _checked(name: str, written: Any) -> Any:
    if isinstance(written, KINDS[name]):
        return written
    try:
        return from_dict(KINDS[name], written, name)
    except ConfigError as error:
        raise ConfigError(str(error), (name, *error.keys), error.reason) from None
