"""Partitions change between steps, from past arrivals only, and never harm the scheduler."""

import threading
from concurrent.futures import Executor, Future, ThreadPoolExecutor

import numpy as np
import pytest

from ewsjf_env.config import ConfigError
from ewsjf_env.scheduling.partition import repartition
from ewsjf_env.scheduling.partition.length_drift import (
    DriftSettings,
    Reference,
    ks_distance,
    share_shift,
)
from ewsjf_env.scheduling.partition.partition import Partition, PartitionSettings, refine_and_prune
from ewsjf_env.scheduling.partition.repartition import (
    InlineExecutor,
    Repartitioner,
    RepartitionSettings,
)

ONE_QUEUE = Partition((), (512.0,), (1.0,))
NO_DRIFT = RepartitionSettings(drift=None)


def short_and_long(count, seed=0, share=0.8):
    rng = np.random.default_rng(seed)
    short, long = rng.integers(32, 257, count), rng.integers(1024, 4097, count)
    return np.where(rng.random(count) < share, short, long).tolist()


def feed(watcher, lengths, start_s=0.0, gap_s=0.1):
    for i, length in enumerate(lengths):
        watcher.observe(length, start_s + gap_s * i)
    return start_s + gap_s * len(lengths)


class CountingExecutor(InlineExecutor):
    def __init__(self):
        super().__init__()
        self.calls = 0

    def submit(self, fn, /, *args, **kwargs):
        self.calls += 1
        return super().submit(fn, *args, **kwargs)


class StuckExecutor(Executor):
    """Never starts what it is given until the test says so."""

    def __init__(self):
        self.calls = []

    def submit(self, fn, /, *args, **kwargs):
        future = Future()
        self.calls.append((future, lambda: fn(*args, **kwargs)))
        return future


def test_a_partition_is_ready_at_the_poll_after_the_one_that_found_it_due():
    executor = CountingExecutor()
    watcher = Repartitioner(NO_DRIFT, executor)
    assert watcher.poll(0.0, ONE_QUEUE) is None
    feed(watcher, short_and_long(1000))
    assert watcher.poll(599.0, ONE_QUEUE) is None and executor.calls == 0
    assert watcher.poll(600.0, ONE_QUEUE) is None and executor.calls == 1
    found = watcher.poll(600.1, ONE_QUEUE)
    assert found is not None and any(256 <= cut < 1024 for cut in found.cuts)
    assert watcher.poll(600.2, found) is None and executor.calls == 1
    assert watcher.evaluations == 1 and watcher.failures == 0


def test_too_few_arrivals_wait():
    executor = CountingExecutor()
    watcher = Repartitioner(NO_DRIFT, executor)
    watcher.poll(0.0, ONE_QUEUE)
    feed(watcher, short_and_long(199))
    assert watcher.poll(5000.0, ONE_QUEUE) is None and executor.calls == 0
    watcher.observe(40, 5000.0)
    watcher.poll(5001.0, ONE_QUEUE)
    assert executor.calls == 1


def test_a_small_gain_changes_nothing():
    lengths = short_and_long(3000)
    watcher = Repartitioner(NO_DRIFT, InlineExecutor())
    current = refine_and_prune(short_and_long(3000, seed=9))
    watcher.poll(0.0, current)
    feed(watcher, lengths)
    watcher.poll(600.0, current)
    assert watcher.poll(601.0, current) is None
    assert watcher.evaluations == 1


def test_more_queues_than_allowed_are_replaced_whatever_the_gain():
    settings = RepartitionSettings(drift=None, partition=PartitionSettings(max_queues=2))
    watcher = Repartitioner(settings, InlineExecutor())
    current = refine_and_prune(short_and_long(3000, seed=9))
    assert current.queues == 3
    watcher.poll(0.0, current)
    feed(watcher, short_and_long(3000))
    watcher.poll(600.0, current)
    assert watcher.poll(601.0, current).queues == 2


