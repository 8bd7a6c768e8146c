"""Synthetic traffic: reproducible, at the asked rate, with the asked lengths and phases."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ewsjf_env.config import ConfigError
from ewsjf_env.workload.arrivals import ArrivalLaw
from ewsjf_env.workload.builtin import BUILTIN
from ewsjf_env.workload.lengths import LengthLaw
from ewsjf_env.workload.synthetic import Phase, RequestClass, SyntheticWorkload
from ewsjf_env.workload.trace import Workload

ONE = LengthLaw("constant", tokens=100)
TWO = LengthLaw("constant", tokens=2000)
CLASSES = (RequestClass("short", 3, ONE, ONE), RequestClass("long", 1, TWO, ONE))


def workload(**changes: Any) -> SyntheticWorkload:
    return SyntheticWorkload(**{"name": "w", "classes": CLASSES, "rate_per_s": 5.0, **changes})


@pytest.mark.parametrize("name", BUILTIN)
@given(seed=st.integers(0, 2**63), duration_s=st.floats(60, 200), rate=st.floats(2, 20))
@settings(max_examples=10, deadline=None)
def test_a_draw_is_reproducible_and_valid(
    name: str, seed: int, duration_s: float, rate: float
) -> None:
    source = BUILTIN[name]
    assert isinstance(source, Workload)
    first = source.draw(seed, duration_s, rate, 4096)
    assert first == source.draw(seed, duration_s, rate, 4096)
    assert first != source.draw(seed + 1, duration_s, rate, 4096)
    assert np.all(np.diff(first.arrival_s) >= 0)
    assert 0 <= first.arrival_s[0] <= first.arrival_s[-1] < duration_s
    assert first.prompt_tokens.max() <= 4096


@pytest.mark.parametrize("name", BUILTIN)
def test_the_mean_rate_is_the_asked_one(name: str) -> None:
    counts = [len(BUILTIN[name].draw(seed, 400.0, 6.0)) for seed in range(40)]
    cv = BUILTIN[name].arrivals.cv or 1.0
    error = cv * np.sqrt(6.0 * 400.0 / 40)
    assert abs(np.mean(counts) - 6.0 * 400.0) < 4 * error


@pytest.mark.parametrize("cv", [0.1, 0.5, 1.0, 3.0])
def test_gamma_gaps_have_the_asked_variation(cv: float) -> None:
    arrivals = ArrivalLaw("gamma", cv=cv)
    gaps = np.diff(workload(arrivals=arrivals).draw(1, 4000.0).arrival_s)
    assert gaps.std() / gaps.mean() == pytest.approx(cv, rel=0.1)


def test_regular_arrivals_do_not_all_start_at_the_same_moment() -> None:
    source = workload(arrivals=ArrivalLaw("gamma", cv=0.1), rate_per_s=1.0)
    starts = [source.draw(seed, 50.0).arrival_s[0] for seed in range(60)]
    assert np.std(starts) == pytest.approx(12**-0.5, rel=0.3)


def test_rates_share_their_pattern_and_their_lengths() -> None:
    slow = workload(arrivals=ArrivalLaw("gamma", cv=2.0)).draw(3, 200.0, 2.0)
    fast = workload(arrivals=ArrivalLaw("gamma", cv=2.0)).draw(3, 200.0, 6.0)
    assert np.allclose(slow.arrival_s / 3, fast.arrival_s[: len(slow)])
    assert np.array_equal(slow.prompt_tokens, fast.prompt_tokens[: len(slow)])


def test_arrivals_do_not_depend_on_the_length_mix() -> None:
    other = (RequestClass("other", 1, LengthLaw("uniform", low_tokens=1, high_tokens=9), ONE),)
    first, second = workload().draw(4, 60.0), workload(classes=other).draw(4, 60.0)
    assert np.array_equal(first.arrival_s, second.arrival_s)


def test_the_paper_mix_has_its_shares_and_ranges() -> None:
    trace = BUILTIN["paper_mix"].draw(0, 2000.0, 8.0)
    short, long = trace.prompt_tokens <= 256, trace.prompt_tokens >= 1024
    assert np.all(short | long)
    assert short.mean() == pytest.approx(0.8, abs=0.02)
    assert (trace.prompt_tokens.min(), trace.prompt_tokens.max()) == (32, 4096)
    assert (trace.output_tokens.min(), trace.output_tokens.max()) == (64, 192)
    assert trace.prompt_tokens[long].mean() == pytest.approx(2560, rel=0.03)


def test_a_mix_jumps_at_its_phase_and_keeps_the_mean_rate() -> None:
    phases = (
        Phase(start_fraction=0.0, shares={"short": 1.0}),
        Phase(start_s=500.0, shares={"long": 2.0}, rate_factor=0.25),
    )
    trace = workload(phases=phases).draw(5, 1000.0, 5.0)
    before = trace.arrival_s < 500.0
    assert np.all(trace.prompt_tokens[before] == 100)
    assert np.all(trace.prompt_tokens[~before] == 2000)
    assert before.sum() / (~before).sum() == pytest.approx(4.0, rel=0.15)
    assert len(trace) == pytest.approx(5000, rel=0.06)


def test_phases_after_the_end_are_left_out_and_counted() -> None:
    phases = (Phase(start_s=50.0, shares={"long": 1.0}), Phase(start_s=500.0))
    source = workload(phases=phases)
    assert source.draw(0, 20.0).notes["phases_not_reached"] == 2
    assert source.draw(0, 200.0).notes["phases_not_reached"] == 1
    assert source.draw(0, 600.0).notes["phases_not_reached"] == 0


def test_a_class_without_share_never_appears() -> None:
    phases = (Phase(start_fraction=0.0, shares={"short": 0.1, "long": 0.0}),)
    assert np.all(workload(phases=phases).draw(0, 500.0).prompt_tokens == 100)


def test_a_backlog_has_the_mix_of_the_whole_run() -> None:
    phases = (
        Phase(start_fraction=0.0, shares={"short": 1.0}),
        Phase(start_fraction=0.5, shares={"long": 1.0}),
    )
    trace = workload(phases=phases).draw_backlog(0, 4000)
    assert len(trace) == 4000
    assert np.all(trace.arrival_s == 0)
    assert (trace.prompt_tokens == 2000).mean() == pytest.approx(0.5, abs=0.04)
    by_seconds = (Phase(start_s=0.0, shares={"short": 1.0}), Phase(start_s=9.0, shares={"long": 1}))
    trace = workload(phases=by_seconds).draw_backlog(0, 4000)
    assert (trace.prompt_tokens == 2000).mean() == pytest.approx(0.5, abs=0.04)


def test_prompts_are_capped_and_counted() -> None:
    trace = workload().draw(0, 200.0, max_prompt_tokens=500)
    assert trace.notes["capped_prompts"] == (trace.prompt_tokens == 500).sum() > 0
    strict = workload(max_prompt_tokens=300).draw(0, 200.0, max_prompt_tokens=500)
    assert strict.prompt_tokens.max() == 300


def test_priorities_follow_the_class() -> None:
    classes = (RequestClass("a", 1, ONE, ONE, priority=-1), RequestClass("b", 1, TWO, ONE))
    trace = workload(classes=classes).draw(0, 100.0)
    assert trace.priority is not None
    assert np.array_equal(trace.priority, np.where(trace.prompt_tokens == 100, -1, 0))
    assert workload().draw(0, 100.0).priority is None


@given(
    low=st.integers(1, 5000),
    width=st.integers(0, 5000),
    kind=st.sampled_from(["uniform", "lognormal"]),
    seed=st.integers(0, 9),
)
@settings(max_examples=40, deadline=None)
def test_lengths_stay_in_their_range(low: int, width: int, kind: str, seed: int) -> None:
    if kind == "uniform":
        law = LengthLaw("uniform", low_tokens=low, high_tokens=low + width)
    else:
        law = LengthLaw(
            "lognormal",
            median_tokens=low + width / 2,
            sigma=1.0,
            low_tokens=low,
            high_tokens=low + width + 1,
        )
    uniforms = np.append(np.random.default_rng(seed).random(50), [0.0, np.nextafter(1.0, 0.0)])
    lengths = law.at(uniforms)
    assert lengths.dtype == np.int64
    assert lengths.min() >= low
    assert lengths.max() <= low + width + (kind == "lognormal")
    assert np.all(np.diff(law.at(np.sort(uniforms))) >= 0)


def test_a_lognormal_has_its_median_and_spread() -> None:
    law = LengthLaw(
        "lognormal", median_tokens=1000, sigma=0.5, low_tokens=1, high_tokens=10_000_000
    )
    lengths = law.at(np.random.default_rng(0).random(20_000))
    assert np.median(lengths) == pytest.approx(1000, rel=0.03)
    assert np.log(lengths).std() == pytest.approx(0.5, rel=0.03)


BAD_DRAWS: dict[str, tuple[dict[str, Any], str]] = {
    "no duration": ({"duration_s": 0.0}, r"duration_s: 0.0 is outside \(0, inf\)"),
    "negative duration": ({"duration_s": -3}, "duration_s: -3 is outside"),
    "nan duration": ({"duration_s": float("nan")}, "duration_s: nan is outside"),
    "no rate": ({"rate_per_s": 0.0}, "rate_per_s: 0.0 is outside"),
    "negative rate": ({"rate_per_s": -1.0}, "rate_per_s: -1.0 is outside"),
    "infinite rate": ({"rate_per_s": float("inf")}, "rate_per_s: inf is outside"),
    "text rate": ({"rate_per_s": "fast"}, "rate_per_s: expected a number, got 'fast'"),
    "absurd rate": ({"rate_per_s": 1e12}, "requests are more than"),
    "negative seed": ({"seed": -1}, "seed: -1 is outside"),
    "half a seed": ({"seed": 0.5}, "seed: expected a whole number, got 0.5"),
    "no prompt": ({"max_prompt_tokens": 0}, "max_prompt_tokens: 0 is outside"),
    "no request": ({"duration_s": 1e-9}, "no request arrives in duration_s 1e-09"),
}


@pytest.mark.parametrize("case", BAD_DRAWS)
def test_bad_draws(case: str) -> None:
    changes, expected = BAD_DRAWS[case]
    with pytest.raises(ConfigError, match=expected):
        workload().draw(**{"seed": 0, "duration_s": 10.0, **changes})


@pytest.mark.parametrize("count", [0, -1, 1e12])
def test_bad_backlogs(count: int) -> None:
    with pytest.raises(ConfigError, match="count"):
        workload().draw_backlog(0, count)


BAD_SPECS: dict[str, tuple[dict[str, Any], str]] = {
    "no class": ({"classes": ()}, "classes: expected at least one"),
    "same name": ({"classes": (CLASSES[0], CLASSES[0])}, "'short' is used twice"),
    "no share": ({"classes": (RequestClass("a", 0, ONE, ONE),)}, "at least one must be above 0"),
    "rate": ({"rate_per_s": 0.0}, "rate_per_s: 0.0 is outside"),
    "unknown class": (
        {"phases": (Phase(start_s=0.0, shares={"shorrt": 1}),)},
        "unknown class 'shorrt'; nearest valid name: 'short'",
    ),
    "empty phase": ({"phases": (Phase(start_s=0, shares={"short": 0}),)}, "above 0"),
}


@pytest.mark.parametrize("case", BAD_SPECS)
def test_bad_workloads(case: str) -> None:
    changes, expected = BAD_SPECS[case]
    with pytest.raises(ConfigError, match=expected):
        workload(**changes)


def test_phases_out_of_order() -> None:
    source = workload(phases=(Phase(start_s=50.0), Phase(start_s=20.0)))
    with pytest.raises(ConfigError, match=r"phases\[1\]: starts at 20.0 s, before the phase"):
        source.draw(0, 100.0)


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        (lambda: Phase(), "exactly one of start_s and start_fraction"),
        (lambda: Phase(start_s=1, start_fraction=0.5), "exactly one"),
        (lambda: Phase(start_s=-1), "start_s: -1 is outside"),
        (lambda: Phase(start_fraction=1.0), "start_fraction: 1.0 is outside"),
        (lambda: Phase(start_s=0, rate_factor=0), "rate_factor: 0 is outside"),
        (lambda: Phase(start_s=0, shares={"a": -1}), "shares: a: -1 is outside"),
        (lambda: RequestClass("a", -1, ONE, ONE), "share: -1 is outside"),
        (lambda: ArrivalLaw("gamma"), "cv: missing"),
        (lambda: ArrivalLaw("gamma", cv=0.0), "cv: 0.0 is outside"),
        (lambda: ArrivalLaw("poisson", cv=2.0), "no meaning for poisson"),
        (lambda: LengthLaw("constant"), "tokens: missing"),
        (lambda: LengthLaw("constant", tokens=0), "tokens: 0 is outside"),
        (lambda: LengthLaw("constant", tokens=10_000_001), "tokens: 10000001 is outside"),
        (lambda: LengthLaw("constant", tokens=5, sigma=1.0), "sigma: 1.0 has no meaning"),
        (lambda: LengthLaw("uniform", low_tokens=5, high_tokens=4), "high_tokens: 4 is below"),
        (lambda: LengthLaw("uniform", low_tokens=5), "high_tokens: missing"),
        (
            lambda: LengthLaw(
                "lognormal", median_tokens=10, sigma=0.01, low_tokens=10**6, high_tokens=10**7
            ),
            "leaves nothing in",
        ),
        (
            lambda: LengthLaw(
                "lognormal", median_tokens=10, sigma=0.0, low_tokens=1, high_tokens=10
            ),
            "sigma: 0.0 is outside",
        ),
    ],
)
def test_bad_parts(build: Any, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        build()
