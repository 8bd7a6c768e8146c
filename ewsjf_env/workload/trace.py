"""A drawn trace, and the promise of every workload that draws one.

A trace is fixed before a run starts, so that every policy meets the same requests.  Three
random streams are kept apart (`streams`): arrivals, lengths and noise.  Changing one of them,
or how much one of them consumes, leaves the other two as they were.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ewsjf_env.config import ConfigError, check_range

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
BlockIds = tuple[tuple[int, ...], ...]

BLOCK_TOKENS = 512
"""Prompt tokens that one prefix block id stands for (the unit of Mooncake's `hash_ids`)."""

MAX_TOKENS = 10_000_000
"""Largest believable token count of one request; more is a damaged file or a typing error."""

MAX_REQUESTS = 20_000_000
"""Largest number of requests drawn at once (about 0.5 GB of arrays)."""


@dataclass(frozen=True, eq=False)
class Trace:
    """The requests of one run, in order of arrival; n = `len(trace)`.

    Attributes:
        name: the workload it was drawn from.
        arrival_s: float64 (n,), seconds from the start of the run, ascending, >= 0.
        prompt_tokens: int64 (n,), in [1, MAX_TOKENS].
        output_tokens: int64 (n,), in [1, MAX_TOKENS].
        priority: int64 (n,), lower is more urgent (vLLM's meaning), or None.
        block_ids: per request one id for every `BLOCK_TOKENS` prompt tokens, the last block
            possibly partial; equal leading ids mean a shared, reusable prefix.  Or None.
        notes: what was done to the source: `time_stretch`, `capped_prompts`, rates.

    The arrays are made read-only: policies compared on a trace cannot change it.

    Raises:
        ConfigError: shapes differ, times descend or a value is out of range.
    """

    name: str
    arrival_s: Floats
    prompt_tokens: Ints
    output_tokens: Ints
    priority: Ints | None = None
    block_ids: BlockIds | None = None
    notes: Mapping[str, float | int | str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _freeze(self, "arrival_s", np.float64)
        _freeze(self, "prompt_tokens", np.int64)
        _freeze(self, "output_tokens", np.int64)
        if self.priority is not None:
            _freeze(self, "priority", np.int64)
        self._check()

    def __len__(self) -> int:
        return len(self.arrival_s)

    def __eq__(self, other: object) -> bool:
        """Same requests under the same name; notes are not compared."""
        if not isinstance(other, Trace):
            return NotImplemented
        return self.name == other.name and self.digest() == other.digest()

    __hash__ = None  # type: ignore[assignment]

    def digest(self) -> str:
        """Hexadecimal hash of the requests (not of name and notes): equal only if identical."""
        content = hashlib.sha256()
        for array in (self.arrival_s, self.prompt_tokens, self.output_tokens, self.priority):
            content.update(b"none" if array is None else array.tobytes())
        content.update(repr(self.block_ids).encode())
        return content.hexdigest()[:16]

    def _check(self) -> None:
        n = len(self.arrival_s)
        for name in ("prompt_tokens", "output_tokens", "priority", "block_ids"):
            column = getattr(self, name)
            if column is not None and len(column) != n:
                raise ConfigError(f"{name}: {len(column)} values for {n} arrivals")
        first_bad = first_true(~np.isfinite(self.arrival_s) | (self.arrival_s < 0))
        if first_bad is not None:
            value = float(self.arrival_s[first_bad])
            raise ConfigError(f"arrival_s[{first_bad}]: {value!r} is outside [0, inf)")
        first_bad = first_true(np.diff(self.arrival_s) < 0)
        if first_bad is not None:
            before, after = self.arrival_s[first_bad : first_bad + 2].tolist()
            raise ConfigError(f"arrival_s[{first_bad + 1}]: {after!r} is before {before!r}")
        for name in ("prompt_tokens", "output_tokens"):
            column = getattr(self, name)
            first_bad = first_true((column < 1) | (column > MAX_TOKENS))
            if first_bad is not None:
                value = int(column[first_bad])
                raise ConfigError(f"{name}[{first_bad}]: {value} is outside [1, {MAX_TOKENS}]")
        for i, ids in enumerate(self.block_ids or ()):
            blocks = blocks_of(int(self.prompt_tokens[i]))
            if len(ids) != blocks:
                raise ConfigError(
                    f"block_ids[{i}]: {len(ids)} ids, expected {blocks} for "
                    f"{self.prompt_tokens[i]} prompt tokens ({BLOCK_TOKENS} per id)"
                )


@runtime_checkable
class Workload(Protocol):
    """A source of traces.  The same arguments always give the same trace, to the bit.

    `draw` returns the arrivals of [0, duration_s) at the mean rate `rate_per_s` (None: the
    workload's own).  `draw_backlog` returns `count` requests of the same length mix that all
    arrive at 0, to measure capacity.  Prompts above `max_prompt_tokens` are capped, and
    counted in `notes["capped_prompts"]`.  Both raise ConfigError for arguments out of range.
    """

    @property
    def name(self) -> str:
        """What the workload is called in results."""

    def draw(
        self,
        seed: int,
        duration_s: float,
        rate_per_s: float | None = None,
        max_prompt_tokens: int | None = None,
    ) -> Trace:
        """Requests arriving in [0, duration_s)."""

    def draw_backlog(self, seed: int, count: int, max_prompt_tokens: int | None = None) -> Trace:
        """`count` requests that all arrive at 0."""


class Streams(NamedTuple):
    """The three independent random streams of one draw."""

    arrivals: np.random.Generator
    lengths: np.random.Generator
    noise: np.random.Generator


def streams(seed: int) -> Streams:
    """Independent generators for arrivals, lengths and noise, all from one seed >= 0."""
    children = np.random.SeedSequence(seed).spawn(3)
    return Streams(*(np.random.default_rng(child) for child in children))


def check_draw(seed: int, max_prompt_tokens: int | None, **ranges: float | None) -> None:
    """Refuse arguments of a draw that have no meaning; `ranges` must be > 0 where not None.

    Raises:
        ConfigError: naming the argument, its value and the allowed range.
    """
    for name, whole in (("seed", seed), ("max_prompt_tokens", max_prompt_tokens)):
        if whole is not None and (
            isinstance(whole, bool) or not isinstance(whole, (int, np.integer))
        ):
            raise ConfigError(f"{name}: expected a whole number, got {whole!r}")
    check_range("seed", seed, 0)
    if max_prompt_tokens is not None:
        check_range("max_prompt_tokens", max_prompt_tokens, 1)
    for name, value in ranges.items():
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, (int, float, np.number)):
            raise ConfigError(f"{name}: expected a number, got {value!r}")
        check_range(name, value, 0, low_open=True)


def check_count(count: float, what: str) -> None:
    """Refuse draws of more than MAX_REQUESTS requests before memory runs out."""
    if not count <= MAX_REQUESTS:
        raise ConfigError(f"{what}: {count:.3g} requests are more than {MAX_REQUESTS}")


def smaller_cap(first: int | None, second: int | None) -> int | None:
    """The stricter of two prompt limits, None where there is none."""
    limits = [limit for limit in (first, second) if limit is not None]
    return min(limits, default=None)


def cap_prompts(
    prompt_tokens: Ints, block_ids: BlockIds | None, max_prompt_tokens: int | None
) -> tuple[Ints, BlockIds | None, dict[str, Any]]:
    """Shorten prompts to the limit, with their prefix blocks, and count what was shortened.

    Returns:
        prompt tokens, block ids cut to ceil(limit / BLOCK_TOKENS), and the notes to keep.
    """
    if max_prompt_tokens is None:
        return prompt_tokens, block_ids, {"capped_prompts": 0}
    capped = np.minimum(prompt_tokens, max_prompt_tokens)
    if block_ids is not None:
        blocks = blocks_of(max_prompt_tokens)
        block_ids = tuple(ids[:blocks] for ids in block_ids)
    count = int((prompt_tokens > max_prompt_tokens).sum())
    return capped, block_ids, {"capped_prompts": count, "max_prompt_tokens": max_prompt_tokens}


def blocks_of(prompt_tokens: int) -> int:
    """Number of prefix blocks that cover a prompt: ceil(tokens / BLOCK_TOKENS)."""
    return -(-prompt_tokens // BLOCK_TOKENS)


def first_true(mask: NDArray[np.bool_]) -> int | None:
    """Index of the first True, or None."""
    return int(mask.argmax()) if mask.any() else None


def _freeze(trace: Trace, name: str, dtype: type[np.generic]) -> None:
    array = np.array(getattr(trace, name), dtype=dtype)
    if array.ndim != 1:
        raise ConfigError(f"{name}: expected one dimension, got shape {array.shape}")
    array.setflags(write=False)
    object.__setattr__(trace, name, array)
