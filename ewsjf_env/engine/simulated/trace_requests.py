"""vLLM requests made of the rows of a trace.

Only lengths and shared prefixes matter to a scheduler, so token ids carry nothing else: without
prefix caching every token is the same, with it a token names the prefix block it lies in, or
the request itself where no block is shared.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ewsjf_env.config import ConfigError

if TYPE_CHECKING:
    from ewsjf_env.workload.trace import Trace

SAMPLED_TOKEN = 7
_FIRST_OWN_TOKEN = 1 << 40  # above every prefix block id


class TraceRequests:
    """The requests of one trace, made one by one when they arrive.

    Attributes:
        arrival_s: seconds, ascending.
        prompt_tokens, output_tokens: as served, after capping to `max_model_len`.
        prompt, output: the same as arrays, shape (n,).
        capped_prompts, capped_outputs: how many were shortened to fit.
    """

    def __init__(
        self,
        trace: Trace,
        max_model_len: int,
        hasher: Callable[..., Any] | None,
        hint_correlation: float | None = None,
        hint_seed: int = 0,
    ) -> None:
        """Check and cap the trace.

        Args:
            trace: rows in order of arrival.
            max_model_len: most prompt plus output tokens of a request.
            hasher: vLLM's block hasher; None switches distinct token ids off.
            hint_correlation: of the output hints, see `noisy_ranks`; None: no hints.
            hint_seed: of their noise.

        Raises:
            ConfigError: the trace is empty.
        """
        if len(trace) == 0:
            raise ConfigError(f"trace {trace.name!r}: empty, nothing to serve")
        prompt = np.minimum(trace.prompt_tokens, max_model_len - 1)
        output = np.minimum(trace.output_tokens, max_model_len - prompt)
        self.capped_prompts = int((prompt != trace.prompt_tokens).sum())
        self.capped_outputs = int((output != trace.output_tokens).sum())
        self.prompt, self.output = prompt, output
        # Python numbers: the loop compares and passes them one by one.
        self.arrival_s: list[float] = trace.arrival_s.tolist()
        self.prompt_tokens: list[int] = prompt.tolist()
        self.output_tokens: list[int] = output.tolist()
        self.hints: list[int] | None = None
        if hint_correlation is not None:
            self.hints = noisy_ranks(output, hint_correlation, hint_seed).tolist()
        self._priority = None if trace.priority is None else trace.priority.tolist()
        self._block_ids = trace.block_ids
        self._hasher = hasher
        self._sampling: dict[int, Any] = {}

    def __len__(self) -> int:
        return len(self.arrival_s)

    def check_fits(self, capacity_tokens: int) -> None:
        """Raise ConfigError when a request needs more KV cache than there is."""
        # The last output token is never attended to, so it is never stored.
        too_long = self.prompt + self.output - 1 > capacity_tokens
        if too_long.any():
            i = int(np.argmax(too_long))
            raise ConfigError(
                f"request {i}: {self.prompt[i]} prompt + {self.output[i]} output tokens do not fit "
                f"into the KV cache of {capacity_tokens} tokens; raise kv_blocks or "
                "gpu_memory_utilization, or cap the prompts"
            )

    def make(self, index: int) -> Any:
        """The vLLM request of a row; its id is the row number."""
        from vllm.v1.request import Request

        return Request(
            request_id=f"{index:08d}",
            prompt_token_ids=self.token_ids(index),
            sampling_params=self._sampling_params(index),
            pooling_params=None,
            arrival_time=self.arrival_s[index],
            priority=0 if self._priority is None else self._priority[index],
            block_hasher=self._hasher,
        )

    def token_ids(self, index: int) -> list[int]:
        """Token ids: rows share a prefix exactly as far as their leading block ids agree."""
        length = self.prompt_tokens[index]
        if self._hasher is None:
            return [SAMPLED_TOKEN] * length
        if self._block_ids is None:
            return [_FIRST_OWN_TOKEN + index] * length
        from ewsjf_env.workload.trace import BLOCK_TOKENS

        tokens: list[int] = []
        for block_id in self._block_ids[index]:
            tokens += [block_id] * min(BLOCK_TOKENS, length - len(tokens))
        return tokens

    def _sampling_params(self, index: int) -> Any:
        """Shared by requests of one output length: vLLM only reads them, and they are slow."""
        max_tokens = self.output_tokens[index]
        found = self._sampling.get(max_tokens)
        if found is None:
            from vllm.sampling_params import SamplingParams

            found = SamplingParams(
                max_tokens=max_tokens, ignore_eos=True, temperature=0.0, detokenize=False
            )
            self._sampling[max_tokens] = found
        if self.hints is not None:
            found = copy.copy(found)
            found.extra_args = {"ewsjf": {"output_tokens": self.hints[index]}}
        return found


def noisy_ranks(values: NDArray[np.int64], correlation: float, seed: int) -> NDArray[np.int64]:
    """The same values in an order whose rank correlation with the given one is as asked.

    A Gaussian copula: the ranks become normal scores z, and the result is ordered as
    r z + sqrt(1 - r^2) e with e normal, r = 2 sin(pi correlation / 6).  So hints are distributed
    as the truth, whatever they know of it; 1 is the truth itself.

    Args:
        values: shape (n,).
        correlation: Spearman's, [0, 1]; approached as n grows, and where few values are equal.
        seed: of the noise.
    """
    random = np.random.default_rng([seed, len(values)])
    n = len(values)
    order = np.lexsort((random.random(n), values))  # ties in random order
    scores = np.sort(random.standard_normal(n))
    z = np.empty(n)
    z[order] = scores
    r = 2.0 * math.sin(math.pi * correlation / 6.0)
    mixed = r * z + math.sqrt(max(0.0, 1.0 - r * r)) * random.standard_normal(n)
    found = np.empty_like(values)
    found[np.argsort(mixed)] = np.sort(values)
    return found
