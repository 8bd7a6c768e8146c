"""Routers: every length has a queue, keys ascend with length, bubbles come and go."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ewsjf_env.scheduling.orders.routing import (
    BubbleRouter,
    CutRouter,
    LengthRouter,
    Router,
    WidthRouter,
)
from tests.scheduling.queues import THREE_QUEUES

ROUTERS: list[Router] = [
    CutRouter(THREE_QUEUES),
    WidthRouter(100),
    LengthRouter(),
    BubbleRouter(THREE_QUEUES),
]


@pytest.mark.parametrize("router", ROUTERS)
@given(short=st.integers(1, 50_000), longer=st.integers(0, 50_000))
def test_keys_never_descend_with_length(router: Router, short: int, longer: int) -> None:
    if not router.temporary:  # a bubble is made on demand and changes later answers
        assert router.route(short) <= router.route(short + longer)
    assert isinstance(router.route(short), int)


def test_cuts_are_inclusive_and_the_last_queue_is_open() -> None:
    router = CutRouter(THREE_QUEUES)
    lengths = (1, 256, 257, 1024, 1025, 10**6)
    assert [router.route(b) for b in lengths] == [0, 0, 1, 1, 2, 2]


def test_bubbles_are_limited_kept_while_used_and_dropped_when_idle() -> None:
    router = BubbleRouter(THREE_QUEUES, limit=2, patience=3)
    home = router.route(3000)
    first, second = router.route(20_000), router.route(40_000)
    assert len({home, first, second}) == 3
    assert router.route(20_100) == first  # the same 512-wide bubble
    assert router.route(60_000) == home  # no bubble is left: the nearest queue takes it
    for _ in range(5):
        router.end_step(frozenset({first}))
    assert router.route(20_000) == first  # in use all the time
    third = router.route(60_000)  # the idle one has made room
    assert third not in (home, first)