def test_renewing_waits_neither_for_the_interval_nor_for_a_gain():
    settings = RepartitionSettings(min_gain=0.99, drift=None)
    watcher = Repartitioner(settings, InlineExecutor())
    watcher.poll(0.0, ONE_QUEUE)
    now_s = feed(watcher, short_and_long(150))
    watcher.renew()
    assert watcher.poll(now_s, ONE_QUEUE) is watcher.poll(now_s, ONE_QUEUE) is None  # too few
    now_s = feed(watcher, short_and_long(150, seed=1), now_s)
    assert watcher.poll(now_s, ONE_QUEUE) is None
    found = watcher.poll(now_s + 0.1, ONE_QUEUE)
    assert found is not None and found.queues > 1
    assert watcher.poll(now_s + 0.2, found) is watcher.poll(now_s + 0.3, found) is None


def test_a_renewal_under_way_survives_other_settings():
    executor = StuckExecutor()
    watcher = Repartitioner(RepartitionSettings(drift=None), executor)
    watcher.poll(0.0, ONE_QUEUE)
    now_s = feed(watcher, short_and_long(300))
    watcher.renew()
    watcher.poll(now_s, ONE_QUEUE)
    watcher.reconfigure(RepartitionSettings(min_gain=0.5, drift=None))
    watcher.poll(now_s, ONE_QUEUE)
    assert len(executor.calls) == 2


def test_only_arrivals_before_the_evaluation_count():
    executor = StuckExecutor()
    watcher = Repartitioner(NO_DRIFT, executor)
    watcher.poll(0.0, ONE_QUEUE)
    feed(watcher, short_and_long(1000))
    watcher.poll(600.0, ONE_QUEUE)
    feed(watcher, [50_000] * 3000, start_s=601.0, gap_s=0.01)
    assert watcher.poll(640.0, ONE_QUEUE) is None  # still under way
    future, call = executor.calls[0]
    future.set_result(call())
    found = watcher.poll(641.0, ONE_QUEUE)
    assert found is not None and max(found.means) < 5000
    assert len(executor.calls) == 1


def test_a_partition_installed_meanwhile_is_not_replaced():
    watcher = Repartitioner(NO_DRIFT, InlineExecutor())
    watcher.poll(0.0, ONE_QUEUE)
    feed(watcher, short_and_long(1000))
    watcher.poll(600.0, ONE_QUEUE)
    other = Partition((300,), (100.0, 900.0), (0.5, 0.5))
    assert watcher.poll(600.1, other) is None


def run_once(executor, seed=0):
    watcher = Repartitioner(RepartitionSettings(interval_s=50.0), executor, seed=seed)
    current, history = ONE_QUEUE, []
    lengths = short_and_long(6000, seed=1) + short_and_long(3000, seed=2, share=0.2)
    for i, length in enumerate(lengths):
        watcher.observe(length, 0.05 * i)
        found = watcher.poll(0.05 * i, current)
        if found is not None:
            current = found
            history.append((i, found))
    return history, watcher


def test_inline_runs_repeat_exactly():
    first, watcher = run_once(InlineExecutor())
    assert first == run_once(InlineExecutor())[0]
    assert len(first) >= 2 and watcher.drifts >= 1 and watcher.failures == 0


def test_drift_comes_before_the_interval_and_uses_late_arrivals():
    watcher = Repartitioner(RepartitionSettings(interval_s=1e6), InlineExecutor())
    current = refine_and_prune(short_and_long(4000, seed=5))
    now_s = feed(watcher, short_and_long(1000))
    assert watcher.poll(now_s, current) is None
    assert watcher.poll(now_s + 1, current) is None
    assert watcher.drifts == 0
    rng = np.random.default_rng(0)
    now_s = feed(watcher, rng.integers(6000, 9000, 600).tolist(), start_s=now_s + 100)
    watcher.poll(now_s, current)
    moved = watcher.poll(now_s + 1, current)
    assert watcher.drifts == 1
    assert moved is not None and moved.means[-1] > 6000
    assert moved.masses[-1] == pytest.approx(1.0)
    # The new mix is now the normal one.
    now_s = feed(watcher, rng.integers(6000, 9000, 600).tolist(), start_s=now_s + 100)
    watcher.poll(now_s, moved)
    assert watcher.poll(now_s + 1, moved) is None and watcher.drifts == 1


