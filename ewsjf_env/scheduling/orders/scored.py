"""An order by scores: FCFS queues whose heads are scored at the step's clock stamp.

O(Q) a pick, O(1) to add and to remove.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any, Literal

from ewsjf_env.scheduling.entry import Entry
from ewsjf_env.scheduling.orders.effective_work import WorkFunction
from ewsjf_env.scheduling.orders.fcfs import Queue, Shares
from ewsjf_env.scheduling.orders.order import CostFunction, Order
from ewsjf_env.scheduling.orders.routing import Router
from ewsjf_env.scheduling.orders.scoring import Scorer, Traffic

Backfill = Literal["score", "adjacent", "none"]


class ScoredOrder(Order):
    """FCFS queues by length; the non-empty queue whose head scores best is next.

    Args:
        router: prompt tokens -> queue key.
        scorer: urgency of a head.
        cost_s: C(b).
        traffic: shared scales; this order reports every arrival to it.
        backfill: after the step's first pick from queue q: `score` the next best anywhere;
            `adjacent` q while it lasts, then the nearest queue, ties to the shorter (=);
            `none` q only, as the authors' code: the step may end with work waiting.
        overtake_window_s: A; a request that waits is never passed by one that arrived more
            than A after it.  Infinity switches the bound off.  Heads suffice: the queues are
            FCFS, so an ineligible head hides only younger requests.
        work: effective work of an entry in prompt tokens, which is then scored and priced in
            the place of its length; None: the length is the work.
        route_by_work: whether that also chooses the queue, by its value on joining.  A head is
            scored by its work now, wherever it was routed.

    Scores are computed once a step for each head.  An exception in the scorer falls back to
    the oldest head for the rest of the step and is counted in `score_failures`.
    """

    def __init__(
        self,
        router: Router,
        scorer: Scorer,
        cost_s: CostFunction,
        traffic: Traffic,
        *,
        backfill: Backfill = "score",
        overtake_window_s: float = math.inf,
        work: WorkFunction | None = None,
        route_by_work: bool = False,
    ) -> None:
        self.router = router
        self.scorer = scorer
        self.traffic = traffic
        self.backfill = backfill
        self.overtake_window_s = overtake_window_s
        self.score_failures = 0
        self.may_close = backfill == "none"
        self._cost_s = cost_s
        self._work = work
        self._route_by_work = route_by_work
        self._queues: dict[int, Queue] = {}
        self._known: frozenset[int] = frozenset()  # the partition's queues stay when empty
        self._by_age: OrderedDict[int, Entry] = OrderedDict()
        self._now_s = 0.0
        self._step = 0
        self._first_key: int | None = None  # queue of the step's first pick
        self._fcfs_step = -1  # the step in which scoring failed
        self._passed_over: Entry | None = None  # a better head that the last choice did not let in
        self._shares = Shares()

    def begin_step(self, now_s: float) -> None:
        """Fix the clock; O(1), and O(Q) where the router has temporary queues."""
        if self.router.temporary:
            self.router.end_step(frozenset(k for k, q in self._queues.items() if q.entries))
        self._now_s = now_s
        self._step += 1
        self._first_key = None
        self._passed_over = None

    def know_queues(self, means: dict[int, tuple[float, float]]) -> None:
        """Declare the partition's queues: key -> (mean tokens, share of arrivals)."""
        self._known = frozenset(means)
        for key, (mean_tokens, share) in means.items():
            if key not in self._queues:
                self._queues[key] = Queue(key, mean_tokens, share, self._shares)
        self._rank()

    def add(self, entry: Entry) -> None:
        """O(log Q)."""
        if self._work is not None:
            self._weigh(entry, self._work)
        key = self.router.route(entry.routed_tokens)
        queue = self._queues.get(key)
        if queue is None:
            queue = self._queues[key] = Queue(key, float(entry.routed_tokens), 0.0, self._shares)
            self._rank()
        queue.entries[entry.seq] = entry
        entry.order_slot = queue
        self._by_age[entry.seq] = entry

    def observe_arrival(self, entry: Entry) -> None:
        """Let the traffic scales see a new request."""
        self.traffic.observe(self._cost_s(entry.work_tokens))
        arrived: Queue = entry.order_slot
        arrived.observe(entry.routed_tokens)
        if self._known:
            self._shares.observe(entry.arrived_s, arrived, self._queues)

    def remove(self, entry: Entry, picked: bool) -> None:
        """O(1)."""
        queue: Queue = entry.order_slot
        del queue.entries[entry.seq]
        del self._by_age[entry.seq]
        entry.order_slot = queue.scored_head = None
        if picked:
            if self._passed_over is not None:
                self._passed_over.passed += 1
                self._passed_over = None
            queue.picks += 1
            if self._first_key is None:
                self._first_key = queue.key
        if not queue.entries and queue.key not in self._known:
            del self._queues[queue.key]

    def best(self) -> Entry | None:
        """O(Q)."""
        return self._best(None)

    def best_fitting(self, lets_in: Callable[[Entry], bool]) -> Entry | None:
        """O(Q): the best of the heads that a gate lets in, see `scheduling.memory`."""
        self._passed_over = None
        return self._best(lets_in)

    def _best(self, lets_in: Callable[[Entry], bool] | None) -> Entry | None:
        if not self._by_age:
            return None
        if self._now_s <= self.oldest.arrived_s:
            found: Entry | None = self.oldest  # nobody has waited yet: nothing to weigh, first come
        elif self._first_key is not None and self.backfill != "score":
            found = self._neighbour(self._first_key)
        else:
            if self._fcfs_step != self._step:
                try:
                    return self._best_score(lets_in)
                except Exception:  # whatever a score does, the server must go on: FCFS this step
                    self.score_failures += 1
                    self._fcfs_step = self._step
            found = self.oldest
        return None if found is None or (lets_in and not lets_in(found)) else found

    def urgency(self, prompt_tokens: int, wait_s: float) -> float:
        """Score of a head of so many tokens that has waited so long, in the queue it belongs to."""
        key = self.router.route(prompt_tokens)
        queue = self._queues.get(key) or Queue(key, float(prompt_tokens), 0.0, self._shares)
        cost_s = self._cost_s(prompt_tokens)
        return self.scorer.score(prompt_tokens, wait_s, cost_s, queue, self.traffic)

    def may_overtake(self, entry: Entry) -> bool:
        """The bound on overtaking holds for whatever rule would serve an entry first."""
        return entry.arrived_s <= self.oldest.arrived_s + self.overtake_window_s

    @property
    def oldest(self) -> Entry:
        """The entry that arrived first; O(1)."""
        return next(iter(self._by_age.values()))

    def _best_score(self, lets_in: Callable[[Entry], bool] | None) -> Entry | None:
        step, bounded = self._step, self.overtake_window_s < math.inf
        latest_s = self.oldest.arrived_s + self.overtake_window_s if bounded else math.inf
        now_s, cost_s, work = self._now_s, self._cost_s, self._work
        score_of, traffic = self.scorer.score, self.traffic
        best: Entry | None = None
        outside: Entry | None = None
        best_score = outside_score = -math.inf
        for queue in self._queues.values():
            # Only `remove` changes the head of a queue, and it forgets the scored one.
            head = queue.scored_head if queue.scored_step == step else None
            if head is None:
                if not queue.entries:
                    continue
                head = next(iter(queue.entries.values()))
                # `arrived_s` without a call: a queue of every length asks for as many heads.
                arrived_s: float = head.enqueue_s  # type: ignore[assignment]
                if arrived_s > latest_s:
                    continue
                b = head.prompt_tokens if work is None else work(head)
                score = score_of(b, now_s - arrived_s, cost_s(b), queue, traffic)
                if score != score:
                    raise ValueError("score is NaN")
                queue.score, queue.scored_head, queue.scored_step = score, head, step
            elif bounded and head.arrived_s > latest_s:
                continue
            else:
                score = queue.score
            if lets_in is not None and not lets_in(head):
                if outside is None or (score, -head.seq) > (outside_score, -outside.seq):
                    outside, outside_score = head, score
                continue
            if score > best_score or best is None or (score == best_score and head.seq < best.seq):
                best, best_score = head, score
        if outside is None or best is None:
            return best
        if (outside_score, -outside.seq) > (best_score, -best.seq):
            self._passed_over = outside
        return best

    def _weigh(self, entry: Entry, work: WorkFunction) -> None:
        try:
            entry.work_tokens = work(entry)
        except Exception:  # as for a score: the server must go on
            self.score_failures += 1
            entry.work_tokens = entry.prompt_tokens
        entry.routed_tokens = entry.work_tokens if self._route_by_work else entry.prompt_tokens

    def _neighbour(self, first_key: int) -> Entry | None:
        """The head of the queue nearest to `first_key`; only that queue for backfill `none`."""
        latest_s = self.oldest.arrived_s + self.overtake_window_s
        ordered = sorted(k for k, q in self._queues.items() if q.entries or k == first_key)
        home = ordered.index(first_key) if first_key in ordered else -1
        best: tuple[int, int, Entry] | None = None
        for position, key in enumerate(ordered):
            queue = self._queues.get(key)
            if queue is None or not queue.entries or queue.head.arrived_s > latest_s:
                continue
            if self.backfill == "none" and key != first_key:
                continue
            candidate = (abs(position - home), position, queue.head)
            if best is None or candidate[:2] < best[:2]:
                best = candidate
        return best[2] if best else None

    def _rank(self) -> None:
        keys = sorted(self._queues)
        for index, key in enumerate(keys):
            self._queues[key].rank = len(keys) - index

    def __len__(self) -> int:
        return len(self._by_age)

    def __iter__(self) -> Iterator[Entry]:
        for key in sorted(self._queues):
            yield from list(self._queues[key].entries.values())

    def describe(self) -> dict[str, Any]:
        """Per queue, short to long: key, depth, wait of the head in seconds, picks, mean, share."""
        return {
            "queues": [
                {
                    "key": key,
                    "depth": len(queue.entries),
                    "head_wait_s": self._now_s - queue.head.arrived_s if queue.entries else 0.0,
                    "picks": queue.picks,
                    "mean_tokens": queue.mean_tokens,
                    "share": queue.share,
                    "score": queue.score,
                }
                for key, queue in sorted(self._queues.items())
            ],
            "score_failures": self.score_failures,
        }
