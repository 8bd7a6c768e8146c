"""The memory of a twin: windows that it remembers, and the blocks that candidates are judged by.

The newest windows with the values that were in force, in the order in which they were served.
Candidates are judged by blocks of them, and by traffic that is drawn from them, see `traffic`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from agents.core.requests import RecordedTraffic
from agents.twin.blocks import (
    Block,
    BlockWindow,
    Segment,
    complete,
    drawn_block,
    learn_late,
    recorded_block,
)
from agents.twin.config import TwinConfig
from agents.twin.replay import Values
from ewsjf_env.env.task import Task

HISTORY_WINDOWS = 6  # replayed to say what a window inherited from those before it
_DRAW_AGAIN_RATIO = 3  # of windows over those that drawn traffic was made of: it is drawn anew
Past = Sequence[tuple[Segment, Values]]
"""Windows and the values that were in force in them, oldest first."""


class Memory:
    """See the module.

    Args:
        task: what is tuned, as the twin serves it.
        config: of the twin.
        seed: of what is drawn, >= 0.

    Attributes:
        counted: how many windows there have been by which policies can be judged.
    """

    def __init__(self, task: Task, config: TwinConfig, seed: int) -> None:
        self._task, self._config, self._seed = task, config, seed
        self.counted = 0
        self._past: list[tuple[Segment, Values]] = []
        self._position, self._until_s = 0, math.nan
        self._drawn: list[Block] = []
        self._drawn_of, self._drawn_at = 0, 0

    @property
    def newest(self) -> Segment:
        """The last window; there has to be one."""
        return self._past[-1][0]

    def add(
        self,
        number: int,
        recorded: RecordedTraffic,
        values: Values,
        *,
        counts: bool,
        shifted: bool,
        ended: bool,
    ) -> Segment:
        """Take a window in, see `Twin.add`; what has become known of older ones is learnt."""
        follows = self._position > 0 and abs(recorded.since_s - self._until_s) < 1e-6
        position = self._position if follows else 0
        if follows:
            self._learn_late(position, recorded)
        outputs = complete(recorded, [s for s, _ in self._past], (self._seed, 1, number))
        segment = Segment(number, recorded, outputs, counts and len(recorded) > 0, position)
        if shifted:
            self._past = [(dataclasses.replace(s, counts=False), v) for s, v in self._past]
            self._drawn, self._drawn_of = [], 0
        self._past = [*self._past, (segment, values)]
        self._past = self._past[-(self._config.recorded_windows + HISTORY_WINDOWS) :]
        self._position, self._until_s = (0, math.nan) if ended else (position + 1, recorded.until_s)
        self.counted += segment.counts
        return segment

    def history(self) -> Past:
        """The newest window and those before it that it may have inherited a queue from."""
        length = min(self.newest.position + 1, HISTORY_WINDOWS, len(self._past))
        return self._past[-length:]

    def blocks(self) -> list[Block]:
        """What candidates are judged by: drawn traffic and recorded windows in turns."""
        newest = [s for s, _ in self._past[-self._config.recorded_windows :]]
        counted = [s for s in newest if s.counts]
        if not counted:
            return []
        groups: dict[tuple[int, int], list[Segment]] = {}
        for s in newest:
            group = (s.number - s.position, s.position // self._config.block_windows)
            groups.setdefault(group, []).append(s)
        recorded = [self.block(g) for g in reversed(groups.values()) if any(s.counts for s in g)]
        grown = len(counted) >= _DRAW_AGAIN_RATIO * self._drawn_of
        if grown or self.counted - self._drawn_at >= self._config.recorded_windows:
            self._drawn_of, self._drawn_at = len(counted), self.counted
            self._drawn = self._draw(counted)
        order: list[Block] = []
        for k in range(max(len(recorded), len(self._drawn))):
            order += [*self._drawn[k : k + 1], *recorded[k : k + 1]]
        return order

    def block(self, segments: Sequence[Segment]) -> Block:
        """Windows that follow each other, to be served from an empty engine."""
        return recorded_block(segments, self._task.settle_s, self._prefixes)

    def _learn_late(self, position: int, recorded: RecordedTraffic) -> None:
        """What has become known of requests of the windows before."""
        own = [(s, v) for s, v in self._past[-position:] if s.position < position]
        learnt = learn_late([s for s, _ in own], recorded)
        self._past[-len(own) :] = [(s, v) for s, (_, v) in zip(learnt, own, strict=True)]

    def _draw(self, segments: Sequence[Segment]) -> list[Block]:
        """Blocks of traffic like that of the segments, laid out as an episode begins."""
        task, windows, edge = self._task, [], 0.0
        for i in range(min(self._config.block_windows, task.windows)):
            switch = edge + (task.warmup_s if i == 0 else 0.0)
            start = switch + task.settle_s
            end = start + task.window_s
            windows.append(BlockWindow(-1 - i, edge, switch, start, end, end))
            edge = end
        drawn = [
            drawn_block(segments, windows, (self._seed, 2, segments[-1].number, k), self._prefixes)
            for k in range(self._config.drawn_blocks)
        ]
        return [block for block in drawn if len(block.trace)]

    @property
    def _prefixes(self) -> bool:
        return self._task.has_model and self._task.simulated.prefix_caching
