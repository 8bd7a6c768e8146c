"""The output length to expect of a request, as finished requests tell it, without a model.

One histogram of generated tokens for each pair of tenant and length octave of the prompt
(2^(k-1) <= b < 2^k), and one for each octave over all tenants.  An octave and not a queue of the
partition, because it outlives a change of partition and a queue is seldom wider.  Any quantile
can be read off a histogram, so that the quantile can be tuned without learning anew.

Bins are a quarter of an octave wide: an estimate is right within 10 %.  Old requests fade: the
counts are halved whenever `MEMORY` requests are in.  Memory is bounded: at most `MAX_GROUPS`
histograms, of which the one that was used longest ago makes room.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from itertools import accumulate

BINS_PER_OCTAVE = 4
BINS = 96  # up to 2^24 tokens
MEMORY = 1024  # finished requests that a histogram holds before it forgets half
LEAST = 16  # finished requests before a histogram is believed
MAX_GROUPS = 1024
Group = tuple[str | None, int]  # tenant (None: all of them), octave


class OutputEstimates:
    """Quantiles of generated tokens, learned online.

    Attributes:
        observed: finished requests that were learned from.
    """

    def __init__(self) -> None:
        self.observed = 0
        self._groups: OrderedDict[Group, _Histogram] = OrderedDict()

    def observe(self, tenant: str, prompt_tokens: int, generated_tokens: int) -> None:
        """Learn from a request that finished by itself; O(1)."""
        if generated_tokens < 1:
            return
        self.observed += 1
        octave = prompt_tokens.bit_length()
        for group in ((tenant, octave), (None, octave)):
            found = self._groups.get(group)
            if found is None:
                found = self._groups[group] = _Histogram()
                if len(self._groups) > MAX_GROUPS:
                    self._groups.popitem(last=False)
            self._groups.move_to_end(group)
            found.add(generated_tokens)

    def expected(self, tenant: str, prompt_tokens: int, quantile: float) -> int | None:
        """The quantile, in (0, 1), for such a request; None while too little is known."""
        octave = prompt_tokens.bit_length()
        for group in ((tenant, octave), (None, octave)):
            found = self._groups.get(group)
            if found is not None and found.total >= LEAST:
                return found.quantile(quantile)
        return None

    def __len__(self) -> int:
        return len(self._groups)


class _Histogram:
    __slots__ = ("_counts", "_known", "total")

    def __init__(self) -> None:
        self.total = 0
        self._counts = [0] * BINS
        self._known: tuple[float, int] | None = None  # the last quantile asked for, and its value

    def add(self, tokens: int) -> None:
        if self.total >= MEMORY:
            self._counts = [count // 2 for count in self._counts]
            self.total = sum(self._counts)
        self._counts[min(BINS - 1, int(BINS_PER_OCTAVE * math.log2(tokens)))] += 1
        self.total += 1
        self._known = None

    def quantile(self, quantile: float) -> int:
        if self._known is None or self._known[0] != quantile:
            limit = quantile * self.total
            sums = accumulate(self._counts)
            bin_ = next((i for i, below in enumerate(sums) if below >= limit), BINS - 1)
            self._known = quantile, max(1, round(2.0 ** ((bin_ + 0.5) / BINS_PER_OCTAVE)))
        return self._known[1]
