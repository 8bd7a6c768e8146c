"""Replay of recordings: slices, stretching, repeating, jitter, capping, drawn arrivals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ewsjf_env.config import ConfigError
from ewsjf_env.workload.arrivals import ArrivalLaw
from ewsjf_env.workload.columns import TraceTable
from ewsjf_env.workload.replay import LengthsWorkload, TraceWorkload
from ewsjf_env.workload.spec import trace_workload
from ewsjf_env.workload.trace import BLOCK_TOKENS, Workload

TRACES = Path(__file__).resolve().parents[3] / "shared" / "traces"


def table(n: int = 400, gap_s: float = 0.5, blocks: bool = False, timed: bool = True) -> TraceTable:
    """Bursty times; prompt tokens are 1000 + row, so that rows can be recognised."""
    gaps = np.random.default_rng(7).gamma(0.3, gap_s / 0.3, n)
    ids = tuple((0, 10 + row, *range(20, 20 + (1000 + row - 1) // 512 - 1)) for row in range(n))
    return TraceTable(
        path=Path("made.csv"),
        format="csv",
        arrival_s=np.cumsum(gaps) if timed else None,
        prompt_tokens=np.arange(1000, 1000 + n),
        output_tokens=np.arange(1, n + 1),
        block_ids=ids if blocks else None,
    )


def workload(**changes: Any) -> TraceWorkload:
    return TraceWorkload(**{"name": "w", "table": table(), **changes})


# Long enough to hold a request: a slice may begin in a gap of the recording.
@given(seed=st.integers(0, 2**40), duration_s=st.floats(60, 500), rate=st.floats(1, 8))
@settings(max_examples=40, deadline=None)
def test_a_draw_is_reproducible_and_valid(seed: int, duration_s: float, rate: float) -> None:
    source = workload(jitter_s=1.0)
    assert isinstance(source, Workload)
    first = source.draw(seed, duration_s, rate, 1200)
    assert first == source.draw(seed, duration_s, rate, 1200)
    assert first != source.draw(seed + 1, duration_s, rate, 1200)
    assert np.all(np.diff(first.arrival_s) >= 0)
    assert 0 <= first.arrival_s[0] <= first.arrival_s[-1] < duration_s
    assert first.prompt_tokens.max() <= 1200
    assert first.notes["capped_prompts"] == (first.output_tokens > 201).sum()


def test_the_native_rate_leaves_time_alone() -> None:
    source = workload()
    trace = source.draw(1, source.period_s)
    assert trace.notes["time_stretch"] == pytest.approx(1.0)
    assert trace.notes["trace_repeats"] == 1
    assert len(trace) == 400
    assert sorted(trace.output_tokens.tolist()) == list(range(1, 401))


@given(seed=st.integers(0, 1000), factor=st.floats(0.2, 5))
@settings(max_examples=30, deadline=None)
def test_stretching_reaches_the_rate_and_keeps_the_shape(seed: int, factor: float) -> None:
    source = workload()
    rate = source.native_rate_per_s * factor
    trace = source.draw(seed, source.period_s / factor, rate)
    native = source.draw(seed, source.period_s)
    assert trace.notes["time_stretch"] == pytest.approx(1 / factor)
    assert len(trace) == pytest.approx(400, abs=1)
    shared = min(len(trace), len(native))
    assert np.array_equal(trace.prompt_tokens[:shared], native.prompt_tokens[:shared])
    assert np.allclose(trace.arrival_s[:shared] * factor, native.arrival_s[:shared])


def test_slices_rotate_past_the_end_of_the_recording() -> None:
    rows = [workload().draw(seed, 30.0).output_tokens for seed in range(40)]
    assert any(np.any(np.diff(r) < 0) for r in rows)
    assert all(np.isin(np.diff(r) % 400, [1]).all() for r in rows)


def test_a_long_draw_repeats_the_recording_and_says_so() -> None:
    source = workload()
    trace = source.draw(2, source.period_s * 2.5)
    assert trace.notes["trace_repeats"] == 3
    assert len(trace) == pytest.approx(1000, rel=0.1)
    assert np.array_equal(trace.prompt_tokens[:400], trace.prompt_tokens[400:800])
    assert np.allclose(trace.arrival_s[400:800] - trace.arrival_s[:400], source.period_s)


def test_a_repeat_has_prefix_blocks_of_its_own() -> None:
    source = workload(table=table(blocks=True))
    trace = source.draw(2, source.period_s * 2)
    assert trace.block_ids is not None
    first = {i for ids in trace.block_ids[:400] for i in ids}
    second = {i for ids in trace.block_ids[400:800] for i in ids}
    assert len(first) == len(second)
    assert not first & second
    assert trace.block_ids[0][0] == trace.block_ids[1][0]


@pytest.mark.parametrize("cap", [1, 511, 512, 513, 1024, 1200])
def test_capping_cuts_prefix_blocks(cap: int) -> None:
    trace = workload(table=table(blocks=True)).draw(0, 60.0, max_prompt_tokens=cap)
    assert trace.block_ids is not None
    for tokens, ids in zip(trace.prompt_tokens.tolist(), trace.block_ids, strict=True):
        assert tokens <= cap
        assert len(ids) == -(-tokens // BLOCK_TOKENS)
    assert workload(max_prompt_tokens=cap).draw(0, 60.0).prompt_tokens.max() <= cap


def test_jitter_separates_rounded_times() -> None:
    rounded = table()
    assert rounded.arrival_s is not None
    coarse = TraceTable(
        path=rounded.path,
        format="csv",
        arrival_s=np.floor(rounded.arrival_s / 3) * 3,
        prompt_tokens=rounded.prompt_tokens,
        output_tokens=rounded.output_tokens,
    )
    plain = workload(table=coarse).draw(0, 100.0, 2.0)
    spread = workload(table=coarse, jitter_s=3.0).draw(0, 100.0, 2.0)
    assert len(np.unique(plain.arrival_s)) < len(plain) / 2
    assert len(np.unique(spread.arrival_s)) == len(spread)
    stretch = float(spread.notes["time_stretch"])
    at = {int(o): float(t) for o, t in zip(plain.output_tokens, plain.arrival_s, strict=True)}
    moved = [
        (float(t) - at[int(o)]) / stretch
        for o, t in zip(spread.output_tokens, spread.arrival_s, strict=True)
        if int(o) in at
    ]
    assert len(moved) > 100
    assert np.quantile(moved, 0.02) > -1e-6
    assert np.quantile(moved, 0.98) < 3.0
    assert np.mean(moved) == pytest.approx(1.5, abs=0.4)


def test_a_backlog_is_a_sample_without_repetition() -> None:
    trace = workload().draw_backlog(0, 150)
    assert np.all(trace.arrival_s == 0)
    assert len(set(trace.output_tokens.tolist())) == 150
    assert trace.output_tokens.mean() == pytest.approx(200, abs=40)
    assert trace == workload().draw_backlog(0, 150)
    assert trace != workload().draw_backlog(1, 150)
    counts = np.bincount(workload().draw_backlog(0, 900).output_tokens)[1:]
    assert set(counts.tolist()) == {2, 3}


def test_a_backlog_with_prefix_blocks_is_contiguous() -> None:
    trace = workload(table=table(blocks=True)).draw_backlog(0, 500)
    assert np.isin(np.diff(trace.output_tokens) % 400, [1]).all()
    assert trace.notes["trace_repeats"] == 2


def test_priorities_travel_with_their_rows() -> None:
    plain = table(100)
    marked = TraceTable(
        path=plain.path,
        format="csv",
        arrival_s=plain.arrival_s,
        prompt_tokens=plain.prompt_tokens,
        output_tokens=plain.output_tokens,
        priority=np.arange(1, 101) % 5,
    )
    trace = workload(table=marked, jitter_s=2.0).draw(0, 40.0)
    assert trace.priority is not None
    assert np.array_equal(trace.priority, trace.output_tokens % 5)


def test_lengths_get_arrivals_at_the_asked_rate() -> None:
    arrivals = ArrivalLaw("gamma", cv=2.0)
    source = LengthsWorkload(name="l", table=table(timed=False), arrivals=arrivals)
    assert isinstance(source, Workload)
    trace = source.draw(0, 2000.0, 3.0, 1100)
    assert len(trace) == pytest.approx(6000, rel=0.15)
    gaps = np.diff(trace.arrival_s)
    assert gaps.std() / gaps.mean() == pytest.approx(2.0, rel=0.1)
    assert trace == source.draw(0, 2000.0, 3.0, 1100)
    assert trace != source.draw(1, 2000.0, 3.0, 1100)
    pairs = np.minimum(trace.output_tokens + 999, 1100)
    assert np.array_equal(trace.prompt_tokens, pairs)
    assert len(source.draw_backlog(0, 77)) == 77


def test_lengths_without_a_rate() -> None:
    source = LengthsWorkload(name="l", table=table(timed=False))
    with pytest.raises(ConfigError, match=r"rate_per_s: made\.csv has no arrival times"):
        source.draw(0, 10.0)
    with pytest.raises(ConfigError, match="no request arrives"):
        source.draw(0, 1e-9, 1.0)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"duration_s": 0}, "duration_s: 0 is outside"),
        ({"rate_per_s": 0}, "rate_per_s: 0 is outside"),
        ({"rate_per_s": float("nan")}, "rate_per_s: nan is outside"),
        ({"seed": -1}, "seed: -1 is outside"),
        ({"max_prompt_tokens": -5}, "max_prompt_tokens: -5 is outside"),
        ({"max_prompt_tokens": 5.5}, "max_prompt_tokens: expected a whole number, got 5.5"),
        ({"duration_s": 1e12}, "requests are more than"),
        ({"duration_s": 1e-9}, "no request in the slice of duration_s 1e-09"),
    ],
)
def test_bad_draws(changes: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        workload().draw(**{"seed": 0, "duration_s": 10.0, **changes})


def test_recordings_without_a_rate_are_refused() -> None:
    plain = table(3)
    at_once = TraceTable(Path("x.csv"), "csv", np.ones(3), plain.prompt_tokens, plain.output_tokens)
    with pytest.raises(ConfigError, match=r"x\.csv: arrival_s: 3 requests at one time"):
        workload(table=at_once)
    with pytest.raises(ConfigError, match="no arrival times"):
        workload(table=table(timed=False))
    with pytest.raises(ConfigError, match="jitter_s: -1 is outside"):
        workload(jitter_s=-1)


@pytest.mark.skipif(not TRACES.is_dir(), reason="the recorded traces are not on this machine")
@pytest.mark.parametrize(
    ("name", "rows", "rate_per_s"),
    [
        ("azure2023_code_a.csv.gz", 5353, None),
        ("azure2023_conv_a.csv.gz", 9732, None),
        ("lengths_arxiv_summarization_a.csv.gz", 14128, 2.0),
        ("lengths_sharegpt_a.csv.gz", 15365, 2.0),
        ("mooncake_conversation_a.csv.gz", 5719, None),
        ("mooncake_conversation_a_hashes.jsonl.gz", 5719, None),
        ("servegen_mlarge_a.csv.gz", 28682, None),
    ],
)
def test_real_traces(name: str, rows: int, rate_per_s: float | None) -> None:
    source = trace_workload(TRACES / name)
    assert len(source.table) == rows
    trace = source.draw(0, 300.0, rate_per_s, 8192)
    assert trace == source.draw(0, 300.0, rate_per_s, 8192)
    assert len(trace) > 300
    assert trace.prompt_tokens.max() <= 8192
    assert (trace.block_ids is not None) == ("hashes" in name)
