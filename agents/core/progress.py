"""Progress of many independent pieces of work, as their results come in."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from tqdm import tqdm

Progress = Callable[[Iterable[Any], int], Iterator[Any]]
"""Hands on what comes in, and shows it; the number is how much will come."""


def bar(unit: str, title: str | None = None) -> Progress:
    """A bar on standard error.

    Args:
        unit: what is counted, in the singular.
        title: stands before the bar.
    """

    def shown(results: Iterable[Any], total: int) -> Iterator[Any]:
        yield from tqdm(results, total=total, unit=unit, desc=title, mininterval=1.0)

    return shown


def silent(results: Iterable[Any], total: int) -> Iterator[Any]:
    """Shows nothing."""
    yield from results
