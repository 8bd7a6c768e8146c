"""A tuner from outside at work: whatever it does wrong is one line with file and line.

Nothing is known of a stranger's code but its protocol.  What it raises, `sys.exit` included, is a
`ConfigError` that names the place in its file; what it returns is checked before it is served or
written, for a window that cannot be read back would end the run for good.
"""

from __future__ import annotations

import contextlib
import inspect
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from agents.core.agent import CANDIDATE, Agent, Transition
from ewsjf_env.config import ConfigError, nearest, shown
from ewsjf_env.parameters import ParameterSpace, Value

T = TypeVar("T")
PASSING = (KeyboardInterrupt, MemoryError, GeneratorExit)
"""What a stranger's code may be interrupted by: never its fault."""
LONGEST_WORD = 200  # characters of a tag or a role
LONGEST_TOLD = 300  # characters of a stranger's message
_ROOT = Path(__file__).parents[2]
_LIBRARIES = (f"{sys.prefix}/", f"{sys.base_prefix}/", "<frozen")
_OURS = (f"{_ROOT / 'agents'}/", f"{_ROOT / 'ewsjf_env'}/")


class Outsider:
    """An `Agent` that asks a stranger's and vouches for what it says.

    Attributes:
        own: the stranger's tuner itself.
    """

    def __init__(self, kind: type, build: Callable[[], Any], space: ParameterSpace) -> None:
        """Build the tuner.

        Args:
            kind: its class.
            build: makes it.
            space: what is tuned.

        Raises:
            ConfigError: it raised; so do all methods.
        """
        self._kind, self._space = kind, space
        self._failed = False
        self.own = self._asked("__init__", build)

    @property
    def name(self) -> str:
        """See `Agent`."""
        return self._asked("name", lambda: str(self.own.name))

    @property
    def windows(self) -> int:
        """See `Agent`."""
        return self._asked("windows", lambda: int(self.own.windows))

    @property
    def role(self) -> str:
        """See `WithRole`; a candidate's where the tuner has none."""
        role = self._asked("role", lambda: getattr(self.own, "role", CANDIDATE))
        return self._checked("act", lambda: _string(role))

    def act(self, context: Sequence[float] = ()) -> dict[str, Value]:
        """See `Agent`."""
        values = self._asked("act", lambda: self.own.act(context))
        return self._checked("act", lambda: legal_values(values, self._space, "act"))

    def observe(self, transition: Transition) -> None:
        """See `Agent`."""
        self._asked("observe", lambda: self.own.observe(transition))

    def recommend(self, context: Sequence[float] | None = None) -> dict[str, Value]:
        """See `Agent`."""
        values = self._asked("recommend", lambda: self.own.recommend(context))
        return self._checked("recommend", lambda: legal_values(values, self._space, "recommend"))

    def diagnostics(self) -> dict[str, float]:
        """See `Agent`."""
        scalars = self._asked("diagnostics", lambda: self.own.diagnostics())
        return self._checked("diagnostics", lambda: legal_scalars(scalars))

    def close(self) -> None:
        """See `WithHelpers`; after a failure of the tuner another one tells nothing."""
        close = getattr(self.own, "close", None)
        if callable(close):
            failed = self._failed
            with contextlib.suppress(*((ConfigError,) if failed else ())):
                self._asked("close", close)

    def _asked(self, method: str, call: Callable[[], T]) -> T:
        try:
            with blamed(self._kind, method):
                return call()
        except ConfigError as error:
            self._failed = True
            raise ConfigError(f"agent: {error}") from None

    def _checked(self, method: str, check: Callable[[], T]) -> T:
        """What the stranger has returned, checked: wrong values have no line but the method's."""
        where = f"{line_of(getattr(self._kind, method), self._kind)}: {self._kind.__name__}"
        try:
            return check()
        except PASSING:
            raise
        except Exception as error:  # a value of a class of its own may raise when it is looked at
            self._failed = True
            told = str(error) if isinstance(error, ConfigError) else f"{method}: {said(error)}"
            raise ConfigError(f"agent: {where}: {told}") from None


