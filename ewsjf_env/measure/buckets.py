"""TTFT by prompt length: who waits for whom."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ewsjf_env.measure.records import RequestRecord, after, censored, mean, percentile


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


def bucket_table(
    records: Sequence[RequestRecord],
    edges_tokens: Sequence[int],
    end_s: float,
    prefill_cost_s: Callable[[int], float],
) -> list[BucketRow]:
    """TTFT by prompt length for requests that arrived before `end_s`; ages are censored there.

    Args:
        records: all requests.
        edges_tokens: ascending upper limits; a last open bucket follows.
        end_s: the moment at which unserved requests are counted with their age.
        prefill_cost_s: C(b): prompt tokens -> seconds alone on the machine, > 0.
    """
    rows = []
    limits: list[int | None] = [*edges_tokens, None]
    low = 0
    for high in limits:
        chosen = [
            r
            for r in records
            if r.arrival_s < end_s
            and r.prompt_tokens > low
            and (high is None or r.prompt_tokens <= high)
        ]
        ttft = np.array([censored(r.first_token_s, r.arrival_s, end_s) for r in chosen])
        cost = np.array([prefill_cost_s(r.prompt_tokens) for r in chosen])
        rows.append(
            BucketRow(
                low_tokens=low,
                high_tokens=high,
                requests=len(chosen),
                unserved=sum(after(r.first_token_s, end_s) for r in chosen),
                ttft_mean_s=mean(ttft),
                ttft_p95_s=percentile(ttft, 95),
                slowdown_mean=mean(ttft / cost) if chosen else math.nan,
            )
        )
        low = high if high is not None else low
    return rows
