"""The work of an engine step, read off vLLM's `SchedulerOutput` alone.

The one definition for all who count or time steps: the scheduler's cost model, the history of
requests, the virtual clock and the executor without a GPU.

    prefill   tokens of a prompt, or of a preempted request's prompt and former output, that have
              no place in the KV cache yet
    decode    a request whose known tokens are all computed: one token, and the drafts of
              speculative decoding that are checked beside it; also the single token that may be
              left of a former output

A chunk of n tokens that ends at context c attends to n (c - n/2) pairs of tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class StepWork:
    """What one step computes; `engine/simulated/latency.py` says what that costs.

    Attributes:
        prefill_tokens: tokens of prefill chunks.
        prefill_attention: sum over chunks of n (c - n/2), pairs of tokens.
        decode_requests: requests that decode.
        context_tokens: sum of their contexts after the step, tokens.
        draft_tokens: tokens that they compute beside one each: drafts.
        completed: ids of requests whose last chunk of prefill this is; they sample a token.
        unfinished: ids of requests that compute a chunk and sample no token yet.
    """

    prefill_tokens: int
    prefill_attention: float
    decode_requests: int
    context_tokens: int
    draft_tokens: int = 0
    completed: tuple[str, ...] = ()
    unfinished: tuple[str, ...] = ()

    @property
    def decode_tokens(self) -> int:
        """Tokens of decoding requests, drafts among them."""
        return self.decode_requests + self.draft_tokens


class StepFollower:
    """Follows the requests of one engine from step to step; O(new and prefilling requests) each.

    A `SchedulerOutput` names the prompt of a request in its first step only, so its length is
    kept until the request is reported finished.
    """

    def __init__(self) -> None:
        self._prompt_tokens: dict[str, int] = {}
        self._prefilling: dict[str, None] = {}  # have run and are not all computed, in that order

    def __len__(self) -> int:
        """Requests that are remembered: those that have run and are not reported finished."""
        return len(self._prompt_tokens)

    def of(self, output: Any) -> StepWork:
        """Take in the next step's `SchedulerOutput`; every step, in order."""
        prompts, prefilling = self._prompt_tokens, self._prefilling
        scheduled, cached = output.num_scheduled_tokens, output.scheduled_cached_reqs
        for request_id in output.finished_req_ids:
            prompts.pop(request_id, None)
            prefilling.pop(request_id, None)
        for request_id in output.preempted_req_ids or ():
            prefilling.pop(request_id, None)
        for request_id in cached.resumed_req_ids:
            prefilling[request_id] = None
        context_tokens = sum(cached.num_computed_tokens)
        decode_tokens = output.total_num_scheduled_tokens
        if not prefilling and not output.scheduled_new_reqs:  # the most frequent step
            requests = len(scheduled)
            return StepWork(
                0, 0.0, requests, context_tokens + decode_tokens, decode_tokens - requests
            )
        chunks: list[tuple[str, int, int]] = []  # id, tokens computed, tokens known
        for new in output.scheduled_new_reqs:
            prompt = prompts[new.req_id] = _prompt_tokens(new)
            again = getattr(new, "prefill_token_ids", None)  # some releases resume like this
            known = max(prompt, len(again)) if again else prompt
            prefilling.pop(new.req_id, None)
            chunks.append((new.req_id, new.num_computed_tokens, known))
        for request_id in prefilling:
            if request_id in scheduled:
                at = cached.req_ids.index(request_id)
                known = prompts[request_id] + cached.num_output_tokens[at]
                chunks.append((request_id, cached.num_computed_tokens[at], known))
                context_tokens -= chunks[-1][1]
        prefill_tokens = prefills = 0
        attention = 0.0
        completed: list[str] = []
        unfinished: list[str] = []
        for request_id, computed, known in chunks:
            tokens = scheduled[request_id]
            after = computed + tokens
            decodes = tokens == 1 and computed >= prompts[request_id]
            if decodes:
                context_tokens += computed
            else:
                prefills += 1
                prefill_tokens += tokens
                attention += tokens * (after - 0.5 * tokens)
            if after < known:
                prefilling[request_id] = None
                unfinished.append(request_id)
            else:
                prefilling.pop(request_id, None)
                if not decodes:
                    completed.append(request_id)
        decode_requests = len(scheduled) - prefills
        decode_tokens -= prefill_tokens
        return StepWork(
            prefill_tokens,
            attention,
            decode_requests,
            context_tokens + decode_tokens,
            decode_tokens - decode_requests,
            tuple(completed),
            tuple(unfinished),
        )


def _prompt_tokens(new: Any) -> int:
    if new.prompt_token_ids is not None:
        return len(new.prompt_token_ids)
    return int(new.prompt_embeds.shape[0])