def own_agent(agent: Agent) -> Any:
    """The tuner itself, for what the protocol of all of them does not have."""
    return agent.own if isinstance(agent, Outsider) else agent


def legal_values(values: Any, space: ParameterSpace, where: str) -> dict[str, Value]:
    """What `act` or `recommend` has returned.

    Raises:
        ConfigError: no dict, a parameter that is unknown or missing, or an illegal value.
    """
    if not isinstance(values, dict):
        raise ConfigError(f"{where}: expected a dict of values by parameter, got {shown(values)}")
    for name in values:
        if name not in space.names:
            hint = nearest(str(name), space.names)
            raise ConfigError(f"{where}: unknown parameter {shown(name)}{hint}")
    for parameter in space.parameters:
        if parameter.name not in values:
            raise ConfigError(
                f"{where}: parameter {parameter.name!r} is missing, expected {parameter.allowed}"
            )
    return space.validate(values, where)


def legal_scalars(scalars: Any) -> dict[str, float]:
    """What `diagnostics` has returned, as float; NaN and infinities are let through.

    Raises:
        ConfigError: no dict of numbers by tag.
    """
    if not isinstance(scalars, dict):
        raise ConfigError(f"diagnostics: expected a dict of numbers, got {shown(scalars)}")
    return {_string(tag, "diagnostics: tag"): _float(tag, v) for tag, v in scalars.items()}


@contextlib.contextmanager
def blamed(kind: type, method: str) -> Iterator[None]:
    """Whatever is raised inside is a `ConfigError` that names the place in a stranger's code."""
    try:
        yield
    except PASSING:
        raise
    except BaseException as error:  # sys.exit, too: no tuner may end a command without a word
        where = place_of(error, kind, method)
        raise ConfigError(f"{where}: {kind.__name__}: {said(error)}") from None


def place_of(error: BaseException, kind: type | None = None, method: str = "") -> str:
    """File and line where it was raised, in a stranger's code where it has any.

    An installed tuner is known from the libraries that it calls by the folder of its class.
    """
    frames = traceback.extract_tb(error.__traceback__)
    theirs = [frame for frame in frames if not frame.filename.startswith((*_LIBRARIES, *_OURS))]
    if kind is not None:
        folder = str(Path(_file_of(kind)).parent)
        beside = [f for f in frames if str(Path(f.filename).parent) == folder]
        theirs = theirs or beside
        if not theirs:  # the call itself did not fit
            return line_of(getattr(kind, method, kind), kind)
    frame = (theirs or list(frames))[-1]
    return f"{frame.filename}:{frame.lineno}"


def line_of(thing: Any, kind: type) -> str:
    """File and line where a class or method is written; those of its class where it has none."""
    for one in (thing, kind):
        try:
            return f"{inspect.getsourcefile(one)}:{inspect.getsourcelines(one)[1]}"
        except (OSError, TypeError):
            continue
    return kind.__module__


def said(error: BaseException) -> str:
    """Class and message of an error, in one line."""
    try:
        text = " ".join(str(error).split())
    except Exception:  # a stranger's error may not even have a message
        text = ""
    told = text if len(text) <= LONGEST_TOLD else f"{text[:LONGEST_TOLD]} ..."
    return f"{type(error).__name__}: {told}" if told else type(error).__name__


def _file_of(kind: type) -> str:
    try:
        return inspect.getsourcefile(kind) or ""
    except (OSError, TypeError):
        return ""


def _string(value: Any, where: str = "role") -> str:
    """A word that TensorBoard, a table and a line of JSON can hold."""
    if not isinstance(value, str):
        raise ConfigError(f"{where}: expected a string, got {shown(value)}")
    if not (1 <= len(value) <= LONGEST_WORD and value.isprintable()):
        raise ConfigError(
            f"{where}: {shown(value)} is not of 1 to {LONGEST_WORD} printable characters"
        )
    return str(value)


def _float(tag: str, value: Any) -> float:
    with contextlib.suppress(TypeError, ValueError, OverflowError, RuntimeError):
        if not isinstance(value, (str, bytes, bytearray, Mapping)):
            return float(value)
    raise ConfigError(f"diagnostics: {tag}: expected a number up to 1e308, got {shown(value)}")
