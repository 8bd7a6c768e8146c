"""An executor without a device: the whole real vLLM on a CPU, in real time.

    EWSJF_SIMULATED_PLATFORM=1 vllm serve MODEL \
        --distributed-executor-backend ewsjf_env.engine.stand_in.executor.SimulatedExecutor \
        --additional-config '{"ewsjf_simulated": {"latency": "llama2-13b_a100-80g"}}'

vLLM's executor is the part that owns the device.  This one has none: a step takes the time that
the latency model says and yields tokens without meaning.  Everything else is vLLM's own: front
end, engine process, scheduler, KV-cache manager, asynchronous scheduling.  `model_folder.py`
makes a MODEL to go with it.

Structured output, log probabilities and pooling need a real model and are not simulated.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from vllm.v1.executor.abstract import Executor
from vllm.v1.kv_cache_interface import FullAttentionSpec
from vllm.v1.outputs import EMPTY_MODEL_RUNNER_OUTPUT, ModelRunnerOutput

from ewsjf_env.config import ConfigError
from ewsjf_env.engine.simulated.latency import LatencyModel
from ewsjf_env.engine.stand_in.model_folder import FIRST_WORD_TOKEN, WORD_TOKENS
from ewsjf_env.engine.stand_in.settings import ExecutorSettings
from ewsjf_env.scheduling.step_work import StepFollower, StepWork

_NO_TOKEN: list[int] = []


class _DueFuture(Future[Any]):
    """The result of a step that ends at `due_s` on the clock `time.monotonic`.

    The thread that asks for the result sleeps until then, as it would wait for a device; no
    other thread is involved.
    """

    def __init__(self, output: Any, due_s: float) -> None:
        super().__init__()
        self._output = output
        self._due_s = due_s

    def done(self) -> bool:
        """True from `due_s` on."""
        return time.monotonic() >= self._due_s

    def result(self, timeout: float | None = None) -> Any:
        """The output, at the earliest at `due_s`; TimeoutError if that is too far away."""
        rest_s = self._due_s - time.monotonic()
        if timeout is not None and rest_s > timeout:
            time.sleep(max(0.0, timeout))
            raise TimeoutError
        if rest_s > 0:
            time.sleep(rest_s)
        return self._output


class SimulatedExecutor(Executor):
    """An executor whose steps take modelled time.

    Steps run one after another, each from the end of the one before or from its own submission,
    whichever is later: what a device with one stream does.  With asynchronous scheduling vLLM
    submits a step while the one before runs, so host work hides behind it, as on a GPU.
    """

    supports_pp = False

    @classmethod
    def supports_async_scheduling(cls) -> bool:
        """True: else vLLM would schedule synchronously."""
        return True

    def _init_executor(self) -> None:
        config = self.vllm_config
        self._settings = ExecutorSettings.from_additional_config(config.additional_config)
        self._latency = LatencyModel.load(self._settings.latency)
        self._check_model()
        self._follower = StepFollower()
        self._free_s = 0.0  # when the device is done with all that was submitted
        self._submitted: _DueFuture | None = None

    # -- the KV cache --------------------------------------------------------------------------

    def get_kv_cache_specs(self) -> list[dict[str, FullAttentionSpec]]:
        """One full-attention layer after another, in the shape of the model's config.json."""
        layers, kv_heads, head_size = self._shape()
        spec = FullAttentionSpec(
            block_size=self.cache_config.block_size,
            num_kv_heads=kv_heads,
            head_size=head_size,
            dtype=self.model_config.dtype,
        )
        return [{f"model.layers.{index}.self_attn.attn": spec for index in range(layers)}]

    def determine_available_memory(self) -> list[int]:
        """Bytes that the modelled GPU has left for the KV cache."""
        machine = self._latency.machine
        block_tokens = self.cache_config.block_size
        blocks = machine.kv_blocks(block_tokens, self.cache_config.gpu_memory_utilization)
        return [blocks * block_tokens * machine.model.kv_bytes_per_token]

    def get_supported_kv_cache_layouts(self) -> list[list[str]]:
        """Any layout will do; nothing is laid out."""
        return [["NHD", "HND"]]

    def set_kv_cache_layout(self, *layout: Any) -> None:
        """Nothing is laid out; releases differ in what they pass."""

    def initialize_from_config(self, kv_cache_configs: Any, *more: Any) -> None:
        """No cache is allocated."""

    def compile_or_warm_up_model(self, *more: Any) -> None:
        """Nothing to compile."""

    # -- steps ---------------------------------------------------------------------------------

    def execute_model(self, scheduler_output: Any, non_block: bool = False) -> Any:
        """Submit a step; its tokens come from `sample_tokens`.

        Returns:
            None, or the output itself of a step without tokens; within a future if `non_block`.
        """
        work = self._follower.of(scheduler_output)
        now_s = time.monotonic()
        names = list(scheduler_output.num_scheduled_tokens)
        if not names:
            future = _DueFuture(EMPTY_MODEL_RUNNER_OUTPUT, now_s)
            return future if non_block else future.result()
        seconds = self._latency.step_s(
            work.prefill_tokens,
            work.decode_tokens,
            work.context_tokens,
            work.prefill_attention,
        )
        self._free_s = max(now_s, self._free_s) + seconds / self._settings.speed
        output = ModelRunnerOutput(
            req_ids=names,
            req_id_to_index={name: index for index, name in enumerate(names)},
            sampled_token_ids=[_sampled(p) for p in sampled_positions(scheduler_output, work)],
        )
        self._submitted = _DueFuture(output, self._free_s)
        submitted = _DueFuture(None, now_s)
        return submitted if non_block else submitted.result()

    def sample_tokens(self, grammar_output: Any, non_block: bool = False) -> Any:
        """The output of the step submitted last, at the end of its time."""
        future, self._submitted = self._submitted, None
        if future is None:
            raise RuntimeError("sample_tokens: no step was submitted by execute_model")
        return future if non_block else future.result()

    # -- everything else -----------------------------------------------------------------------

    @property
    def supported_tasks(self) -> tuple[str, ...]:
        """Text generation only."""
        return ("generate",)

    def collective_rpc(
        self,
        method: str | Callable[..., Any],
        timeout: float | None = None,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
        non_block: bool = False,
    ) -> Any:
        """There are no workers: every call is answered with None, as by one worker."""
        if not non_block:
            return [None]
        return _DueFuture([None], time.monotonic())

    def check_health(self) -> None:
        """Nothing can break."""

    def shutdown(self) -> None:
        """Nothing to free."""

    def _check_model(self) -> None:
        """A latency model of another shape would time, and size the cache for, another model."""
        parallel = self.parallel_config
        for name in ("tensor_parallel_size", "pipeline_parallel_size"):
            if getattr(parallel, name) != 1:
                raise ConfigError(
                    f"{name}: {getattr(parallel, name)} is not 1; the latency model already "
                    "stands for all devices of a replica together"
                )
        model = self._latency.machine.model
        expected = (model.layers, model.kv_heads, model.head_size)
        if self._shape() != expected:
            raise ConfigError(
                f"latency: {self._settings.latency!r} is of {model.name}, whose (layers, KV heads, "
                f"head size) are {expected}; {self.model_config.model} has {self._shape()}"
            )

    def _shape(self) -> tuple[int, int, int]:
        model, parallel = self.model_config, self.parallel_config
        return (
            int(model.get_num_layers(parallel)),
            int(model.get_num_kv_heads(parallel)),
            int(model.get_head_size()),
        )


def sampled_positions(output: Any, work: StepWork) -> list[int]:
    """Of each scheduled request, the position of the token that it samples; -1: it samples none."""
    cached = output.scheduled_cached_reqs
    computed = dict(zip(cached.req_ids, cached.num_computed_tokens, strict=True))
    computed |= {new.req_id: new.num_computed_tokens for new in output.scheduled_new_reqs}
    unfinished = set(work.unfinished)
    return [
        -1 if name in unfinished else computed[name] + tokens
        for name, tokens in output.num_scheduled_tokens.items()
    ]


def _sampled(position: int) -> list[int]:
    """A token that spells a word and never ends a request; none while the prefill lasts."""
    return [FIRST_WORD_TOKEN + position % WORD_TOKENS] if position >= 0 else _NO_TOKEN
