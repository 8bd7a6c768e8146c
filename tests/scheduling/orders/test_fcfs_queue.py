"""Shares in O(1) an arrival are those of a walk over all queues."""

import numpy as np
import pytest

from ewsjf_env.scheduling.orders.fcfs import SHARE_HALF_LIFE_S, Queue, Shares


def test_shares_equal_a_walk_over_all_queues():
    rng = np.random.default_rng(0)
    shares = Shares()
    start = {1: 0.5, 2: 0.3, 3: 0.2}
    queues = {key: Queue(key, 100.0, share, shares) for key, share in start.items()}
    walked, arrivals, now_s = dict(start), 0.0, 0.0
    rescaled = 0
    for key in rng.choice([1, 2, 3], size=20_000, p=[0.6, 0.3, 0.1]):
        elapsed_s = float(rng.exponential(2.0))
        now_s += elapsed_s
        before = shares.scale
        shares.observe(now_s, queues[key], queues)
        rescaled += shares.scale > before
        arrivals = arrivals * 0.5 ** (elapsed_s / SHARE_HALF_LIFE_S) + 1.0
        for each in walked:
            walked[each] += ((each == key) - walked[each]) / max(20.0, arrivals)
    assert rescaled > 1
    found = {key: queue.share for key, queue in queues.items()}
    assert found == pytest.approx(walked, rel=1e-9)
    assert sum(found.values()) == pytest.approx(1.0)


def test_a_queue_that_is_opened_later_has_the_share_it_is_given():
    shares = Shares()
    first = Queue(1, 100.0, 1.0, shares)
    for moment in range(50):
        shares.observe(float(moment), first, {1: first})
    assert Queue(2, 900.0, 0.25, shares).share == pytest.approx(0.25)
