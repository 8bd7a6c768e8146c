"""What all commands share: one line for bad input, exit codes, and how a command is named."""

from __future__ import annotations

import argparse
import difflib
import shlex
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, NoReturn

from agents.cli._start import INTERRUPTED
from agents.core.files import check_writable
from agents.experiments.backend import BACKENDS
from ewsjf_env.config import ConfigError
from ewsjf_env.engine.base import EngineError

FAILED, BAD_INPUT = 1, 2
CLOSE = 0.6  # likeness of two options, of 1: what is less alike was not meant


class Parser(argparse.ArgumentParser):
    """Bad arguments are a ConfigError like any other bad input: one line, no usage."""

    def __init__(
        self,
        prog: str,
        usage: str | None,
        description: str,
        epilog: str = "",
        parents: Sequence[argparse.ArgumentParser] = (),
    ) -> None:
        """A command; `usage` None: made from its arguments."""
        super().__init__(
            prog=prog,
            usage=usage,
            description=description,
            epilog=epilog,
            parents=list(parents),
            formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, width=80),
            allow_abbrev=False,
        )

    def error(self, message: str) -> NoReturn:
        """Raise ConfigError."""
        raise ConfigError(message.removeprefix("argument "))

    def arguments(self, argv: Sequence[str]) -> argparse.Namespace:
        """Parse; ConfigError names the nearest option for an unknown one."""
        options = [option for action in self._actions for option in action.option_strings]
        for word in argv:  # before anything that is missing is asked for
            if word.startswith("--") and word.split("=")[0] not in options:
                raise ConfigError(f"unknown option {word!r}{self._hint(word, options)}")
        arguments, unknown = self.parse_known_args(argv)
        if unknown:
            raise ConfigError(f"unknown argument {unknown[0]!r}; {self.prog} --help tells all")
        return arguments

    def _hint(self, word: str, options: Sequence[str]) -> str:
        """The option that was meant: of a similar name, else where to look."""
        name = word.split("=")[0].strip("-")
        names = [option.strip("-") for option in options]
        close = difflib.get_close_matches(name, names, n=1, cutoff=CLOSE)
        close += [other for other in names if len(name) > 2 and name in other]
        if not close:
            return f"; {self.prog} --help tells all"
        return f"; nearest valid name: '--{close[0]}'"


def whole(text: str) -> int:
    """Argument type: an integer."""
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not an integer") from None


def number(text: str) -> float:
    """Argument type: a number."""
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None


def folder(flag: str, text: str | Path) -> Path:
    """The folder that a flag names, which need not be there; ConfigError for anything else."""
    if not str(text):
        raise ConfigError(f"{flag}: the name is empty, expected a folder")
    path = Path(text)
    if path.exists() and not path.is_dir():
        raise ConfigError(f"{flag}: {path} is a file, expected a folder")
    return path


def made_folder(flag: str, text: str | Path) -> Path:
    """The folder that a flag names, made; ConfigError where nothing can be written to it."""
    path = folder(flag, text)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        reason = error.strerror or error
        raise ConfigError(f"{flag}: {path} cannot be written: {reason}") from None
    return path


def json_file(flag: str, text: str | Path) -> Path:
    """The JSON file that a flag names, where one can be written: asked before any work.

    Raises:
        ConfigError: another ending, no folder, or what the system says when it is tried.
    """
    path = Path(text)
    try:
        if path.suffix != ".json" or path.is_dir() or not path.parent.is_dir():
            raise ConfigError(
                f"{flag}: {path} must be a file ending in .json, in a folder that exists"
            )
        check_writable(path)
    except OSError as error:
        reason = error.strerror or error
        raise ConfigError(f"{flag}: {path} cannot be written: {reason}") from None
    return path


def run_command(command: Callable[[], int], interrupted: str) -> int:
    """Exit code of a command: its own, 1 when it failed, 2 for bad input, 130 for Ctrl-C.

    Args:
        command: the work.
        interrupted: what to say after Ctrl-C.
    """
    try:
        return command()
    except ConfigError as error:
        return say(BAD_INPUT, f"error: {error}")
    except EngineError as error:
        return say(FAILED, f"error: {error}")
    except BrokenProcessPool:
        return say(FAILED, f"error: a worker process was killed (out of memory?): {interrupted}")
    except OSError as error:
        return say(FAILED, f"error: {error.filename or 'file'}: {error.strerror or error}")
    except KeyboardInterrupt:
        return say(INTERRUPTED, f"interrupted: {interrupted}")


def say(code: int, message: Any) -> int:
    """Print one line on standard error; returns `code`."""
    print(" ".join(str(message).split()), file=sys.stderr)
    return code


def tool_command(name: str, *arguments: str) -> str:
    """A line that starts a tool of this environment from here, whether activated or not."""
    path = Path(sys.executable).with_name(name)
    if not path.exists():
        path = Path(name)
    elif path.is_relative_to(Path.cwd()):
        path = path.relative_to(Path.cwd())
    return shlex.join([str(path), *arguments])


def own_command(name: str, *arguments: str) -> str:
    """A line that starts a sub-command of `ewsjf` from here, as this process could be started."""
    if shutil.which("ewsjf") is not None:
        return shlex.join(["ewsjf", name, *arguments])
    if Path(sys.executable).with_name("ewsjf").exists():
        return tool_command("ewsjf", name, *arguments)
    return tool_command(Path(sys.executable).name, "-m", "agents.cli", name, *arguments)


def add_set_option(parser: Parser, of: str) -> None:
    """`--set a.b=3`, again for more; `sets_of` gives them."""
    parser.add_argument(
        "--set",
        action="append",
        metavar="A.B=3",
        help=f"a value of {of}",
    )


def sets_of(arguments: argparse.Namespace) -> list[str]:
    """What `--set` was given, in order; ConfigError for what is not like `a.b=3`."""
    given: list[str] = arguments.set or []
    for text in given:
        path, equals, _ = text.partition("=")
        if not equals or "" in path.split("."):
            raise ConfigError(f"--set: {text!r} is not like a.b=3")
    return given


def split_sets(arguments: argparse.Namespace) -> tuple[list[str], list[str]]:
    """What `--set` was given of a task, and what of its agent (`agent.A.B=3`)."""
    given = sets_of(arguments)
    own = [text for text in given if text.startswith("agent.")]
    for text in given:
        if text.startswith("agent="):
            raise ConfigError(f"--set: {text!r} is not like agent.A.B=3")
    return [text for text in given if text not in own], own


def add_backend_options(parser: Parser, jobs: int = 1) -> None:
    """`--jobs` and `--backend`."""
    parser.add_argument(
        "--jobs", type=whole, default=jobs, metavar="N", help=f"worker processes ({jobs})"
    )
    parser.add_argument(
        "--backend",
        choices=BACKENDS,
        default="loky",
        help="loky: processes here | ray: the cluster of RAY_ADDRESS",
    )
