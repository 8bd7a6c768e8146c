"""The Trace type refuses what no engine could serve, and cannot be changed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ewsjf_env.config import ConfigError
from ewsjf_env.workload.trace import Trace, cap_prompts, smaller_cap, streams


def trace(**changes: Any) -> Trace:
    values = {
        "name": "t",
        "arrival_s": [0.0, 1.0, 1.0],
        "prompt_tokens": [5, 600, 7],
        "output_tokens": [1, 2, 3],
    }
    return Trace(**{**values, **changes})


def test_a_trace_is_frozen_and_independent_of_its_source() -> None:
    source = np.array([0.0, 1.0, 2.0])
    drawn = trace(arrival_s=source)
    source[0] = 9.0
    assert drawn.arrival_s.tolist() == [0.0, 1.0, 2.0]
    with pytest.raises(ValueError, match="read-only"):
        drawn.arrival_s[0] = 3.0
    assert len(drawn) == 3


def test_equality_and_digest_follow_the_requests() -> None:
    assert trace() == trace(notes={"capped_prompts": 3})
    assert trace().digest() == trace(name="other").digest()
    assert trace() != trace(name="other")
    different: list[dict[str, Any]] = [
        {"arrival_s": [0.0, 1.0, 1.5]},
        {"prompt_tokens": [5, 600, 8]},
        {"output_tokens": [1, 2, 4]},
        {"priority": [0, 0, 0]},
        {"block_ids": ((1,), (1, 2), (3,))},
    ]
    digests = {trace(**changes).digest() for changes in [{}, *different]}
    assert len(digests) == 6
    assert trace() != "t"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"arrival_s": [0.0, 2.0, 1.0]}, r"arrival_s\[2\]: 1.0 is before 2.0"),
        ({"arrival_s": [-1.0, 2.0, 3.0]}, r"arrival_s\[0\]: -1.0 is outside"),
        ({"arrival_s": [0.0, np.nan, 3.0]}, r"arrival_s\[1\]: nan is outside"),
        ({"arrival_s": [0.0, 1.0, np.inf]}, r"arrival_s\[2\]: inf is outside"),
        ({"arrival_s": [[0.0]]}, "one dimension"),
        ({"prompt_tokens": [5, 0, 7]}, r"prompt_tokens\[1\]: 0 is outside \[1, 10000000\]"),
        ({"prompt_tokens": [5, 10_000_001, 7]}, r"prompt_tokens\[1\]"),
        ({"output_tokens": [1, 2, -3]}, r"output_tokens\[2\]: -3"),
        ({"output_tokens": [1, 2]}, "output_tokens: 2 values for 3 arrivals"),
        ({"priority": [1]}, "priority: 1 values for 3 arrivals"),
        ({"block_ids": ((1,), (1,), (1,))}, r"block_ids\[1\]: 1 ids, expected 2 for 600"),
    ],
)
def test_bad_traces(changes: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        trace(**changes)


def test_streams_are_independent_of_each_other() -> None:
    first, second = streams(3), streams(3)
    first.arrivals.random(1000)
    assert np.array_equal(first.lengths.random(5), second.lengths.random(5))
    assert np.array_equal(first.noise.random(5), second.noise.random(5))
    fresh = streams(3)
    draws = {generator.random() for generator in fresh}
    assert len(draws) == 3


def test_capping() -> None:
    prompts = np.array([100, 1000, 2000])
    blocks = ((1,), (1, 2), (1, 2, 3, 4))
    capped, ids, notes = cap_prompts(prompts, blocks, 1000)
    assert capped.tolist() == [100, 1000, 1000]
    assert ids == ((1,), (1, 2), (1, 2))
    assert notes == {"capped_prompts": 1, "max_prompt_tokens": 1000}
    assert cap_prompts(prompts, blocks, None) == (prompts, blocks, {"capped_prompts": 0})
    assert smaller_cap(None, None) is None
    assert smaller_cap(5, None) == smaller_cap(None, 5) == smaller_cap(7, 5) == 5
