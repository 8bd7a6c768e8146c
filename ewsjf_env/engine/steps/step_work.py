"""What does a step compute, seen from vLLM's `SchedulerOutput` alone?

An executor is told which requests run and how many tokens of each, not the requests themselves.
`StepWork` keeps the little that must be remembered of a request from its first step on (the
length of its prompt) and tells for each step what a `LatencyModel` asks for and which requests
sample a token.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Work:
    """One step.

    Attributes:
        prefill_tokens, decode_requests, context_tokens, prefill_attention: as in `latency.py`.
        request_ids: the scheduled requests, in vLLM's order.
        positions: of each, the position of the token it samples; -1 while its prefill lasts.
    """

    prefill_tokens: int
    decode_requests: int
    context_tokens: int
    prefill_attention: float
    request_ids: list[str]
    positions: list[int]


class StepWork:
    """Follows the requests of one engine from step to step."""

    def __init__(self) -> None:
        self._prompt_tokens: dict[str, int] = {}

    def __len__(self) -> int:
        """Requests that are remembered: those that have run and are not reported finished."""
        return len(self._prompt_tokens)

    def of(self, output: Any) -> Work:
        """Take in the next step's `SchedulerOutput`.

        A token is sampled when all that is known of a request has been computed: its prompt, and
        after a preemption its former output as well.
        """
        prompts = self._prompt_tokens
        for request_id in output.finished_req_ids:
            prompts.pop(request_id, None)
        before: dict[str, tuple[int, int]] = {}  # tokens computed, tokens known
        for new in output.scheduled_new_reqs:
            prompt = _prompt_tokens(new)
            prompts[new.req_id] = prompt
            again = getattr(new, "prefill_token_ids", None)
            known = max(prompt, len(again)) if again else prompt
            before[new.req_id] = (new.num_computed_tokens, known)
        cached = output.scheduled_cached_reqs
        for request_id, computed, generated in zip(
            cached.req_ids, cached.num_computed_tokens, cached.num_output_tokens, strict=True
        ):
            before[request_id] = (computed, prompts[request_id] + generated)
        prefill_tokens = decode_requests = context_tokens = 0
        attention = 0.0
        positions: list[int] = []
        for request_id, tokens in output.num_scheduled_tokens.items():
            computed, known = before[request_id]
            after = computed + tokens
            if tokens == 1 and computed >= prompts[request_id]:
                decode_requests += 1
                context_tokens += after
            else:
                prefill_tokens += tokens
                attention += tokens * (after - 0.5 * tokens)
            positions.append(after if after >= known else -1)
        return Work(
            prefill_tokens=prefill_tokens,
            decode_requests=decode_requests,
            context_tokens=context_tokens,
            prefill_attention=attention,
            request_ids=list(output.num_scheduled_tokens),
            positions=positions,
        )


def _prompt_tokens(new: Any) -> int:
    if new.prompt_token_ids is not None:
        return len(new.prompt_token_ids)
    return int(new.prompt_embeds.shape[0])