def test_comparisons_wait_for_a_window_of_fresh_arrivals_and_the_interval():
    executor = CountingExecutor()
    drift = DriftSettings(window=100, check_interval_s=10.0)
    watcher = Repartitioner(RepartitionSettings(interval_s=1e6, drift=drift), executor)
    feed(watcher, [100] * 99, gap_s=0.01)
    watcher.poll(1.0, ONE_QUEUE)
    assert executor.calls == 0
    watcher.observe(100, 1.0)
    watcher.poll(1.0, ONE_QUEUE)
    watcher.poll(1.1, ONE_QUEUE)
    feed(watcher, [100] * 100, start_s=1.2, gap_s=0.01)
    watcher.poll(3.0, ONE_QUEUE)
    assert executor.calls == 1
    watcher.poll(11.0, ONE_QUEUE)
    assert executor.calls == 2


def test_errors_in_the_worker_are_counted(monkeypatch):
    def broken(*_):
        raise ZeroDivisionError

    monkeypatch.setattr(repartition, "divide", broken)
    watcher = Repartitioner(NO_DRIFT, InlineExecutor())
    watcher.poll(0.0, ONE_QUEUE)
    feed(watcher, short_and_long(300))
    watcher.poll(600.0, ONE_QUEUE)
    assert watcher.poll(601.0, ONE_QUEUE) is None
    assert watcher.failures == 1
    monkeypatch.undo()
    watcher.poll(1201.0, ONE_QUEUE)
    assert watcher.poll(1202.0, ONE_QUEUE) is not None


def test_a_closed_executor_and_a_cancelled_call_are_counted():
    executor = InlineExecutor()
    executor.shutdown()
    watcher = Repartitioner(NO_DRIFT, executor)
    watcher.poll(0.0, ONE_QUEUE)
    feed(watcher, short_and_long(300))
    assert watcher.poll(600.0, ONE_QUEUE) is None
    assert watcher.failures == 1
    stuck = StuckExecutor()
    watcher = Repartitioner(NO_DRIFT, stuck)
    watcher.poll(0.0, ONE_QUEUE)
    feed(watcher, short_and_long(300))
    watcher.poll(600.0, ONE_QUEUE)
    stuck.calls[0][0].cancel()
    assert watcher.poll(601.0, ONE_QUEUE) is None
    assert watcher.failures == 1


def test_junk_arrivals_are_left_out():
    watcher = Repartitioner(NO_DRIFT, InlineExecutor())
    watcher.poll(0.0, ONE_QUEUE)
    for length, now_s in ((0, 1.0), (-5, 1.0), (10, float("nan")), (10, float("inf"))):
        watcher.observe(length, now_s)
    feed(watcher, short_and_long(1000))
    watcher.poll(600.0, ONE_QUEUE)
    assert watcher.poll(601.0, ONE_QUEUE) is not None
    assert watcher.failures == 0


def test_a_clock_that_steps_back_is_no_error():
    watcher = Repartitioner(RepartitionSettings(interval_s=10.0, drift=None), InlineExecutor())
    watcher.poll(1000.0, ONE_QUEUE)
    feed(watcher, short_and_long(1000), start_s=500.0)
    assert watcher.poll(0.0, ONE_QUEUE) is None
    watcher.poll(1010.0, ONE_QUEUE)
    assert watcher.poll(1011.0, ONE_QUEUE) is not None


