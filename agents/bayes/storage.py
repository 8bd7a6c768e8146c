"""The storage of a study that several tuners share, and how it is reached.

A journal file on a file system that all of them see, or a PostgreSQL database.  A run keeps its
configuration and its command line, so a password may be in neither: PostgreSQL's client takes it
from PGPASSWORD or ~/.pgpass.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ewsjf_env.config import ConfigError

if TYPE_CHECKING:
    from optuna.storages import BaseStorage

EXAMPLE = "postgresql://USER@HOST/DATABASE"
CONNECT_S = 10
STATEMENT_S = 30  # a tuner that waits for its database longer goes on alone
TABLES_TRIES, RETRY_S = 5, 1.0
_SECRET = re.compile(r"(://[^:/@]*:).*@|([?&](?:ssl)?password=)[^&]*", re.IGNORECASE)


def check_storage(text: str) -> None:
    """Refuse what is neither a path nor a URL of a database, and a password in it.

    Raises:
        ConfigError: without the password.
    """
    if "://" not in text:
        return
    if _SECRET.search(text):
        raise ConfigError(
            f"storage: {masked(text)!r} holds a password, which the run would keep; leave it out "
            "and set PGPASSWORD, or use ~/.pgpass"
        )
    scheme = text.partition("://")[0]
    if scheme != "postgresql":
        raise ConfigError(
            f"storage: {scheme + '://'!r} is not supported; give the path of a journal file, or "
            + EXAMPLE
        )


def masked(text: str) -> str:
    """A URL without its password."""
    return _SECRET.sub(lambda m: f"{m[1]}***@" if m[1] else f"{m[2]}***", text)


def open_storage(text: str, journal: Callable[[Path], BaseStorage]) -> BaseStorage:
    """Reach a storage that `check_storage` lets pass.

    Args:
        text: the path of a journal file, or a URL.
        journal: opens such a file.

    Raises:
        ConfigError: it cannot be reached, saying why; or a package is missing.
    """
    if "://" not in text:
        path = Path(text)
        if not path.parent.is_dir():
            raise ConfigError(f"storage: {path}: the folder {path.parent} does not exist")
        try:
            return journal(path)
        except OSError as error:
            raise ConfigError(f"storage: {path}: {error.strerror or error}") from None
    if importlib.util.find_spec("psycopg") is None:
        raise ConfigError(
            "storage: postgresql needs the package psycopg: pip install -e '.[postgresql]'"
        )
    return _database(text)


@contextlib.contextmanager
def reaching(text: str) -> Iterator[None]:
    """Whatever a storage fails with is a ConfigError in here, of one line."""
    try:
        yield
    except failures() as error:
        raise ConfigError(f"storage: {text}: {reason(error)}") from None


def failures() -> tuple[type[Exception], ...]:
    """What is raised by a storage that is away or broken."""
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import SQLAlchemyError

    return StorageInternalError, SQLAlchemyError, OSError


def reason(error: BaseException) -> str:
    """The one line that tells what is wrong."""
    while isinstance(error.__cause__, Exception):
        error = error.__cause__
    lines = [" ".join(line.split()) for line in str(error).splitlines()]
    lines = [line for line in lines if line]
    return masked(lines[0])[:300] if lines else type(error).__name__


def _database(text: str) -> BaseStorage:
    from optuna.storages import RDBStorage
    from sqlalchemy.exc import ArgumentError, IntegrityError, ProgrammingError
    from sqlalchemy.pool import NullPool

    options: dict[str, Any] = {
        # A connection for each question: none goes stale in the minutes between two windows.
        "poolclass": NullPool,
        "connect_args": {
            "connect_timeout": CONNECT_S,
            "tcp_user_timeout": 1000 * STATEMENT_S,
            "options": f"-c statement_timeout={1000 * STATEMENT_S}",
            "application_name": f"ewsjf-tuner-{os.getpid()}",
        },
    }
    url = text.replace("postgresql", "postgresql+psycopg", 1)
    for again in range(TABLES_TRIES):
        try:
            return RDBStorage(url, options)
        except (ArgumentError, ValueError):
            raise ConfigError(f"storage: {text!r} is not like {EXAMPLE}") from None
        except (IntegrityError, ProgrammingError):
            # Somebody else is making the tables of a new database at the same time.
            if again + 1 == TABLES_TRIES:
                raise
            time.sleep(RETRY_S)
        except RuntimeError as error:  # tables of another version of Optuna
            raise ConfigError(f"storage: {text}: {reason(error)}") from None
    raise AssertionError("not reached")
