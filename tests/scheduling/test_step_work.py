"""The work of a step: prefill, decodes, drafts, what samples a token; on vLLM's own outputs."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from ewsjf_env.engine.simulated.vllm_config import build_scheduler, stock_scheduler_class
from ewsjf_env.scheduling.step_work import StepFollower, StepWork
from tests.serving.vllm_traffic import finish_step, make_request, make_setup, run_step


def new(name: str, prompt: int, computed: int = 0) -> Any:
    return SimpleNamespace(req_id=name, prompt_token_ids=[0] * prompt, num_computed_tokens=computed)


def step(
    tokens: dict[str, int],
    new_requests: list[Any] | None = None,
    cached: dict[str, tuple[int, int]] | None = None,
    resumed: tuple[str, ...] = (),
    preempted: tuple[str, ...] = (),
    finished: tuple[str, ...] = (),
) -> Any:
    """A `SchedulerOutput`; `cached`: request -> (tokens computed, tokens generated) before it."""
    cached = cached or {}
    return SimpleNamespace(
        num_scheduled_tokens=tokens,
        total_num_scheduled_tokens=sum(tokens.values()),
        scheduled_new_reqs=new_requests or [],
        scheduled_cached_reqs=SimpleNamespace(
            req_ids=list(cached),
            num_computed_tokens=[computed for computed, _ in cached.values()],
            num_output_tokens=[generated for _, generated in cached.values()],
            resumed_req_ids=set(resumed),
        ),
        preempted_req_ids=set(preempted),
        finished_req_ids=set(finished),
    )


def test_a_prompt_in_chunks_beside_a_decode() -> None:
    follower = StepFollower()
    first = follower.of(step({"a": 10, "b": 6}, [new("a", 10), new("b", 20, computed=4)]))
    assert first == StepWork(16, 10 * 5.0 + 6 * 7.0, 0, 0, 0, ("a",), ("b",))
    second = follower.of(step({"a": 1, "b": 10}, cached={"a": (10, 1), "b": (10, 0)}))
    assert second == StepWork(10, 10 * 15.0, 1, 11, 0, ("b",), ())
    third = follower.of(step({"a": 1, "b": 1}, cached={"a": (11, 2), "b": (20, 1)}))
    assert third == StepWork(0, 0.0, 2, 12 + 21)


def test_drafts_of_speculative_decoding_are_decode_work() -> None:
    """64 requests with 3 drafts each were learnt as a prefill of 256 tokens (vLLM #51725)."""
    follower, names = StepFollower(), [f"d{i}" for i in range(64)]
    follower.of(step(dict.fromkeys(names, 2000), [new(name, 2000) for name in names]))
    work = follower.of(step(dict.fromkeys(names, 4), cached=dict.fromkeys(names, (2000, 1))))
    assert (work.prefill_tokens, work.prefill_attention) == (0, 0.0)
    assert (work.decode_requests, work.draft_tokens, work.decode_tokens) == (64, 192, 256)
    assert work.context_tokens == 64 * 2004
    # One more prompt beside them, and one that gets no draft.
    tokens = {**dict.fromkeys(names, 4), names[0]: 1, "p": 7}
    mixed = follower.of(step(tokens, [new("p", 7)], dict.fromkeys(names, (2003, 4))))
    assert (mixed.prefill_tokens, mixed.decode_requests, mixed.draft_tokens) == (7, 64, 189)


def test_a_single_token_of_a_prompt_is_prefill() -> None:
    follower = StepFollower()
    follower.of(step({"a": 9}, [new("a", 10)]))
    assert follower.of(step({"a": 1}, cached={"a": (9, 0)})) == StepWork(
        1, 9.5, 0, 0, 0, ("a",), ()
    )


def test_a_preempted_request_computes_its_former_output_again() -> None:
    follower = StepFollower()
    follower.of(step({"a": 4}, [new("a", 4)]))
    follower.of(step({"a": 1}, cached={"a": (4, 1)}))
    follower.of(step({"b": 4}, [new("b", 4)], preempted=("a",)))
    again = follower.of(step({"a": 5}, cached={"a": (0, 2)}, resumed=("a",)))
    assert again == StepWork(5, 12.5, 0, 0, 0, (), ("a",))
    last = follower.of(step({"a": 1}, cached={"a": (5, 2)}))
    assert last == StepWork(0, 0.0, 1, 6)  # prompt and output are computed: it decodes


def test_finished_requests_are_forgotten() -> None:
    follower = StepFollower()
    follower.of(step({"a": 4, "b": 2}, [new("a", 4), new("b", 4)]))
    assert len(follower) == 2
    follower.of(step({}, finished=("a", "b")))
    assert len(follower) == 0
    # The same id again, aborted half-way and taken up anew in one step.
    follower.of(step({"b": 2}, [new("b", 4)]))
    assert follower.of(step({"b": 2}, [new("b", 2)], finished=("b",))).completed == ("b",)


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_step_is_understood_from_the_outside(asynchronous: bool) -> None:
    """As one would understand it who sees the requests themselves."""
    setup = make_setup(kv_blocks=24, asynchronous=asynchronous)
    scheduler = build_scheduler(setup, stock_scheduler_class(asynchronous))
    follower = StepFollower()
    in_flight: list[Any] = []
    preempted = 0
    for index in range(400):
        if index < 60:
            request = make_request(setup, f"r{index}", 2 + 37 * index % 120, 1 + index % 40, 0.0)
            scheduler.add_request(request)
        if not scheduler.has_requests():
            break
        # What is in flight when depth is 2 has not been taken in yet, as in the engine.
        output = run_step(scheduler, in_flight, 2 if asynchronous else 10**9)
        preempted += len(output.preempted_req_ids or ())
        sampled = in_flight[-1][1] if in_flight else {}
        work = follower.of(output)
        prefill = decode = context = 0
        attention = 0.0
        for name, tokens in output.num_scheduled_tokens.items():
            request = scheduler.requests[name]
            after = request.num_computed_tokens
            if tokens == 1 and after > request.num_prompt_tokens:
                decode, context = decode + 1, context + after
            else:
                prefill += tokens
                attention += tokens * (after - 0.5 * tokens)
        assert (work.prefill_tokens, work.decode_requests, work.draft_tokens) == (
            prefill,
            decode,
            0,
        )
        assert (work.context_tokens, work.prefill_attention) == (context, attention)
        if sampled:
            assert set(work.unfinished) == {name for name, token in sampled.items() if not token}
            assert not set(work.completed) & set(work.unfinished)
        if not asynchronous:
            finish_step(scheduler, in_flight.pop())
    assert preempted > 0
    assert not scheduler.requests
    follower.of(scheduler.schedule())
    assert len(follower) == 0
