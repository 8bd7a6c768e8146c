"""The watcher that lets the queues follow the traffic, and who computes new ones for it.

The scheduler reports arrivals and asks once a step whether a new partition is ready.  All sorting
and fitting runs in an injected executor on an immutable snapshot of past arrivals; its result is
picked up by a later `poll`, so that partitions change between steps only.  Nothing here blocks,
locks or reads a clock.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from typing import ParamSpec, TypeVar

import numpy as np
from numpy.typing import NDArray

from ewsjf_env.config import check_range
from ewsjf_env.scheduling.partition.length_drift import DriftSettings, Reference, has_drifted
from ewsjf_env.scheduling.partition.length_sample import LengthSample
from ewsjf_env.scheduling.partition.partition import (
    Partition,
    PartitionSettings,
    cost_of,
    divide,
    measured_on,
)
from ewsjf_env.scheduling.partition.reservoir import (
    NO_SAMPLE,
    LengthReservoir,
    ReservoirSnapshot,
)

P = ParamSpec("P")
T = TypeVar("T")


class InlineExecutor(Executor):
    """Runs each call at once in the caller's thread: repeatable on a virtual clock."""

    def __init__(self) -> None:
        self._closed = False

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Call `fn` now; the future is done when this returns, errors kept inside it."""
        if self._closed:
            raise RuntimeError("cannot schedule new futures after shutdown")
        future: Future[T] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Refuse further calls; nothing is ever pending."""
        self._closed = True


@dataclass(frozen=True)
class RepartitionSettings:
    """When a new partition is computed and when it is installed.

    Attributes:
        interval_s: seconds between two evaluations, > 0; drift may come in between.
        min_gain: share by which the Ward cost of the sample must drop, [0, 1).
        capacity, half_life_s: of the sample of past arrivals, see `LengthReservoir`.
        partition: how the sample is divided; its `min_samples` also delays the evaluation.
        drift: what counts as drift; None switches the trigger off.
    """

    interval_s: float = 600.0
    min_gain: float = 0.05
    capacity: int = 4096
    half_life_s: float = 1800.0
    partition: PartitionSettings = field(default_factory=PartitionSettings)
    drift: DriftSettings | None = field(default_factory=DriftSettings)

    def __post_init__(self) -> None:
        check_range("interval_s", self.interval_s, 0.0, low_open=True)
        check_range("min_gain", self.min_gain, 0.0, 0.999)
        check_range("capacity", self.capacity, self.partition.min_samples)
        check_range("half_life_s", self.half_life_s, 0.0, low_open=True)


@dataclass(frozen=True)
class RepartitionState:
    """What decides when a re-partition has something to do.

    Attributes:
        renew: a division was asked for.
        pending: an evaluation is under way.
        evaluated_s, checked_s: when the last evaluation and the last comparison began; NaN and
            -inf before the first.
        fresh: arrivals since the last comparison.
        kept: arrivals in the sample.
        reference: with what late arrivals are compared; None: with the partition alone.
    """

    renew: bool
    pending: bool
    evaluated_s: float
    checked_s: float
    fresh: int
    kept: int
    reference: Reference | None


@dataclass(frozen=True)
class _Job:
    """All that an evaluation needs, frozen at the moment it was submitted."""

    due: bool  # the interval has passed; otherwise only drift is looked for
    renew: bool  # take what is found, be it better or not: other queues were asked for
    snapshot: ReservoirSnapshot
    recent: NDArray[np.float64]  # latest lengths; none: do not look for drift
    reference: Reference | None
    current: Partition
    settings: RepartitionSettings


@dataclass(frozen=True)
class _Finding:
    """Result of an evaluation; `reference` is what later arrivals are compared with."""

    partition: Partition | None
    reference: Reference | None
    drifted: bool


