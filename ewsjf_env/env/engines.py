"""The engines of a task: their settings are a union told apart by `engine`.

In a file the settings of an engine stand beside its name: `engine: fake` and `fake: {active: 2}`.
Those of the two engines in virtual time are the same and stand under `simulated`, so that
`engine: simulated` in place of `engine: compiled` repeats a run on vLLM's own scheduler.  Settings
of other engines may be there, so that one file serves several; they are checked and left out.
Those of `simulated` describe the machine's twin where a real engine is used.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic_core import ArgsKwargs

from ewsjf_env.config import ConfigError, closest, from_dict, refuse_unknown, shown, to_dict
from ewsjf_env.engine.base import Engine
from ewsjf_env.engine.fake import FakeConfig, FakeEngine
from ewsjf_env.engine.real.live import LiveConfig, LiveEngine
from ewsjf_env.engine.real.remote import RemoteConfig, RemoteEngine
from ewsjf_env.engine.simulated.config import VIRTUAL, SimulatedConfig
from ewsjf_env.engine.virtual import build_virtual
from ewsjf_env.env.registration import REAL_TIME

EngineName = Literal["compiled", "simulated", "fake", "live", "remote"]
EngineSettings = Annotated[
    SimulatedConfig | FakeConfig | LiveConfig | RemoteConfig, Field(discriminator="engine")
]

ENGINES: dict[str, Callable[[Any], Engine]] = {
    "compiled": build_virtual,
    "simulated": build_virtual,
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
"""What settings of engines may stand in a file, by their key."""

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
    if "compiled" in written:
        reason = "the settings of this engine stand under `simulated`"
        raise ConfigError(f"compiled: {reason}", ("compiled",), reason)
    called = isinstance(data, ArgsKwargs)  # in Python the fields have names of their own, too
    refuse_unknown(written, [*names, *others, *(FIELDS if called else ())], "")
    fields = {key: value for key, value in written.items() if key not in names}
    engines = {name: _checked(name, written[name]) for name in KINDS if name in written}
    if "engine" in written or engines:
        simulated = engines.get("simulated", SimulatedConfig())
        chosen = written.get("engine", simulated.engine)
        if not isinstance(chosen, str) or chosen not in ENGINES:
            hint = closest(str(chosen), ENGINES)
            reason = f"{shown(chosen)} is not one of {list(ENGINES)}{hint}"
            raise ConfigError(f"engine: {reason}", ("engine",), reason)
        if chosen in VIRTUAL:
            _refuse_another(chosen, written)
            fields["engine_settings"] = dataclasses.replace(simulated, engine=chosen)
        else:
            fields["engine_settings"] = engines[chosen] if chosen in engines else KINDS[chosen]()
            fields["twin_settings"] = simulated
    return ArgsKwargs((), fields) if isinstance(data, ArgsKwargs) else fields


def written_engines(own: EngineSettings, twin: SimulatedConfig) -> dict[str, Any]:
    """The keys that name engines; inverse of `fields_of`."""
    settings = to_dict(own)
    written: dict[str, Any] = {"engine": settings.pop("engine")}
    written["simulated" if own.engine in VIRTUAL else own.engine] = settings
    if own.engine in REAL_TIME:
        written["simulated"] = to_dict(twin)
    return written


def described_engines(properties: dict[str, Any]) -> dict[str, Any]:
    """Properties of a task's JSON Schema, as they are written."""
    kinds = properties["engine_settings"]["discriminator"]["mapping"]
    found: dict[str, Any] = {
        "engine": {
            "enum": list(kinds),
            "default": "compiled",
            "description": "Which engine serves the traffic.",
        }
    }
    for name in KINDS:
        told = f"Settings of the engine `{name}`, where it is used."
        if name == "simulated":
            told = "Settings of engines `compiled` and `simulated`, else of the machine's twin."
        found[name] = {"$ref": kinds[name], "description": told}
    return found | {key: part for key, part in properties.items() if key not in FIELDS}


def _refuse_another(chosen: str, written: Mapping[str, Any]) -> None:
    """Refuse a section `simulated` that names another engine than the task."""
    section = written.get("simulated")
    inside = section.get("engine", chosen) if isinstance(section, Mapping) else chosen
    if inside != chosen:
        reason = f"{inside!r} contradicts engine: {chosen!r} of the task"
        raise ConfigError(f"simulated: engine: {reason}", ("simulated", "engine"), reason)


def _checked(name: str, written: Any) -> Any:
    if isinstance(written, KINDS[name]):
        return written
    try:
        return from_dict(KINDS[name], written, name)
    except ConfigError as error:
        raise ConfigError(str(error), (name, *error.keys), error.reason) from None
