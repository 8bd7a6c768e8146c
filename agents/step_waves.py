"""Which requests make an engine run steps of every kind, so that their times can be told apart?

Waves of equal requests that all arrive at once, each served to its end: first steps of prefill
alone, then of decoding alone, at many batch sizes and contexts.  The last wave arrives bit by bit
and mixes both.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ewsjf_env.workload.trace import Trace

OUTPUT_TOKENS = 32
# (requests, prompt tokens); a share of the grid of both, as contexts grow with either.
GRID = (
    (1, 64),
    (1, 512),
    (1, 4000),
    (4, 1000),
    (8, 3000),
    (16, 128),
    (32, 256),
    (32, 1500),
    (64, 1000),
    (128, 128),
    (128, 600),
    (256, 64),
    (256, 256),
)
MIXED_REQUESTS, MIXED_GAP_S = 100, 0.04


@dataclass(frozen=True)
class Limits:
    """Of the engine: nothing larger is sent.

    Attributes:
        requests: most of a wave, >= 1.
        prompt_tokens: longest prompt, >= 64.
    """

    requests: int = 256
    prompt_tokens: int = 4000


def waves(limits: Limits, seed: int = 0) -> Iterator[Trace]:
    """The waves, smallest first, as traces."""
    done = set()
    for count, prompt in GRID:
        wave = min(count, limits.requests), min(prompt, limits.prompt_tokens)
        if wave not in done:
            done.add(wave)
            yield _trace(np.zeros(wave[0]), np.full(wave[0], wave[1]), OUTPUT_TOKENS)
    random = np.random.default_rng(seed)
    count = min(MIXED_REQUESTS, 4 * limits.requests)
    longest = min(3000, limits.prompt_tokens)
    prompts = np.exp(random.uniform(np.log(32), np.log(longest), count)).astype(int)
    yield _trace(MIXED_GAP_S * np.arange(count), prompts, OUTPUT_TOKENS)


def _trace(arrival_s: np.ndarray, prompts: np.ndarray, outputs: int) -> Trace:
    return Trace(
        name="steps",
        arrival_s=arrival_s,
        prompt_tokens=prompts,
        output_tokens=np.full(len(prompts), outputs),
    )
