"""Words for numbers of things."""

from __future__ import annotations


def counted(number: int, thing: str) -> str:
    """`1 window`, `2 windows`; for things whose plural ends in s."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"
