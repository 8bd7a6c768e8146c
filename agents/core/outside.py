"""A tuner from outside the checkout: found by `module:Class`, tried before anything is run.

The module is one that is installed, one in the working directory, or a file
(`tuners/mine.py:Mine`).  A package offers tuners of its own by name with entry points of the
group `ewsjf.agents`.
`docs/examples/own_tuner.py` is a complete one.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib
import importlib.metadata
import importlib.util
import inspect
import pkgutil
import sys
import traceback
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from agents.core.agent import Transition
from ewsjf_env.config import ConfigError, nearest
from ewsjf_env.parameters import Parameter, ParameterSpace

GROUP = "ewsjf.agents"
TRIAL_SPACE = ParameterSpace(
    (Parameter("x", 0.5), Parameter("mode", "a", scale="choice", choices=("a", "b")))
)
CONTEXT_SIZE = 2  # numbers of the trial's context
SEES = ("context", "observation")
CALLS: dict[str, tuple[object, ...]] = {
    "act": ((0.0, 0.0),),
    "observe": (None,),
    "recommend": (None,),
    "diagnostics": (),
}
"""Methods of a tuner, and what each is called with."""

Build = Callable[[ParameterSpace, int], Any]


def is_outside(name: str) -> bool:
    """Whether a name is that of a class in a module, not one of a list."""
    return ":" in name


@functools.cache
def entry_points() -> dict[str, str]:
    """`module:Class` of the tuners that installed packages offer, by name."""
    return {point.name: point.value for point in importlib.metadata.entry_points(group=GROUP)}


@functools.cache
def load_outside(target: str) -> Any:
    """The class of `module:Class` or `file.py:Class`.

    Raises:
        ConfigError: what is missing, or the file and line that failed.
    """
    name, _, attribute = target.rpartition(":")
    if not name or not attribute:
        raise ConfigError(f"{target!r}: expected module:Class or file.py:Class")
    is_file = name.endswith(".py")
    if not is_file and not all(part.isidentifier() for part in name.split(".")):
        raise ConfigError(
            f"{target!r}: {name!r} is not the name of a module; give a file as "
            "path/to/file.py:Class"
        )
    try:
        module = _file_module(Path(name)) if is_file else _module(name)
    except ConfigError:
        raise
    except SyntaxError as error:
        raise ConfigError(f"{error.filename}:{error.lineno}: {error.msg}") from None
    except (Exception, SystemExit) as error:  # whatever a stranger's module does when imported
        raise ConfigError(f"{_place(error)}: {_said(error)}") from None
    place = getattr(module, "__file__", None) or f"module {name!r}"
    if not hasattr(module, attribute):
        _refuse_folder(module, name, attribute)
        classes = [n for n, v in vars(module).items() if inspect.isclass(v) and n[0] != "_"]
        raise ConfigError(f"{place}: has no {attribute!r}{nearest(attribute, classes)}")
    found = getattr(module, attribute)
    if not inspect.isclass(found):
        raise ConfigError(f"{place}: {attribute} is a {type(found).__name__}, expected a class")
    return found


def _refuse_folder(module: ModuleType, name: str, attribute: str) -> None:
    """ConfigError for a package without `__init__.py`, which has modules and no class."""
    folders = [str(folder) for folder in getattr(module, "__path__", ())]
    if folders and getattr(module, "__file__", None) is None:
        modules = [found.name for found in pkgutil.iter_modules(folders)]
        raise ConfigError(
            f"{name!r} is the folder {folders[0]} without an __init__.py: expected "
            f"{name}.MODULE:{attribute}, MODULE one of {modules}"
        )


def settings_of(kind: type) -> type | None:
    """Class of a tuner's settings: that of its constructor's parameter `config`; None: it has none.

    Raises:
        ConfigError: it is no dataclass, or one of its fields has no default.
    """
    parameter = inspect.signature(kind).parameters.get("config")
    if parameter is None:
        return None
    try:
        found = typing.get_type_hints(kind.__init__).get("config")  # type: ignore[misc]
    except (NameError, TypeError):
        found = None
    if not (isinstance(found, type) and dataclasses.is_dataclass(found)):
        raise ConfigError(
            f"{_line_of(kind.__init__, kind)}: config: "  # type: ignore[misc]
            "expected an annotation with a dataclass, the class of the settings"
        )
    for field in dataclasses.fields(found):
        none = dataclasses.MISSING
        if field.default is none and field.default_factory is none:
            raise ConfigError(
                f"{_line_of(found, found)}: {found.__name__}.{field.name}: has no default"
            )
    return found


def check_tuner(kind: type, build: Build, offered: Sequence[str]) -> None:
    """Build a tuner for a tiny space and play one window with it.

    Args:
        kind: the class.
        build: (space, size of the context) -> tuner.
        offered: what a constructor may ask for.

    Raises:
        ConfigError: file and line of what is wrong.
    """
    where = _line_of(kind, kind)
    if getattr(kind, "sees", "context") not in SEES:
        raise ConfigError(f"{where}: sees: {kind.sees!r} is not one of {list(SEES)}")  # type: ignore[attr-defined]
    for name, call in CALLS.items():
        method = getattr(kind, name, None)
        if not callable(method):
            near = nearest(name, [n for n in vars(kind) if not n.startswith("_")])
            raise ConfigError(f"{where}: {kind.__name__} has no method {name!r}{near}")
        try:
            inspect.signature(method).bind(None, *call)
        except TypeError as error:
            raise ConfigError(
                f"{_line_of(method, kind)}: {kind.__name__}.{name}: is called with "
                f"{len(call)} value(s): {error}"
            ) from None
    for parameter in inspect.signature(kind).parameters.values():
        free = parameter.default is not parameter.empty or parameter.kind in (
            parameter.VAR_POSITIONAL,
            parameter.VAR_KEYWORD,
        )
        if parameter.name not in offered and not free:
            raise ConfigError(
                f"{_line_of(kind.__init__, kind)}: {kind.__name__}.__init__: "  # type: ignore[misc]
                f"{parameter.name!r} has no default and is none of {', '.join(offered)}"
            )
    try:
        _play(kind, build)
    except ConfigError as error:
        raise ConfigError(f"{where}: {kind.__name__}: {error}") from None
    except Exception as error:  # whatever a stranger's tuner does
        raise ConfigError(f"{_place(error)}: {kind.__name__}: {_said(error)}") from None


def _play(kind: type, build: Build) -> None:
    size = CONTEXT_SIZE
    if getattr(kind, "sees", "context") == "observation":
        size = CONTEXT_SIZE + len(TRIAL_SPACE)
    view = (0.0,) * size
    tuner = build(TRIAL_SPACE, size)
    for name, expected in (("name", str), ("windows", int)):
        found = getattr(tuner, name, None)
        if not isinstance(found, expected):
            raise ConfigError(f"{name}: expected a {expected.__name__}, got {found!r}")
    _legal(tuner.recommend(None), "recommend")
    values = _legal(tuner.act(view), "act")
    tuner.observe(Transition(0, values, 0.1, 0.01, {"margin": -0.1}, view, view))
    if tuner.windows != 1:
        raise ConfigError(f"windows: is {tuner.windows!r} after one window was observed")
    _legal(tuner.recommend(view), "recommend")
    scalars = tuner.diagnostics()
    if not isinstance(scalars, dict):
        raise ConfigError(f"diagnostics: expected a dict of numbers, got {scalars!r}")


def _legal(values: Any, where: str) -> dict[str, Any]:
    if not isinstance(values, dict):
        raise ConfigError(f"{where}: expected a dict of values by parameter, got {values!r}")
    return dict(TRIAL_SPACE.validate(values, where))


def _module(name: str) -> ModuleType:
    here = str(Path.cwd())
    if here not in sys.path:  # a console command does not look into the working directory
        sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise  # it is there, and what it imports is not
        raise ConfigError(
            f"no module {name!r} in {here} or among what is installed; "
            "give a file as path/to/file.py:Class"
        ) from None


def _file_module(path: Path) -> ModuleType:
    path = path.absolute()
    if not path.is_file():
        raise ConfigError(f"{path} is not a file")
    name = f"_tuner_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # annotations are looked up there
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _place(error: BaseException) -> str:
    """File and line where it was raised, in a stranger's code where it has any."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = str(Path(__file__).parents[1])
    libraries = (f"{sys.prefix}/", f"{sys.base_prefix}/", "<frozen", ours)
    theirs = [frame for frame in frames if not frame.filename.startswith(libraries)]
    frame = (theirs or list(frames))[-1]
    return f"{frame.filename}:{frame.lineno}"


def _line_of(thing: Any, kind: type) -> str:
    """File and line where a class or method is written; those of its class where it has none."""
    for one in (thing, kind):
        try:
            return f"{inspect.getsourcefile(one)}:{inspect.getsourcelines(one)[1]}"
        except (OSError, TypeError):
            continue
    return kind.__module__


def _said(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
