"""The shape of a step: how many prompt tokens it computes, and whose.  Beyond the paper.

The order of the queue says who goes next; it cannot help a request that meets a step which is
full already.  A step with many prompt tokens is long, and whoever decodes, or has just arrived,
waits for all of it.  And a long prompt under way takes every step whole until it is done.

Notation, tokens:
    B   the engine's budget of a step      D   what decoding requests take of it
    L   what is left of the longest prompt under way
    N   in waiting prompts shorter than L/2 or so (the power of two at or below L)
    F   free in the KV cache, less what prompts under way will need and a reserve
    K   tokens in the cache that decoding requests attend to
    q   tokens that the first prompt under way has computed; 0 where there is none

With `prefill_share` s a step has room for D + ceil(s B) tokens.  With `step_s` it has room for
as many prompt tokens as make it last so long by what the cost model has learnt from steps
(`cost.StepLaw`): a share of the budget that is right on one machine, or at one budget, is wrong on
another; a time is not.  Until the model is known, the engine's budget holds.  `step_tpot` says
the time as a share of what the service level allows a token: who decodes gets one token a step.

With `yield_share` y prompts under way leave min(N, F, y s B) of the prompt tokens to shorter ones,
as long as the next in order is one of these: a request that the order puts first does not wait for
shorter ones.  Only those are admitted in such a step: a second long prompt would take cache and
wait, and so would short ones where the cache is nearly full, hence the reserve.

All at their defaults change nothing.  vLLM's own limits (`max_num_batched_tokens`,
`long_prefill_token_threshold`) are the same for every step and need a restart; these follow the
policy.  Ancestors: chunked prefill beside decodes (Sarathi-Serve, OSDI 2024), shortest remaining
work first (Schrage 1968).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ewsjf_env.measure.service import ServiceLevel
from ewsjf_env.parameters import Value, linear, log
from ewsjf_env.scheduling.cost import StepLaw

CACHE_RESERVE = 0.3  # of the KV cache; with 0.1 and 0 yielding cost more than it gave in overload
NO_STEP_LIMIT_S = 10.0  # and more: steps may last as long as they do
LEAST_PREFILL_TOKENS = 64  # in a step, however long it lasts already: prompts always go on
PREFILL_GRAIN_TOKENS = 16  # prompt tokens of a step by time are a multiple of this
STEP_PARAMETERS = (
    log(
        "prefill_share",
        1.0,
        low=0.05,
        high=1.0,
        named=True,
        generation=3,
        description="most prompt tokens a step, as a share of the engine's token budget",
    ),
    linear(
        "yield_share",
        0.0,
        low=0.0,
        high=0.95,
        named=True,
        generation=3,
        description="most that a long prompt under way leaves of these to shorter waiting ones",
    ),
    log(
        "step_s",
        NO_STEP_LIMIT_S,
        low=0.005,
        high=NO_STEP_LIMIT_S,
        unit="s",
        named=True,
        generation=4,
        description="most seconds that a step with prompt tokens may take, as foretold; 10: any",
    ),
    linear(
        "step_tpot",
        0.0,
        low=0.0,
        high=2.0,
        named=True,
        generation=4,
        description="the same as a share of the service level's TPOT limit; 0: any",
    ),
)


@dataclass(frozen=True)
class StepSettings:
    """s in (0, 1], y in [0, 1) and seconds > 0, see the module."""

    prefill_share: float = 1.0
    yield_share: float = 0.0
    step_s: float = NO_STEP_LIMIT_S

    @classmethod
    def of(cls, values: Mapping[str, Value], level: ServiceLevel | None = None) -> StepSettings:
        """From the parameters of a policy, and what requests are promised."""
        share, given, step_s = (
            float(values[name]) for name in ("prefill_share", "yield_share", "step_s")
        )
        of_level = float(values["step_tpot"])
        if level is not None and of_level > 0.0:
            step_s = min(step_s, of_level * level.tpot_s)
        return cls(share, given, step_s)

    @property
    def off(self) -> bool:
        """Whether steps stay as the engine makes them."""
        return self.prefill_share >= 1.0 and self.yield_share <= 0.0 and not self.timed

    @property
    def timed(self) -> bool:
        """Whether steps are limited by time."""
        return self.step_s < NO_STEP_LIMIT_S

    def budget_tokens(
        self,
        engine_tokens: int,
        decode_tokens: int,
        law: StepLaw | None = None,
        context_tokens: int = 0,
        begun_tokens: int = 0,
    ) -> int:
        """Budget of a step: D + ceil(s B), or less by time, never above B.

        Args:
            engine_tokens: B >= 1.
            decode_tokens: D >= 0.
            law: of step times; None: not known yet.
            context_tokens: K >= 0.
            begun_tokens: q >= 0.
        """
        prefill = math.ceil(self.prefill_share * engine_tokens)
        if law is not None and self.timed:
            found = law.prefill_tokens(self.step_s, decode_tokens, context_tokens, begun_tokens)
            # A number that is no count of tokens is more than any budget.
            grains = int(min(found, engine_tokens) / PREFILL_GRAIN_TOKENS)
            prefill = min(prefill, max(LEAST_PREFILL_TOKENS, grains * PREFILL_GRAIN_TOKENS))
        return min(engine_tokens, decode_tokens + prefill)


@dataclass(frozen=True)
class StepLoad:
    """What a step finds.

    Attributes:
        budget_tokens: of this step, with what decodes.
        decode_tokens: D.
        longest_left_tokens: L; 0 when no prompt is under way.
        left_tokens: of all prompts under way.
        free_tokens: free in the KV cache, all of it.
        cache_tokens: size of the KV cache.
    """

    budget_tokens: int
    decode_tokens: int
    longest_left_tokens: int
    left_tokens: int
    free_tokens: int
    cache_tokens: int


@dataclass(frozen=True)
class StepShape:
    """How a step is cut.

    Attributes:
        chunk_tokens: most tokens of one prompt; 0 is no limit.
        shorter_than: only prompts of fewer tokens are admitted; 0 admits all.
    """

    chunk_tokens: int = 0
    shorter_than: int = 0


WHOLE = StepShape()


def shape_step(
    settings: StepSettings,
    load: StepLoad,
    waiting_below: Callable[[int], int],
    head_tokens: Callable[[], int],
) -> StepShape:
    """Cut a step.

    Args:
        settings: of the policy.
        load: what the step finds.
        waiting_below: power of two -> N, tokens of waiting prompts that are shorter.
        head_tokens: tokens of the next request in order, asked only when it matters.
    """
    if settings.yield_share <= 0.0 or load.longest_left_tokens < 2:
        return WHOLE
    limit = 1 << (load.longest_left_tokens.bit_length() - 1)
    room = load.budget_tokens - load.decode_tokens
    spare = load.free_tokens - load.left_tokens - int(CACHE_RESERVE * load.cache_tokens)
    lent = min(waiting_below(limit), spare, int(settings.yield_share * room))
    if lent <= 0 or head_tokens() >= limit:
        return WHOLE
    return StepShape(chunk_tokens=max(1, room - lent), shorter_than=limit)


class WaitingTokens:
    """Tokens of the prompts that wait, by size: O(1) a change, O(1) a question."""

    def __init__(self) -> None:
        self._by_bits = [0] * 64

    def add(self, prompt_tokens: int) -> None:
        """One more waits."""
        self._by_bits[prompt_tokens.bit_length()] += prompt_tokens

    def remove(self, prompt_tokens: int) -> None:
        """One that was added waits no longer."""
        self._by_bits[prompt_tokens.bit_length()] -= prompt_tokens

    def below(self, limit: int) -> int:
        """Tokens of all prompts that are shorter than a power of two."""
        return sum(self._by_bits[: limit.bit_length()])
