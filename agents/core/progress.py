"""Progress on standard error: a bar in a terminal, else a plain line now and then.

A bar is drawn over itself with carriage returns.  In a file, or in the log of a service, that is
one endless line, hence the lines.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from tqdm import tqdm

LINE_EVERY_S = 30.0
LINE = "{desc}{percentage:.0f}% {n:.0f}/{total:.0f} {unit} [{elapsed}<{remaining}]{postfix}"

Progress = Callable[[Iterable[Any], int], Iterator[Any]]
"""Hands on what comes in, and shows it; the number is how much will come."""


def meter(**options: Any) -> tqdm[Any]:
    """A bar of tqdm's by its own options, or what writes lines where nobody watches."""
    if sys.stderr is not None and sys.stderr.isatty():
        return tqdm(**options)
    return Lines(**{**options, "bar_format": LINE})


class Lines(tqdm):  # type: ignore[type-arg]
    """What a bar tells as lines: one every `LINE_EVERY_S` seconds at most, and a last one."""

    monitor_interval = 0  # no thread of tqdm's, which draws a bar that has stood still

    def __init__(self, *values: Any, clock: Callable[[], float] = time.monotonic, **named: Any):
        """See tqdm; `clock` in seconds."""
        self._clock = clock
        self._told_s = clock()
        super().__init__(*values, **named)

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Write a line if the last one is long ago."""
        if self._clock() - self._told_s >= LINE_EVERY_S:
            self._tell()

    def close(self) -> None:
        """Write the last line; may be called more than once."""
        if not self.disable:
            self.disable = True
            self._tell()

    def _tell(self) -> None:
        self._told_s = self._clock()
        self.fp.write(f"{self}\n")
        self.fp.flush()


def bar(unit: str, title: str | None = None) -> Progress:
    """A bar, or lines, on standard error.

    Args:
        unit: what is counted, in the singular.
        title: stands before the bar.
    """

    def shown(results: Iterable[Any], total: int) -> Iterator[Any]:
        desc = f"{title}: " if title else None
        yield from meter(iterable=results, total=total, unit=unit, desc=desc, mininterval=1.0)

    return shown


def silent(results: Iterable[Any], total: int) -> Iterator[Any]:
    """Shows nothing."""
    yield from results
