"""The state of a compiled engine: records of numbers, and of requests, steps and queues.

n requests are numbered in order of arrival, Q queues by length, D steps may be in flight, each of
at most R requests; T accounts of tenants have queues of their own, and T = 1 where there are none.
All times are seconds on the virtual clock; NaN is "not yet".  Memory is O(n + T Q + D R), about 300
bytes a request.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ewsjf_env.engine.compiled.kernel.codes import NOBODY
from ewsjf_env.scheduling.cost import BATCH
from ewsjf_env.scheduling.orders.boost import REMEMBERED
from ewsjf_env.scheduling.orders.expected_output import BINS, BINS_PER_OCTAVE

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

WAITS_REMEMBERED = REMEMBERED  # of served requests, by the order boost_ada
LEARNT_STEPS = BATCH  # steps between two solutions of the cost model
STEP_FEATURES = 6  # of a step and its time, as the cost model wants them
OCTAVES = 64
OUTPUT_BINS = BINS


def _record(integers: str, floats: str, small: str = "") -> np.dtype[Any]:
    """A record of integers and numbers; `small` integers come first and take half the room."""
    kinds = ((small, np.int32), (floats, np.float64), (integers, np.int64))
    return np.dtype([(name, kind) for names, kind in kinds for name in names.split()], align=True)


# A request as it is served, where it is, and its links in lists and queues (`lists.py`).
#   computed: tokens whose KV is or will be there      generated: output tokens delivered
#   promised: these and those of steps in flight        blocks: KV blocks held
#   stale: tokens of steps in flight from before a preemption; one that runs has none
#   cached: cached tokens at its first admission, -1 before
#   noted: the length that the re-partition is told of  name, account: its tenant's
#   passed: requests that were admitted before it because it did not fit, `scheduling.memory`
#   routed: the length that chose its queue             row, kept: its blocks, see `blocks.py`
REQUEST = _record(
    "priority prefix",
    "arrival_s first_token_s finish_s key_given",
    "prompt output computed generated promised blocks where stale preempted "
    "previous following queue queue_previous queue_following watched hint fresh_step cached routed "
    "row kept probed noted name account passed",
)
# A KV block: who uses it, the number of its prefix, its neighbours among free blocks, and among
# blocks of the same prefix.  Only with a prefix cache.
BLOCK = _record("", "", "users prefix previous following older newer")
# What the step that is being scheduled computes, see `scheduling.step_work`.
WORK = _record("prefill decodes context", "attention")
# A step in flight, and what it computes of one request: `gives` is a token of its output or none.
STEP = _record("count prefill wanted", "end_s")
SLOT = _record("", "", "request tokens gives")
# An FCFS queue.  The first fields `active`, `clock.active` of them, name the queues with requests;
# `place` says where a queue stands there.  The last ones are those of bubbles, see `bubbles.py`:
#   known: stays when it is empty      bubble: is one, and `idle`: for how many steps it is empty
#   price: what a score makes of `priced`, a cost: the head's stays the same for many steps
#   key: ascends with length           low, high: where the data of a queue of the partition lie
QUEUE = _record(
    "first last rank scored scored_step active place known bubble idle key",
    "mean share weight score low high priced price",
)
# What the engine is: fixed at reset.
LIMITS = _record(
    "budget_tokens max_seqs chunk_tokens chunked block_tokens kv_blocks depth prefix_caching "
    "learns captured_tokens noisy longest_tokens tenants max_tenants listed_only",
    "overhead_s weights_s linear_s attention_s kv_read_s launch_s prompt_weight output_weight",
)
# What the policy in force says, and what is known besides: changed between two steps.
POLICY = _record(
    "kind key score partitioned backfill promotes refreshes closes logs renew pending adapts "
    "least_lengths drift_window use_hints use_learned route_by_work width_tokens queues "
    "short_tokens block_tokens longest_tokens bubbles bubble_tokens bubble_patience "
    "acts reserve_blocks gated late_last",
    "p0 p1 p2 p3 p4 p5 overtake_s promote_s overdue_share overdue_floor_s overdue_kappa "
    "prefill_share yield_share interval_s evaluated_s checked_s check_interval_s "
    "most_step_s w_cached w_output output_quantile c0 c1 c2 least_cost_s half half_life_s "
    "reference_tokens reserve_above late_earns level_ttft_s level_factor adapt_s share_shift "
    "ks_least reference_size",
)
# What changes with each event.  `used_s` is the integral of the share of KV blocks in use as the
# scheduler's history has it, up to `used_since_s`; `kv_usage_s` that of the engine.
CLOCK = _record(
    "stage next last live waiting running finished empty_steps first_step queued_steps "
    "output_tokens prefill_tokens preemptions admitted_prompt admitted_cached steps "
    "free_blocks noise_used budget chunk shorter_than step age_first age_last "
    "recovery_first recovery_last ordered heap first_queue fcfs_step active traffic_count "
    "deadlines overdue watched overdue_served waits wait_next served timed_steps learnt batch "
    "sample kept fresh free_first free_last free_rows bubbles tenant opened own turns "
    "passed_over late moments oldest_late late_passed tenant_passed",
    "now_s step_s gpu_free_s kv_usage_s kv_usage kv_since_s share_scale share_arrivals "
    "share_stamp_s mean_cost_s credit_tokens cap_tokens last_step_s "
    "used_s used used_since_s last_counter "
    "late_credit",
)
# The account of a tenant, see `scheduling.tenants`, and what the clock and the policy say of its
# order while the order of another tenant is in use, see `tenants.py`.
#   there: it is open      opened: in which turn      listed: it has a weight of its own
#   leaving: of `here`, those that have finished since the last step
#   entries: in its order  turn: when it got the first of them     heap_start: of its heap
#   made: it has an order  begun: the last step in which that was asked
TENANT = _record(
    "there opened listed waiting here leaving entries turn heap_start made begun "
    "age_first age_last ordered heap first_queue fcfs_step active bubbles waits wait_next served "
    "passed_over",
    "weight counter counted share_scale share_arrivals share_stamp_s p0",
)

# What the cost model has learnt, see `scheduling.cost` and `learn.py`.
MODEL = _record(
    "observed judged_steps known",
    "spread r2 forgetting least_r2 prior_c0 prior_c1 prior_c2 level_product level_square "
    "judged_total judged_first judged_second judged_squared",
)


class State(NamedTuple):
    """Everything that compiled code reads and writes.

    Attributes:
        limits, policy, clock: records, shape (1,).
        requests: shape (n,); steps: shape (D,); slots: shape (D, R); queues: shape (Q,).
        order_heap, order_keys: a heap of the requests of an order and what it sorts by.
        heaps, keys: heaps of requests and what they sort by: deadlines of the overdue lane, those
            that are overdue, moments at which requests will be late, those that are; shape (4, n).
        running: requests that run, in vLLM's order; skipped: passed over in this step.
        waiting_tokens: of prompts that wait, by octave.
        sample: what the steps in flight compute; batch: steps and their times that the cost model
            has not learnt from.
        model, fit, gram: the cost model's record, its theta, prior and h as rows, and its G.
        noise: factors on the times of the next steps.
        waits_s: of requests served last, by the order of each account in turn.
        tenants: accounts, shape (T,), and a last one for a new order's beginning.
        cuts: upper lengths of all queues but the last; masses: the partition's, shape (Q,).
        reference: lengths that late ones are compared with, ascending, and their cumulative
            shares, shape (2, m).
        work: of the step that is being scheduled.
        blocks: KV blocks; held: those of each running request, by its row; free_rows: unused ones.
        prefixes: numbers of the full blocks of each request; cached: the oldest and the newest
            cached block of each number.
        output_counts, output_bin, bin_tokens: histograms of generated tokens.
    """

    limits: Any
    policy: Any
    clock: Any
    requests: Any
    steps: Any
    slots: Any
    queues: Any
    tenants: Any
    order_heap: Integers
    order_keys: Floats
    heaps: Integers
    keys: Floats
    running: Integers
    skipped: Integers
    waiting_tokens: Integers
    sample: Floats
    batch: Floats
    model: Any
    fit: Floats
    gram: Floats
    noise: Floats
    waits_s: Floats
    cuts: Integers
    masses: Floats
    reference: Floats
    work: Any
    blocks: Any
    held: NDArray[np.int32]
    free_rows: Integers
    prefixes: Integers
    cached: Integers
    output_counts: Integers
    output_bin: Integers
    bin_tokens: Integers


ARRAYS = State._fields


def new_record(dtype: np.dtype[Any]) -> Any:
    """A record of zeros."""
    return np.zeros(1, dtype)


def new_queues(count: int) -> Any:
    """So many empty queues."""
    queues = np.zeros(count, QUEUE)
    for name in ("first", "last", "scored", "place"):
        queues[name] = NOBODY
    queues["rank"] = 1
    queues["scored_step"] = -1
    return queues


def new_tenants(count: int) -> Any:
    """So many closed accounts without orders."""
    tenants = np.zeros(count, TENANT)
    for name in ("age_first", "age_last", "first_queue", "fcfs_step", "passed_over"):
        tenants[name] = NOBODY
    tenants["weight"] = tenants["share_scale"] = 1.0
    return tenants


def block_arrays(kv_blocks: int, rows: int, row_blocks: int, numbers: int) -> dict[str, Any]:
    """All blocks free but the first, vLLM's null block; nothing is cached.

    Args:
        kv_blocks: of the cache.
        rows: most running requests.
        row_blocks: most blocks of one.
        numbers: of prefixes.
    """
    blocks = np.zeros(kv_blocks, BLOCK)
    blocks["previous"], blocks["following"] = np.arange(kv_blocks) - 1, np.arange(kv_blocks) + 1
    blocks["prefix"] = NOBODY
    blocks["previous"][:2] = blocks["following"][-1:] = NOBODY
    return {
        "blocks": blocks,
        "held": np.zeros((rows, row_blocks), np.int32),
        "free_rows": np.arange(rows),
        "cached": np.full((2, numbers), NOBODY),
    }


def output_tables(longest_tokens: int, tenants: int) -> dict[str, Any]:
    """The histograms of generated tokens: counts by octave, the bin of a length, its value.

    Those over all tenants come first, then each account's.
    """
    tokens = np.arange(longest_tokens + 1)
    bins = np.zeros(longest_tokens + 1, np.int64)
    bins[1:] = np.minimum(BINS - 1, (BINS_PER_OCTAVE * np.log2(tokens[1:])).astype(np.int64))
    middle = [max(1, round(2.0 ** ((i + 0.5) / BINS_PER_OCTAVE))) for i in range(BINS)]
    return {
        # The last of each row is the total.
        "output_counts": np.zeros(((tenants + 1) * OCTAVES, OUTPUT_BINS + 1), np.int64),
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
    prefixes: tuple[Integers, Integers, int] | None = None,
    tenants: tuple[Integers, Any] | None = None,
) -> State:
    """A state in which nothing has arrived; the policy's part is filled in by `policy.py`.

    Args:
        limits: a record of `LIMITS`.
        arrival_s: seconds, ascending, shape (n,).
        prompt: tokens as served, shape (n,).
        output: tokens that will be generated, shape (n,).
        priority: of each request; None: all 0.
        hint: output tokens that the callers expect; None: they say nothing.
        prefixes: see `prefixes.prefix_numbers`; None: there is no prefix cache.
        tenants: see `tenants.tenant_accounts`; None: there are no tenants.
    """
    n, limit = len(arrival_s), limits[0]
    depth, seqs = int(limit["depth"]), int(limit["max_seqs"])
    clock = new_record(CLOCK)
    clock["last"] = n
    clock["free_blocks"] = limit["kv_blocks"] - 1  # vLLM keeps one as the null block
    for name in ("age_first", "age_last", "recovery_first", "recovery_last", "first_queue"):
        clock[name] = NOBODY
    for name in ("fcfs_step", "passed_over", "late_passed", "tenant_passed"):
        clock[name] = -1
    clock["last_step_s"] = clock["used_since_s"] = np.nan

    requests = np.zeros(n, REQUEST)
    requests["arrival_s"], requests["prompt"], requests["output"] = arrival_s, prompt, output
    requests["routed"] = prompt
    requests["priority"] = 0 if priority is None else priority
    requests["hint"] = NOBODY if hint is None else hint
    for name in ("previous", "following", "queue", "queue_previous", "queue_following", "cached"):
        requests[name] = NOBODY
    requests["probed"] = -1
    if prefixes is None:
        cache = block_arrays(2, 1, 1, 1)
    else:
        requests["prefix"] = prefixes[1]
        row_blocks = int((prompt + output).max()) // int(limit["block_tokens"]) + 1
        cache = block_arrays(int(limit["kv_blocks"]), seqs, row_blocks, prefixes[2])
    clock["free_first"], clock["free_last"], clock["free_rows"] = 1, len(cache["blocks"]) - 1, seqs
    requests["first_token_s"] = requests["finish_s"] = np.nan
    keys = np.zeros((4, n))
    keys[1] = keys[3] = np.arange(n)
    requests["account"] = 0
    accounts = new_tenants(1)
    if tenants is not None:
        requests["name"], accounts = tenants
    return State(
        limits=limits,
        policy=new_record(POLICY),
        clock=clock,
        requests=requests,
        steps=np.zeros(depth, STEP),
        slots=np.zeros((depth, seqs), SLOT),
        queues=new_queues(1),
        tenants=accounts,
        order_heap=np.zeros(n if tenants is None else 2 * n, np.int64),
        order_keys=np.zeros(n),
        heaps=np.zeros((4, n), np.int64),
        keys=keys,
        running=np.zeros(seqs, np.int64),
        skipped=np.zeros(n, np.int64),
        waiting_tokens=np.zeros(OCTAVES, np.int64),
        sample=np.zeros((depth, STEP_FEATURES)),
        batch=np.zeros((LEARNT_STEPS, STEP_FEATURES)),
        model=new_record(MODEL),
        fit=np.zeros((3, STEP_FEATURES - 1)),
        gram=np.zeros((STEP_FEATURES - 1, STEP_FEATURES - 1)),
        noise=np.zeros(0),
        waits_s=np.zeros(len(accounts) * WAITS_REMEMBERED),
        cuts=np.zeros(0, np.int64),
        masses=np.zeros(1),
        reference=np.zeros((2, 0)),
        work=new_record(WORK),
        prefixes=np.zeros(1, np.int64) if prefixes is None else prefixes[0],
        **cache,
        **output_tables(int(limit["longest_tokens"]), int(limit["tenants"])),
    )