class Repartitioner:
    """Watches arrivals and proposes partitions learned from them, and from nothing else.

    Attributes:
        evaluations: samples that were divided so far.
        drifts: drifts seen so far.
        failures: evaluations that raised or could not be submitted; never passed on.

    Args:
        settings: see `RepartitionSettings`.
        executor: where the heavy work runs.
        seed: of the sample.
    """

    def __init__(self, settings: RepartitionSettings, executor: Executor, *, seed: int = 0) -> None:
        self.settings = settings
        self.evaluations = 0
        self.drifts = 0
        self.failures = 0
        self._executor = executor
        self._seed = seed
        self._reservoir = self._new_reservoir()
        window = settings.drift.window if settings.drift else 0
        self._recent: deque[int] = deque(maxlen=window)  # lengths
        self._recent_s: deque[float] = deque(maxlen=window)  # when they arrived
        self._fresh = 0  # arrivals since the last comparison or evaluation
        self._reference: Reference | None = None
        self._evaluated_s: float | None = None
        self._checked_s = -math.inf
        self._renew = False
        self._pending: tuple[_Job, Future[_Finding]] | None = None

    def renew(self) -> None:
        """Divide as soon as enough is known and take the result, be it better or not.

        For when the current partition was made under settings that no longer hold.
        """
        self._renew = True

    def reconfigure(self, settings: RepartitionSettings) -> None:
        """Go on under other settings with what is known of the traffic.

        The sample starts anew only if its own settings differ; an evaluation under way is dropped.
        """
        before, self.settings = self.settings, settings
        if self._pending is not None and self._pending[0].renew:
            self._renew = True
        self._pending = None
        if (before.capacity, before.half_life_s) != (settings.capacity, settings.half_life_s):
            self._forget()
        window = settings.drift.window if settings.drift else 0
        self._recent = deque(self._recent, maxlen=window)
        self._recent_s = deque(self._recent_s, maxlen=window)

    def observe(self, length: int, now_s: float) -> None:
        """Note an arrival of `length` prompt tokens at `now_s`; O(1).

        A time that is no number and a length below one are left out.
        """
        if length < 1 or not math.isfinite(now_s):
            return
        self._reservoir.add(length, now_s)
        self._recent.append(length)
        self._recent_s.append(now_s)
        self._fresh += 1

    def observe_many(self, lengths: NDArray[np.int64], times_s: NDArray[np.float64]) -> None:
        """Note arrivals one after another: the same as so many calls of `observe`.

        Args:
            lengths: prompt tokens, shape (n,).
            times_s: when they arrived, shape (n,).
        """
        known = (lengths >= 1) & np.isfinite(times_s)
        lengths, times_s = lengths[known], times_s[known]
        self._reservoir.add_many(lengths, times_s)
        last = self._recent.maxlen or 0
        self._recent.extend(lengths[max(0, len(lengths) - last) :].tolist())
        self._recent_s.extend(times_s[max(0, len(times_s) - last) :].tolist())
        self._fresh += len(lengths)

    def state(self) -> RepartitionState:
        """For whoever calls `poll` only where it may have something to do."""
        return RepartitionState(
            renew=self._renew,
            pending=self._pending is not None,
            evaluated_s=math.nan if self._evaluated_s is None else self._evaluated_s,
            checked_s=self._checked_s,
            fresh=self._fresh,
            kept=len(self._reservoir),
            reference=self._reference,
        )

    def compared(self, checked_s: float, fresh: int) -> None:
        """Note comparisons that somebody else has made in this one's place, and found no drift.

        Args:
            checked_s: when the last one was.
            fresh: arrivals since then.
        """
        self._checked_s, self._fresh = checked_s, fresh

    def poll(self, now_s: float, current: Partition) -> Partition | None:
        """Pick up a finished partition, or start an evaluation that is due; O(1) otherwise.

        Args:
            now_s: seconds, on the clock of `observe`.
            current: the partition in force.

        Returns:
            The partition to install now, or None.
        """
        if self._evaluated_s is None:
            self._evaluated_s = now_s
        if self._pending is not None:
            job, future = self._pending
            if not future.done():
                return None
            self._pending = None
            return self._pick_up(job, future, current)
        due = self._renew or now_s - self._evaluated_s >= self.settings.interval_s
        due = due and len(self._reservoir) >= self.settings.partition.min_samples
        compare = self._drift_is_due(now_s)
        if due or compare:
            self._submit(now_s, current, due, compare)
        return None

    def _drift_is_due(self, now_s: float) -> bool:
        drift = self.settings.drift
        return (
            drift is not None
            and self._fresh >= drift.window
            and now_s - self._checked_s >= drift.check_interval_s
        )

    def _submit(self, now_s: float, current: Partition, due: bool, compare: bool) -> None:
        recent = np.array(self._recent if compare else (), np.float64)
        snapshot = self._reservoir.snapshot() if due else NO_SAMPLE
        renew = due and self._renew
        job = _Job(due, renew, snapshot, recent, self._reference, current, self.settings)
        if due:
            self._evaluated_s = now_s
            self._renew = False
        if compare:
            self._checked_s = now_s
            self._fresh = 0
        try:
            self._pending = job, self._executor.submit(_evaluate, job)
        except RuntimeError:  # the executor has been shut down
            self.failures += 1

    def _pick_up(self, job: _Job, future: Future[_Finding], current: Partition) -> Partition | None:
        if future.cancelled() or future.exception() is not None:
            self.failures += 1
            return None
        finding = future.result()
        self._reference = finding.reference
        self.evaluations += job.due or finding.drifted
        if finding.drifted:
            self.drifts += 1
            self._evaluated_s = max(self._evaluated_s or self._checked_s, self._checked_s)
            self._forget()
        # A partition that came from elsewhere meanwhile has not been compared with.
        return finding.partition if job.current == current else None

    def _forget(self) -> None:
        """Keep the latest arrivals alone, which after a drift speak for the traffic."""
        self._reservoir = self._new_reservoir()
        self._reservoir.add_many(np.array(self._recent, np.int64), np.array(self._recent_s))

    def _new_reservoir(self) -> LengthReservoir:
        return LengthReservoir(self.settings.capacity, self.settings.half_life_s, self._seed)


def _evaluate(job: _Job) -> _Finding:
    """Look for drift and divide the sample; runs in the executor.

    Source: ALGORITHM 3, last part (~): a partition is replaced if the Ward cost of the sample
    drops by `min_gain`, if it has more queues than are allowed now, or if other settings were
    asked for.  After a drift the latest
    arrivals alone are the sample, and without a better partition the cuts stay but get the new
    means and masses, which the scores use.
    """
    settings = job.settings
    recent = job.recent
    drifted = (
        len(recent) > 0
        and settings.drift is not None
        and has_drifted(recent, job.reference, job.current, settings.drift)
    )
    if not (job.due or drifted):
        return _Finding(None, job.reference, False)
    lengths, weights = (recent, np.ones(len(recent))) if drifted else job.snapshot.sample()
    reference = Reference.build(lengths, weights)
    sample = LengthSample.build(lengths, weights, settings.partition.fixed_cost_tokens)
    found = divide(sample, settings.partition)
    before, after = cost_of(sample, job.current), cost_of(sample, found)
    too_many = job.current.queues > settings.partition.max_queues
    enough = reference.size >= settings.partition.min_samples
    if enough and (job.renew or too_many or after < (1.0 - settings.min_gain) * before):
        return _Finding(found, reference, drifted)
    kept = measured_on(sample, job.current) if drifted else None
    return _Finding(kept, reference, drifted)
