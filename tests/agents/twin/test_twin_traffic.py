"""The twin's traffic: what is recorded of a window, and what is served again."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from agents.core.requests import RecordedTraffic
from agents.twin.blocks import (
    BlockWindow,
    complete,
    drawn_block,
    learn_late,
    recorded_block,
)
from ewsjf_env.config import ConfigError, from_dict, to_dict
from tests.agents.twin.twin_records import recorded, request, segment

# -- what is recorded ----------------------------------------------------------------------------


def test_a_record_holds_its_own_requests_and_no_secrets() -> None:
    rows = [request(1.0, 100, 7, 4.0), request(9.0, 50, 3), request(10.0, 60, 0)]
    found = recorded(rows)
    assert found.prompt_tokens == (100, 50)
    assert found.e2e_s == (3.0, None)
    assert 999 not in found.generated_tokens  # what was asked for is not known to a server
    again = from_dict(RecordedTraffic, json.loads(json.dumps(to_dict(found))), "requests")
    assert again == found
    later = recorded(rows, 20.0, since_s=10.0)
    assert (later.first, later.prompt_tokens, later.late) == (2, (60,), ((1, 3, False),))


def test_a_damaged_record_is_refused() -> None:
    data = to_dict(recorded([request(1.0, 100, 7, 4.0)]))
    with pytest.raises(ConfigError, match="ttft_s: 0 values for 1 arrivals"):
        from_dict(RecordedTraffic, {**data, "ttft_s": []}, "requests")
    with pytest.raises(ConfigError, match="do not ascend"):
        from_dict(RecordedTraffic, {**data, "start_s": 99.0}, "requests")


def test_unfinished_outputs_are_drawn_among_longer_ones_of_like_prompts() -> None:
    done = [request(i / 10, 100 + i % 5, 20 + i, 9.0) for i in range(40)]
    far = [request(5.0 + i / 100, 4000, 900, 9.0) for i in range(40)]
    open_ = [request(6.0 + i / 100, 102, 30) for i in range(20)]
    found = recorded([*done, *far, *open_])
    outputs = complete(found, (), (3, 1))
    assert outputs == complete(found, (), (3, 1))
    drawn = outputs[80:]
    assert outputs[:80] == tuple(found.generated_tokens[:80])
    assert all(x > 30 for x in drawn)
    assert len(set(drawn)) > 1
    assert np.mean([x < 100 for x in drawn]) > 0.7
    alone = recorded([request(6.0, 100, 30), request(7.0, 100, 0)])
    assert complete(alone, (), (0,)) == (30, 1)


def test_the_next_window_tells_what_the_drawn_outputs_really_were() -> None:
    rows = [request(1.0, 100, 7, 4.0), request(9.0, 50, 3), request(9.5, 60, 2)]
    before = segment(recorded(rows))
    now = [rows[0], request(9.0, 50, 44, 15.0), request(9.5, 60, 30)]
    after = learn_late([before], recorded(now, 20.0, since_s=10.0))[0]
    assert after.output_tokens == (7, 44, 30)


def test_drawn_traffic_is_like_the_recorded() -> None:
    rows = [request(i / 8, 10 * (i % 9 + 1), i % 7 + 1, 9.9) for i in range(80)]
    windows = [BlockWindow(-1, 0.0, 0.0, 10.0, 400.0, 400.0)]
    block = drawn_block([segment(recorded(rows))], windows, (0, 1), prefixes=False)
    assert len(block.trace) == pytest.approx(80 * 40, rel=0.05)
    assert set(block.trace.prompt_tokens) <= {r.prompt_tokens for r in rows}
    assert block.key == drawn_block([segment(recorded(rows))], windows, (0, 1), False).key
    assert block.key != drawn_block([segment(recorded(rows))], windows, (0, 2), False).key


def test_cached_prefixes_come_back_as_shared_blocks() -> None:
    row = dataclasses.replace(request(1.0, 2000, 7, 4.0), cached_tokens=1100)
    block = recorded_block([segment(recorded([row, request(2.0, 900, 1, 3.0)]))], 2.0, True)
    first, second = block.trace.block_ids or ()
    assert first[:2] == (1, 2)
    assert not set(first[2:]) & set(second)
