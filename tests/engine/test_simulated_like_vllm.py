"""The simulated engine takes the steps that vLLM's own engine core takes."""

from __future__ import annotations

import dataclasses
from collections import deque
from typing import Any

import pytest

from ewsjf_env.engine.simulated.config import SimulatedConfig
from ewsjf_env.engine.simulated.engine import SimulatedEngine
from ewsjf_env.engine.simulated.trace_requests import TraceRequests
from ewsjf_env.workload.trace import Trace
from tests.engine.short_traces import STOCK, random_trace, served


@pytest.mark.parametrize("asynchronous", [True, False])
def test_same_steps_as_the_engine_core_of_vllm(asynchronous: bool) -> None:
    """vLLM's own `EngineCore.step` functions, on a clock moved by a stand-in for the GPU."""
    config = dataclasses.replace(
        STOCK, async_scheduling=asynchronous, kv_blocks=300, max_model_len=4600
    )
    trace = random_trace(3, rate_per_s=2.0, duration_s=60.0)
    mine = served(config, trace)
    assert any(record.preemptions for record in mine)
    theirs = _served_by_engine_core(config, trace)
    assert [(r.first_token_s, r.finish_s) for r in mine] == theirs


def _served_by_engine_core(
    config: SimulatedConfig, trace: Trace
) -> list[tuple[float | None, float | None]]:
    from ewsjf_env.engine.simulated import vllm_config as vc

    engine = SimulatedEngine(config)
    engine.reset(trace)
    setup = vc.build_setup(engine._vllm_settings())

    import queue
    from contextlib import nullcontext

    from vllm.v1.engine.core import EngineCore
    from vllm.v1.outputs import EMPTY_MODEL_RUNNER_OUTPUT, ModelRunnerOutput

    clock = {"now": 0.0, "gpu_free": 0.0}
    scheduler = vc.build_scheduler(setup, vc.stock_scheduler_class(config.async_scheduling))

    class Step:
        def __init__(self, end_s: float, output: Any) -> None:
            self.end_s, self.output = end_s, output

        def result(self) -> Any:
            clock["now"] = max(clock["now"], self.end_s)
            return self.output

    class Executor:
        def execute_model(self, scheduled: Any, non_block: bool = False) -> Any:
            if not scheduled.num_scheduled_tokens:
                return Step(clock["now"], EMPTY_MODEL_RUNNER_OUTPUT)
            prefill = decodes = context = 0
            attention = 0.0
            sampled = []
            for request_id, n in scheduled.num_scheduled_tokens.items():
                request = scheduler.requests[request_id]
                after = request.num_computed_tokens
                reserved = max(0, request.num_output_placeholders - 1)
                sampled.append([7] if after >= request.num_tokens + reserved else [])
                if n == 1 and after > request.num_prompt_tokens:
                    decodes, context = decodes + 1, context + after
                else:
                    prefill, attention = prefill + n, attention + n * (after - n / 2)
            seconds = engine.latency.step_s(prefill, decodes, context, attention)
            clock["gpu_free"] = max(clock["now"], clock["gpu_free"]) + seconds
            ids = list(scheduled.num_scheduled_tokens)
            self.step = Step(
                clock["gpu_free"],
                ModelRunnerOutput(
                    req_ids=ids,
                    req_id_to_index={name: i for i, name in enumerate(ids)},
                    sampled_token_ids=sampled,
                ),
            )
            return Step(clock["now"], None)

        def sample_tokens(self, grammar: Any, non_block: bool = False) -> Any:
            return self.step if non_block else self.step.result()

    core = object.__new__(EngineCore)
    core.scheduler = scheduler
    core.model_executor = Executor()
    core.aborts_queue = queue.Queue()
    core.batch_queue_size = setup.concurrent_batches
    core.batch_queue = deque(maxlen=2) if setup.concurrent_batches > 1 else None
    core.is_mm_encoder_only = core.is_pooling_model = core.check_for_draft_tokens = False
    core.is_ec_consumer = True  # asked for before vLLM 0.31; here it only means "runs the model"
    core.log_error_detail = core.capture_iteration_details = lambda *_: nullcontext()
    core._attach_iteration_details = core._attach_weight_version = lambda *_: None
    step = core.step if core.batch_queue is None else core.step_with_batch_queue

    requests = TraceRequests(trace, config.max_model_len, None)
    events: dict[str, list[float | None]] = {f"{i:08d}": [None, None] for i in range(len(trace))}
    arrived = 0
    while True:
        if not (scheduler.has_requests() or core.batch_queue):
            if arrived == len(trace):
                return [(first, last) for first, last in events.values()]
            clock["now"] = max(clock["now"], requests.arrival_s[arrived])
        while arrived < len(trace) and requests.arrival_s[arrived] <= clock["now"]:
            scheduler.add_request(requests.make(arrived))
            arrived += 1
        outputs, _ = step()
        for client in (outputs or {}).values():
            for output in client.outputs:
                event = events[output.request_id]
                if event[0] is None and output.new_token_ids:
                    event[0] = clock["now"]
                if output.finish_reason is not None:
                    event[1] = clock["now"]
