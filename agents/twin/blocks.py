"""Blocks: recorded windows as requests that a twin can serve.

* The windows of an episode that follow each other make one *block*, up to so many of them; it is
  served from an empty engine, as an episode is.
* A request that had not finished when its window was recorded has generated at least so many
  tokens.  How many more is drawn: the output of a finished request of about its prompt length
  that generated more; where there is none, what it has.  The next windows tell the truth.
* Few windows tell a twin too much of themselves: the policy that happens to be best on them is
  not the best on the next ones.  So it also serves traffic that is *drawn* from them: arrivals in
  pieces of some seconds, which keeps their bursts, each with lengths of any recorded request.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from bisect import bisect_left, insort
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from agents.core.requests import RecordedTraffic
from ewsjf_env.measure.records import RequestRecord
from ewsjf_env.parameters import Value
from ewsjf_env.workload.trace import BLOCK_TOKENS, Trace, blocks_of

NEIGHBOURS = 32  # finished requests nearest in prompt length, of which an output is drawn
PIECE_S = 10.0  # of arrivals, in drawn traffic
_SHARED_ID, _FIRST_OWN_ID = 1, 1 << 20  # prefix blocks
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class BlockWindow:
    """One window of a block, in seconds from the block's start.

    Attributes:
        number: of the window in the run; below 0 in drawn traffic.
        since_s: its record begins.
        switch_s: its values come into force.
        start_s, end_s: what is measured.
        until_s: its record ends.
        fallback: values in force from `end_s` on; None: they stay.
    """

    number: int
    since_s: float
    switch_s: float
    start_s: float
    end_s: float
    until_s: float
    fallback: Mapping[str, Value] | None = None


@dataclass(frozen=True)
class Block:
    """Requests that are served together, and the windows they are measured in."""

    trace: Trace
    windows: tuple[BlockWindow, ...]

    @property
    def seconds(self) -> float:
        """How long it takes to serve, in engine seconds."""
        return self.windows[-1].until_s

    @cached_property
    def key(self) -> str:
        """Hash of requests and windows."""
        layout = [
            (
                w.since_s,
                w.switch_s,
                w.start_s,
                w.end_s,
                w.until_s,
                sorted((w.fallback or {}).items()),
            )
            for w in self.windows
        ]
        text = self.trace.digest() + repr(layout)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def first(self, count: int) -> Block:
        """The same requests, measured in the first windows alone."""
        return Block(self.trace, self.windows[:count])


@dataclass(frozen=True)
class Fit:
    """Latencies of some requests, to compare twin and machine by; NaN where there is none.

    Attributes:
        ttft_s: mean time to first token, those without one by their age.
        tpot_s: mean time per output token of the finished ones.
    """

    ttft_s: float
    tpot_s: float


@dataclass(frozen=True)
class Segment:
    """One recorded window with outputs for all of its requests.

    Attributes:
        number: of the window in the run.
        recorded: as it was measured.
        output_tokens: (n,) >= 1.
        counts: policies can be judged by it; else it is only traffic.
        position: how many windows of the same episode came before it, without a gap.
    """

    number: int
    recorded: RecordedTraffic
    output_tokens: tuple[int, ...]
    counts: bool
    position: int

    @property
    def fit(self) -> Fit:
        """Latencies as measured."""
        r = self.recorded
        rows = [
            RequestRecord(
                str(i),
                r.arrival_s[i],
                r.prompt_tokens[i],
                0,
                generated_tokens=r.generated_tokens[i],
                first_token_s=_moment(r.arrival_s[i], r.ttft_s[i]),
                finish_s=_moment(r.arrival_s[i], r.e2e_s[i]),
            )
            for i in range(len(r))
        ]
        return own_latencies(rows, r.since_s, r.until_s)


def own_latencies(records: Sequence[RequestRecord], since_s: float, until_s: float) -> Fit:
    """Of the requests that arrived in [since_s, until_s), as they stand at `until_s`."""
    own = [r for r in records if since_s <= r.arrival_s < until_s]
    ttft = [min(until_s, _or(r.first_token_s, until_s)) - r.arrival_s for r in own]
    tpot = [
        (r.finish_s - r.first_token_s) / (r.generated_tokens - 1)
        for r in own
        if r.finish_s is not None
        and r.first_token_s is not None
        and r.finish_s < until_s
        and r.generated_tokens > 1
    ]
    return Fit(
        float(np.mean(ttft)) if ttft else math.nan, float(np.mean(tpot)) if tpot else math.nan
    )


def complete(
    recorded: RecordedTraffic, past: Sequence[Segment], seed: Sequence[int]
) -> tuple[int, ...]:
    """Output tokens, (n,), of all requests; what is not known yet is drawn.

    Args:
        recorded: the window.
        past: windows before it, whose finished requests are drawn from as well.
        seed: of the draws.
    """
    random = np.random.default_rng(list(seed))
    done: list[tuple[int, int]] = []
    for record in (*(s.recorded for s in past), recorded):
        for prompt, output, e2e in zip(
            record.prompt_tokens, record.generated_tokens, record.e2e_s, strict=True
        ):
            if e2e is not None:
                insort(done, (prompt, output))
    outputs = []
    for prompt, generated, e2e in zip(
        recorded.prompt_tokens, recorded.generated_tokens, recorded.e2e_s, strict=True
    ):
        if e2e is None:
            longer = [pair for pair in done if pair[1] > generated]
            at = bisect_left(longer, (prompt, 0))
            near = longer[max(0, at - NEIGHBOURS // 2) : at + NEIGHBOURS // 2]
            if near:
                generated = near[int(random.integers(len(near)))][1]
        outputs.append(max(1, generated))
    return tuple(outputs)


def learn_late(segments: Sequence[Segment], recorded: RecordedTraffic) -> list[Segment]:
    """The windows before, of the same episode, with outputs that have become known since."""
    known = {index: (generated, done) for index, generated, done in recorded.late}
    found = []
    for segment in segments:
        outputs = list(segment.output_tokens)
        for i, drawn in enumerate(outputs):
            generated, done = known.get(segment.recorded.first + i, (0, False))
            outputs[i] = max(1, generated) if done else max(drawn, generated)
        found.append(dataclasses.replace(segment, output_tokens=tuple(outputs)))
    return found


def recorded_block(segments: Sequence[Segment], settle_s: float, prefixes: bool) -> Block:
    """The block of windows that follow each other.

    Args:
        segments: at least one, without a gap.
        settle_s: between a change of values and its window, as in the task.
        prefixes: requests bring the prefixes that were found in the cache.
    """
    origin = segments[0].recorded.since_s
    windows = []
    for segment in segments:
        r = segment.recorded
        switch_s = max(r.since_s, r.start_s - settle_s) - origin
        windows.append(
            BlockWindow(
                segment.number,
                r.since_s - origin,
                switch_s,
                r.start_s - origin,
                r.end_s - origin,
                r.until_s - origin,
                r.fallback,
            )
        )
    arrival = np.concatenate([s.recorded.arrival_s for s in segments]) - origin
    prompt = np.concatenate([np.array(s.recorded.prompt_tokens, np.int64) for s in segments])
    cached = np.concatenate([np.array(s.recorded.cached_tokens, np.int64) for s in segments])
    output = np.concatenate([np.array(s.output_tokens, np.int64) for s in segments])
    return Block(_trace("recorded", arrival, prompt, output, cached, prefixes), tuple(windows))


def drawn_block(
    segments: Sequence[Segment],
    layout: Sequence[BlockWindow],
    seed: Sequence[int],
    prefixes: bool,
) -> Block:
    """Traffic like that of the segments, which need not follow each other.

    Args:
        segments: at least one, with a request at least.
        layout: windows of the block.
        seed: of the draws.
        prefixes: see `recorded_block`.
    """
    random = np.random.default_rng(list(seed))
    pieces: list[NDArray[np.float64]] = []
    for segment in segments:
        r = segment.recorded
        moments = np.array(r.arrival_s) - r.since_s
        count = max(1, int((r.until_s - r.since_s) / PIECE_S))
        width = (r.until_s - r.since_s) / count
        index = np.minimum((moments / width).astype(int), count - 1)
        pieces += [(moments[index == i] - i * width) * (PIECE_S / width) for i in range(count)]
    end_s = layout[-1].until_s
    arrivals = []
    for start in range(math.ceil(end_s / PIECE_S)):
        arrivals.append(pieces[int(random.integers(len(pieces)))] + start * PIECE_S)
    arrival = np.concatenate(arrivals)
    arrival = arrival[arrival < end_s]
    columns = [
        np.concatenate([np.array(getattr(s.recorded, name), np.int64) for s in segments])
        for name in ("prompt_tokens", "cached_tokens")
    ]
    output = np.concatenate([np.array(s.output_tokens, np.int64) for s in segments])
    rows = random.integers(len(output), size=len(arrival))
    trace = _trace("drawn", arrival, columns[0][rows], output[rows], columns[1][rows], prefixes)
    return Block(trace, tuple(layout))


def _trace(
    name: str,
    arrival_s: NDArray[np.float64],
    prompt: Ints,
    output: Ints,
    cached: Ints,
    prefixes: bool,
) -> Trace:
    blocks = None
    if prefixes:
        blocks = tuple(
            _block_ids(i, int(b), int(c))
            for i, (b, c) in enumerate(zip(prompt, cached, strict=True))
        )
    return Trace(name, np.maximum(arrival_s, 0.0), prompt, output, block_ids=blocks)


def _block_ids(row: int, prompt: int, cached: int) -> tuple[int, ...]:
    """One chain of blocks for all that was cached: who shared what with whom is not recorded."""
    shared, total = min(cached, prompt) // BLOCK_TOKENS, blocks_of(prompt)
    own = _FIRST_OWN_ID + 1024 * row
    return tuple(_SHARED_ID + i if i < shared else own + i for i in range(total))


def _moment(arrival_s: float, after_s: float | None) -> float | None:
    return None if after_s is None else arrival_s + after_s


def _or(value: float | None, other: float) -> float:
    return other if value is None else value
