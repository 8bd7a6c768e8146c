"""Drives real vLLM schedulers with random traffic, without an engine."""

from __future__ import annotations

from typing import Any

from ewsjf_env.engine.simulated.vllm_config import (
    VllmSettings,
    VllmSetup,
    block_hasher,
    build_setup,
    load_vllm,
)


def make_setup(
    *, kv_blocks: int, asynchronous: bool, seqs: int = 8, budget: int = 64, caching: bool = False
) -> VllmSetup:
    """A small engine: few blocks of 16 tokens, so that preemption happens."""
    return build_setup(
        VllmSettings(
            model="llama2-13b",
            max_model_len=256,
            max_num_seqs=seqs,
            max_num_batched_tokens=budget,
            block_tokens=16,
            kv_blocks=kv_blocks,
            kv_heads=40,
            head_size=128,
            async_scheduling=asynchronous,
            prefix_caching=caching,
            chunked_prefill=True,
        )
    )


def make_request(
    setup: VllmSetup, name: str, prompt: int, output: int, arrival_s: float, priority: int = 0
) -> Any:
    """A request whose prompt shares its prefix with every other one."""
    load_vllm()
    from vllm.sampling_params import SamplingParams
    from vllm.v1.request import Request

    return Request(
        request_id=name,
        prompt_token_ids=list(range(1, prompt + 1)),
        sampling_params=SamplingParams(max_tokens=output, ignore_eos=True),
        pooling_params=None,
        arrival_time=arrival_s,
        priority=priority,
        block_hasher=block_hasher(setup),
    )


def run_step(scheduler: Any, in_flight: list[Any], depth: int) -> Any:
    """Schedule one step; update from the oldest once `depth` are in flight."""
    output = scheduler.schedule()
    sampled = {}
    for request_id in output.num_scheduled_tokens:
        request = scheduler.requests[request_id]
        reserved = max(0, request.num_output_placeholders - 1)
        done = request.num_computed_tokens >= request.num_tokens + reserved
        sampled[request_id] = [7] if done else []
    in_flight.append((output, sampled))
    while len(in_flight) >= depth:
        finish_step(scheduler, in_flight.pop(0))
    return output


def finish_step(scheduler: Any, step: tuple[Any, dict[str, list[int]]]) -> None:
    """Hand the tokens of a step to the scheduler."""
    from vllm.v1.outputs import ModelRunnerOutput

    output, sampled = step
    ids = list(output.num_scheduled_tokens)
    scheduler.update_from_output(
        output,
        ModelRunnerOutput(
            req_ids=ids,
            req_id_to_index={request_id: i for i, request_id in enumerate(ids)},
            sampled_token_ids=[sampled[request_id] for request_id in ids],
            logprobs=None,
            prompt_logprobs_dict={},
            pooler_output=[],
        ),
    )


def fingerprint(output: Any) -> tuple[Any, ...]:
    """What a step scheduled, in order: enough to tell any difference of order or admission."""
    new = [(r.req_id, r.num_computed_tokens, r.block_ids) for r in output.scheduled_new_reqs]
    cached = output.scheduled_cached_reqs
    return (
        new,
        list(cached.req_ids),
        sorted(cached.resumed_req_ids),
        list(cached.num_computed_tokens),
        list(output.num_scheduled_tokens.items()),
        output.total_num_scheduled_tokens,
        sorted(output.finished_req_ids),
        sorted(output.preempted_req_ids or ()),
    )
