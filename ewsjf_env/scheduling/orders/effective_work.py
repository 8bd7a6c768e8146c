"""The effective work of a request, beyond the length of its prompt (+).

    w(r) = b - w_cached (b - Lu) + w_output o          in prompt tokens, at least 1

b prompt tokens, Lu those of them that the prefix cache does not hold now, o the expected output
tokens.  w_cached in [0, 1] and w_output >= 0 are parameters; at 0 a request is its length.

o is the caller's hint where there is one, else a quantile of what similar requests generated
(`expected_output`), by `output_from`; nothing known counts as 0.  Neither is cut to the caller's
limit of generated tokens: in a replayed trace that is the truth, which no policy may read.  A
hint changes the order and nothing else: it is a claim, and
a client that claims too little moves ahead (of its own tenant only, where there are tenants).

The work is asked for when a request arrives, where it chooses the queue (`route_by`), and then of
heads alone, once a step; `Entry.probe` knows itself whether the cache has changed since.  Routing
by it matters: behind a head of its own length nobody sees that a request has become cheap.  A
request whose prefix is evicted meanwhile stays in its queue and is scored by what it costs now.

Source: ALGORITHM 7 (+).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ewsjf_env.scheduling.entry import Entry
from ewsjf_env.scheduling.orders.expected_output import OutputEstimates

WorkFunction = Callable[[Entry], int]


@dataclass(frozen=True)
class EffectiveWork:
    """w(r); a callable for `ScoredOrder`.

    Attributes:
        cached_weight: w_cached in [0, 1].
        output_weight: w_output in prompt tokens per output token, >= 0.
        quantile: of the learned output, (0, 1).
        use_hints, use_learned: where the expected output may come from.
        estimates: what was learned.
    """

    cached_weight: float
    output_weight: float
    quantile: float
    use_hints: bool
    use_learned: bool
    estimates: OutputEstimates

    def __call__(self, entry: Entry) -> int:
        """Effective prompt tokens now, >= 1; without side effects on the prefix cache."""
        b = entry.prompt_tokens
        work = float(b)
        if self.cached_weight:
            work -= self.cached_weight * (b - entry.uncached_tokens)
        if self.output_weight:
            work += self.output_weight * self.expected_output(entry)
        return max(1, round(work))

    def expected_output(self, entry: Entry) -> int:
        """Output tokens; 0 where nothing is known."""
        expected = entry.output_hint if self.use_hints else None
        if expected is None and self.use_learned:
            expected = self.estimates.expected(entry.tenant, entry.prompt_tokens, self.quantile)
        return 0 if expected is None else expected
