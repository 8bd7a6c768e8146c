"""A binary heap of request numbers in an array: smallest key first, ties to the older request.

`items[:size]` is the heap; `key[i]` is the key of request i.  Removal is lazy: whoever reads the
top drops what is no longer wanted.
"""

from __future__ import annotations

from typing import Any

from ewsjf_env.engine.compiled.kernel.compiler import inner


@inner
def before(key: Any, a: int, b: int) -> bool:
    """Whether request a goes before request b."""
    return key[a] < key[b] or (key[a] == key[b] and a < b)


@inner
def sift_up(items: Any, key: Any, position: int) -> None:
    """Move the item at `position` towards the top until its parent goes before it."""
    item = items[position]
    while position > 0:
        parent = (position - 1) >> 1
        if not before(key, item, items[parent]):
            break
        items[position] = items[parent]
        position = parent
    items[position] = item


@inner
def sift_down(items: Any, key: Any, position: int, size: int) -> None:
    """Move the item at `position` down until it goes before its children."""
    item = items[position]
    while True:
        child = 2 * position + 1
        if child >= size:
            break
        if child + 1 < size and before(key, items[child + 1], items[child]):
            child += 1
        if not before(key, items[child], item):
            break
        items[position] = items[child]
        position = child
    items[position] = item


@inner
def push(items: Any, key: Any, size: int, item: int) -> int:
    """Add an item; the new size."""
    items[size] = item
    sift_up(items, key, size)
    return size + 1


@inner
def pop(items: Any, key: Any, size: int) -> int:
    """Remove the top; the new size."""
    items[0] = items[size - 1]
    if size > 1:
        sift_down(items, key, 0, size - 1)
    return size - 1
