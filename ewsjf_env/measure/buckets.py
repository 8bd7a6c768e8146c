"""TTFT by prompt length: who waits for whom."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ewsjf_env.measure.requests import Requests
from ewsjf_env.measure.sample import Values


@dataclass(frozen=True)
class BucketRow:
    """TTFT of the requests whose prompt length lies in (low_tokens, high_tokens]."""

    low_tokens: int
    high_tokens: int | None
    requests: int
    unserved: int
    ttft_mean_s: float
    ttft_p95_s: float
    slowdown_mean: float


def bucket_table(requests: Requests, edges_tokens: Sequence[int], end_s: float) -> list[BucketRow]:
    """TTFT by prompt length; the ages of unserved requests are censored at `end_s`.

    Args:
        requests: all that arrived before `end_s`.
        edges_tokens: ascending upper limits; a last open bucket follows.
        end_s: the moment at which unserved requests are counted with their age.
    """
    rows = []
    limits: list[int | None] = [*edges_tokens, None]
    low = 0
    for high in limits:
        inside = (requests.prompt_tokens > low) & ~requests.rejected
        if high is not None:
            inside &= requests.prompt_tokens <= high
        chosen = requests.take(inside)
        served = chosen.first_token_s < end_s
        ends_s = np.where(chosen.finish_s < end_s, chosen.finish_s, end_s)  # aborted, or still open
        ttft_s = Values(np.where(served, chosen.first_token_s, ends_s) - chosen.arrival_s)
        rows.append(
            BucketRow(
                low_tokens=low,
                high_tokens=high,
                requests=len(chosen),
                unserved=int(np.count_nonzero(~served)),
                ttft_mean_s=ttft_s.mean,
                ttft_p95_s=ttft_s.percentile(95),
                slowdown_mean=Values(ttft_s.array / chosen.cost_s).mean,
            )
        )
        low = high if high is not None else low
    return rows
