"""Small requests and queues for the tests of the waiting queue."""

from __future__ import annotations

from ewsjf_env.policy.policy import Policy
from ewsjf_env.policy.policy_queue import PolicyQueue
from ewsjf_env.scheduling.cost import CostPrior, PrefillCostModel
from ewsjf_env.scheduling.entry import Entry
from ewsjf_env.scheduling.partition.partition import Partition
from ewsjf_env.scheduling.partition.repartition import InlineExecutor

COST = CostPrior(c0_s=0.004, c1_s_per_token=1.7e-4, c2_s_per_token2=2e-9)
THREE_QUEUES = Partition(cuts=(256, 1024), means=(128.0, 600.0, 3000.0), masses=(0.6, 0.2, 0.2))
BUDGET_TOKENS = 2048


class Request:
    """A waiting request of the tests: hashable by identity, weakly referable."""

    def __init__(self, name: str, tokens: int, priority: int = 0, output: int = 16) -> None:
        self.name = name
        self.tokens = tokens
        self.priority = priority
        self.output = output
        self.arrival_s: float | None = None

    def __repr__(self) -> str:
        return f"{self.name}({self.tokens})"


def describe(request: Request, seq: int) -> Entry:
    """Request -> entry; stamped at once when the test has set an arrival time."""
    return Entry(
        request,
        request.name,
        seq,
        request.tokens,
        enqueue_s=request.arrival_s,
        output_tokens=request.output,
        priority=request.priority,
    )


def make_queue(policy: Policy | str, *, by_priority: bool = False) -> PolicyQueue[Request]:
    """A queue under `policy` (or the order of that name) with three queues and a fixed C(b)."""
    if isinstance(policy, str):
        policy = Policy(policy, policy, partition=THREE_QUEUES)
    return PolicyQueue(
        policy,
        describe,
        PrefillCostModel(COST),
        InlineExecutor(),
        by_priority=by_priority,
    )


def arrive(queue: PolicyQueue[Request], name: str, tokens: int, arrival_s: float) -> Request:
    """Add a request that arrived at a moment."""
    request = Request(name, tokens)
    request.arrival_s = arrival_s
    queue.add(request)
    return request


def drain(queue: PolicyQueue[Request], now_s: float) -> list[Request]:
    """Pop everything, one step a pick, checking that peek and pop agree."""
    order = []
    while len(queue):
        queue.begin_step(now_s, BUDGET_TOKENS)
        shown = queue.peek()
        taken = queue.pop()
        assert shown is taken
        order.append(taken)
    return order