def test_other_settings_keep_what_is_known():
    watcher = Repartitioner(NO_DRIFT, InlineExecutor())
    watcher.poll(0.0, ONE_QUEUE)
    feed(watcher, short_and_long(1000))
    watcher.reconfigure(RepartitionSettings(interval_s=5.0))
    watcher.poll(101.0, ONE_QUEUE)
    assert watcher.poll(102.0, ONE_QUEUE) is not None


def test_a_background_worker_does_not_block_the_poll(monkeypatch):
    started, release = threading.Event(), threading.Event()
    inner = repartition.divide

    def slow(*args):
        started.set()
        assert release.wait(30)
        return inner(*args)

    monkeypatch.setattr(repartition, "divide", slow)
    with ThreadPoolExecutor(max_workers=1) as executor:
        watcher = Repartitioner(NO_DRIFT, executor)
        watcher.poll(0.0, ONE_QUEUE)
        feed(watcher, short_and_long(1000))
        watcher.poll(600.0, ONE_QUEUE)
        assert started.wait(30)
        assert watcher.poll(601.0, ONE_QUEUE) is None
        release.set()
    assert watcher.poll(602.0, ONE_QUEUE) is not None


def test_the_inline_executor_keeps_errors_in_the_future():
    def broken():
        raise KeyError("x")

    executor = InlineExecutor()
    assert executor.submit(divmod, 7, 2).result() == (3, 1)
    assert isinstance(executor.submit(broken).exception(), KeyError)
    executor.shutdown()
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(divmod, 7, 2)


def test_ks_distance_by_hand():
    reference = Reference.build([1, 2, 3, 4], [1, 1, 1, 1])
    assert ks_distance(np.array([1.0, 2.0, 3.0, 4.0]), reference) == pytest.approx(0)
    assert ks_distance(np.array([3.0, 4.0]), reference) == pytest.approx(0.5)
    assert ks_distance(np.array([9.0]), reference) == pytest.approx(1)
    weighted = Reference.build([4, 1], [3, 1])
    assert ks_distance(np.array([1.0]), weighted) == pytest.approx(0.75)
    assert weighted.size == pytest.approx(1.6)


def test_share_shift_by_hand():
    partition = Partition((10,), (5.0, 50.0), (0.5, 0.5))
    assert share_shift(np.array([1.0, 10.0, 11.0, 12.0]), partition) == pytest.approx(0)
    assert share_shift(np.array([11.0, 12.0]), partition) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RepartitionSettings(interval_s=0.0), "interval_s"),
        (lambda: RepartitionSettings(min_gain=1.0), "min_gain"),
        (lambda: RepartitionSettings(capacity=100), "capacity"),
        (lambda: RepartitionSettings(half_life_s=float("nan")), "half_life_s"),
        (lambda: DriftSettings(window=5), "window"),
        (lambda: DriftSettings(ks_distance=0.0), "ks_distance"),
    ],
)
def test_bad_settings_are_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def test_arrivals_observed_at_once_are_those_observed_one_by_one():
    lengths = np.array([0, *short_and_long(2000, seed=4), -3, 8])
    times_s = np.linspace(0.0, 500.0, len(lengths))
    times_s[[5, 700]] = np.nan, np.inf
    settings = RepartitionSettings(interval_s=100.0)
    single, many = (Repartitioner(settings, InlineExecutor(), seed=2) for _ in range(2))
    current, found = ONE_QUEUE, []
    for part in np.array_split(np.arange(len(lengths)), 20):
        for length, now_s in zip(lengths[part].tolist(), times_s[part].tolist(), strict=True):
            single.observe(length, now_s)
        many.observe_many(lengths[part], times_s[part])
        for _ in range(2):
            answers = [each.poll(float(part[-1]) / 4.0, current) for each in (single, many)]
            assert answers[0] == answers[1]
            found += [answers[0]] if answers[0] else []
    assert found
    assert (single.drifts, single.evaluations) == (many.drifts, many.evaluations)
