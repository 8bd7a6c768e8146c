"""The state of a compiled engine: records of numbers, and arrays over requests, steps and queues.

n requests are numbered in order of arrival, Q queues by length, D steps may be in flight.  All
times are seconds on the virtual clock; NaN is "not yet".  Memory is O(n + Q + D * running).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ewsjf_env.engine.compiled.codes import NOBODY

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

WAITS_REMEMBERED = 1024  # of served requests, by the order boost_ada
LEARNT_STEPS = 32  # steps between two solutions of the cost model
STEP_FEATURES = 6  # of a step and its time, as the cost model wants them
OCTAVES = 64
OUTPUT_BINS = 96


def _record(integers: str, floats: str) -> np.dtype[Any]:
    names = [(name, np.int64) for name in integers.split()]
    return np.dtype(names + [(name, np.float64) for name in floats.split()])


# What the engine is: fixed at reset.
LIMITS = _record(
    "budget_tokens max_seqs chunk_tokens chunked block_tokens kv_blocks depth prefix_caching "
    "learns captured_tokens noisy longest_tokens",
    "overhead_s weights_s linear_s attention_s kv_read_s launch_s",
)
# What the policy in force says, and what is known besides: changed between two steps.
POLICY = _record(
    "kind key score partitioned backfill promotes refreshes closes logs renew pending "
    "adapts least_lengths drift_window use_hints use_learned route_by_work width_tokens queues short_tokens",
    "p0 p1 p2 p3 p4 p5 overtake_s promote_s overdue_share overdue_floor_s overdue_kappa "
    "prefill_share yield_share interval_s evaluated_s checked_s check_interval_s "
    "w_cached w_output output_quantile c0 c1 c2 least_cost_s half half_life_s reference_tokens",
)
# What changes with each event.
CLOCK = _record(
    "stage next last live waiting running finished empty_steps first_step queued_steps "
    "output_tokens prefill_tokens preemptions admitted_prompt admitted_cached steps "
    "free_blocks noise_used budget chunk shorter_than step age_first age_last "
    "recovery_first recovery_last ordered heap first_queue fcfs_step active traffic_count "
    "deadlines overdue watched overdue_served waits wait_next served timed_steps learnt batch "
    "sample kept fresh free_first free_last",
    "now_s step_s gpu_free_s kv_usage_s kv_usage kv_since_s share_scale share_arrivals "
    "share_stamp_s mean_cost_s credit_tokens cap_tokens last_step_s",
)


class State(NamedTuple):
    """Everything that compiled code reads and writes.

    Attributes:
        limits, policy, clock: records of one element.
        arrival_s, prompt, output, priority, hint: of each request, as served.
        key: what a keyed order sorts by; `key_given` where Python computes it.
        where: of each request, see `codes`.
        computed: tokens whose KV is or will be there; generated: output tokens delivered.
        placeholders: output tokens of steps in flight; in_flight: tokens of these steps.
        stale: those of them that a preemption has made worthless to the counters.
        blocks: KV blocks held; cached: cached tokens on the first admission, -1 before.
        running: requests that run, in vLLM's order.
        previous, following: the list by age or the recovery lane that a request is in.
        queue, queue_previous, queue_following: its FCFS queue.
        step_*: steps in flight, shape (D,) or (D, running).
        queue_*: of each queue; `active` lists those with requests.
        batch: steps that the cost model has not learnt from.
    """

    limits: Any
    policy: Any
    clock: Any
    arrival_s: Floats
    prompt: Integers
    output: Integers
    priority: Integers
    hint: Integers
    key_given: Floats
    key: Floats
    fresh_step: Integers
    where: NDArray[np.int8]
    computed: Integers
    generated: Integers
    placeholders: Integers
    in_flight: Integers
    stale: Integers
    blocks: Integers
    cached: Integers
    routed: Integers
    preempted: Integers
    first_token_s: Floats
    finish_s: Floats
    running: Integers
    previous: Integers
    following: Integers
    heap: Integers
    queue: Integers
    queue_previous: Integers
    queue_following: Integers
    deadline_s: Floats
    deadlines: Integers
    overdue: Integers
    by_number: Floats
    watched: NDArray[np.int8]
    waiting_tokens: Integers
    skipped: Integers
    step_end_s: Floats
    step_count: Integers
    step_prefill: Integers
    step_request: Integers
    step_tokens: Integers
    step_samples: NDArray[np.bool_]
    step_completes: NDArray[np.bool_]
    sample_wanted: NDArray[np.bool_]
    sample: Floats
    batch: Floats
    noise: Floats
    waits_s: Floats
    cuts: Integers
    queue_first: Integers
    queue_last: Integers
    queue_mean: Floats
    queue_share: Floats
    queue_weight: Floats
    queue_rank: Integers
    queue_score: Floats
    queue_scored: Integers
    queue_scored_step: Integers
    active: Integers
    active_place: Integers
    output_counts: Integers
    output_bin: Integers
    bin_tokens: Integers


def new_record(dtype: np.dtype[Any]) -> Any:
    """A record of zeros."""
    return np.zeros(1, dtype)


def queue_arrays(queues: int) -> dict[str, Any]:
    """Arrays for so many empty queues."""
    return {
        "queue_first": np.full(queues, NOBODY),
        "queue_last": np.full(queues, NOBODY),
        "queue_mean": np.zeros(queues),
        "queue_share": np.zeros(queues),
        "queue_weight": np.zeros(queues),
        "queue_rank": np.ones(queues, np.int64),
        "queue_score": np.zeros(queues),
        "queue_scored": np.full(queues, NOBODY),
        "queue_scored_step": np.full(queues, -1),
        "active": np.zeros(queues, np.int64),
        "active_place": np.full(queues, NOBODY),
    }


def output_tables(longest_tokens: int) -> dict[str, Any]:
    """The histograms of generated tokens: counts by octave, the bin of a length, its value."""
    from ewsjf_env.scheduling.expected_output import BINS, BINS_PER_OCTAVE

    tokens = np.arange(longest_tokens + 1)
    bins = np.zeros(longest_tokens + 1, np.int64)
    bins[1:] = np.minimum(BINS - 1, (BINS_PER_OCTAVE * np.log2(tokens[1:])).astype(np.int64))
    middle = [max(1, round(2.0 ** ((i + 0.5) / BINS_PER_OCTAVE))) for i in range(BINS)]
    return {
        "output_counts": np.zeros((OCTAVES, OUTPUT_BINS + 1), np.int64),  # the last is the total
        "output_bin": bins,
        "bin_tokens": np.array(middle, np.int64),
    }


def new_state(
    limits: Any,
    arrival_s: Floats,
    prompt: Integers,
    output: Integers,
    priority: Integers | None,
    hint: Integers | None,
) -> State:
    """A state in which nothing has arrived; the policy's part is filled in by `policy.py`.

    Args:
        limits: a record of `LIMITS`.
        arrival_s: seconds, ascending, shape (n,).
        prompt, output: tokens as served, shape (n,).
        priority: of each request; None: all 0.
        hint: output tokens that the callers expect; None: they say nothing.
    """
    n, limit = len(arrival_s), limits[0]
    depth, seqs = int(limit["depth"]), int(limit["max_seqs"])
    clock = new_record(CLOCK)
    clock["last"] = n
    clock["free_blocks"] = limit["kv_blocks"] - 1  # vLLM keeps one as the null block
    for name in ("age_first", "age_last", "recovery_first", "recovery_last", "first_queue"):
        clock[name] = NOBODY
    clock["fcfs_step"] = -1
    clock["last_step_s"] = np.nan

    def zeros() -> Integers:
        return np.zeros(n, np.int64)

    def nobody() -> Integers:
        return np.full(n, NOBODY)

    return State(
        limits=limits,
        policy=new_record(POLICY),
        clock=clock,
        arrival_s=arrival_s,
        prompt=prompt,
        output=output,
        priority=zeros() if priority is None else priority,
        hint=nobody() if hint is None else hint,
        key_given=np.zeros(0),
        key=np.zeros(n),
        fresh_step=nobody(),
        where=np.zeros(n, np.int8),
        computed=zeros(),
        generated=zeros(),
        placeholders=zeros(),
        in_flight=zeros(),
        stale=zeros(),
        blocks=zeros(),
        cached=nobody(),
        routed=prompt.copy(),
        preempted=zeros(),
        first_token_s=np.full(n, np.nan),
        finish_s=np.full(n, np.nan),
        running=np.zeros(seqs, np.int64),
        previous=nobody(),
        following=nobody(),
        heap=zeros(),
        queue=nobody(),
        queue_previous=nobody(),
        queue_following=nobody(),
        deadline_s=np.zeros(n),
        deadlines=zeros(),
        overdue=zeros(),
        by_number=np.arange(n, dtype=np.float64),
        watched=np.zeros(n, np.int8),
        waiting_tokens=np.zeros(OCTAVES, np.int64),
        skipped=zeros(),
        step_end_s=np.zeros(depth),
        step_count=np.zeros(depth, np.int64),
        step_prefill=np.zeros(depth, np.int64),
        step_request=np.zeros((depth, seqs), np.int64),
        step_tokens=np.zeros((depth, seqs), np.int64),
        step_samples=np.zeros((depth, seqs), np.bool_),
        step_completes=np.zeros((depth, seqs), np.bool_),
        sample_wanted=np.zeros(depth, np.bool_),
        sample=np.zeros((depth, STEP_FEATURES)),
        batch=np.zeros((LEARNT_STEPS, STEP_FEATURES)),
        noise=np.zeros(0),
        waits_s=np.zeros(WAITS_REMEMBERED),
        cuts=np.zeros(0, np.int64),
        **queue_arrays(1),
        **output_tables(int(limit["longest_tokens"])),
    )
