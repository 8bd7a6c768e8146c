"""C(b) is learned from steps, keeps the prior while it fits badly, and is never absurd."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ewsjf_env.config import ConfigError
from ewsjf_env.scheduling.cost import (
    CostPrior,
    PrefillCostModel,
)
from ewsjf_env.scheduling.step_work import StepWork

PRIOR = CostPrior(c0_s=0.002, c1_s_per_token=3e-4, c2_s_per_token2=1e-9)
TRUTH = (0.018, 1.2e-4, 2.4e-9, 6e-5, 1.1e-7)  # overhead, token, pair, decode, context token


def steps(count, seed=0, noise=0.05, truth=TRUTH):
    """Mixed steps as a chunked scheduler makes them, and their noisy times."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        decodes = int(rng.integers(0, 64))
        tokens = 0 if rng.random() < 0.5 else int(rng.integers(16, 8193))
        before = int(rng.integers(0, 8192)) if rng.random() < 0.3 else 0
        if tokens + decodes == 0:
            continue
        sample = StepWork(
            tokens, tokens * (before + tokens / 2), decodes, decodes * int(rng.integers(64, 3000))
        )
        yield sample, true_s(sample, truth) * rng.lognormal(0, noise)


def true_s(sample, truth=TRUTH):
    return (
        truth[0]
        + truth[1] * sample.prefill_tokens
        + truth[2] * sample.prefill_attention
        + truth[3] * sample.decode_requests
        + truth[4] * sample.context_tokens
    )


def alone_s(tokens, truth=TRUTH):
    return true_s(StepWork(tokens, tokens * tokens / 2, 0, 0), truth)


def taught(count, prior=PRIOR, **kwargs):
    model = PrefillCostModel(prior)
    for sample, step_s in steps(count, **kwargs):
        model.observe(sample, step_s)
    return model


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    "prior", [PRIOR, CostPrior(0.0, 0.0, 0.0), CostPrior(5.0, 0.01, 1e-6)], ids=str
)
def test_known_costs_are_recovered_from_noisy_steps(seed, prior):
    model = taught(4000, prior, seed=seed)
    assert model.r2 > 0.95 and not model.uses_prior
    for tokens in (64, 256, 1024, 4096, 8192):
        assert model.cost_s(tokens) == pytest.approx(alone_s(tokens), rel=0.06)
    assert model.coefficients[1] == pytest.approx(TRUTH[1], rel=0.08)
    assert model.coefficients[2] == pytest.approx(TRUTH[2] / 2, rel=0.25)


def test_steps_without_noise_give_nearly_the_exact_cost():
    model = taught(2000, noise=0.0)
    assert model.r2 == pytest.approx(1, abs=1e-3)
    for tokens in (1, 100, 8000):
        assert model.cost_s(tokens) == pytest.approx(alone_s(tokens), rel=3e-3)


def test_the_prior_holds_at_first():
    model = taught(60)
    assert model.uses_prior and model.cost_s(1000) == pytest.approx(0.002 + 0.3 + 0.001)


def test_the_prior_holds_while_nothing_is_explained():
    rng = np.random.default_rng(0)
    model = PrefillCostModel(PRIOR)
    for sample, _ in steps(3000):
        model.observe(sample, rng.exponential(0.1))
    assert model.observed > 2500 and model.r2 < 0.5
    assert model.coefficients == (0.002, 3e-4, 1e-9)


def test_the_prior_returns_when_the_fit_is_lost():
    model = taught(2000)
    assert not model.uses_prior
    rng = np.random.default_rng(0)
    for sample, _ in steps(6000, seed=1):
        model.observe(sample, rng.exponential(0.3))
    assert model.r2 < 0.5 and model.uses_prior


def test_decode_steps_alone_leave_the_prefill_prior():
    rng = np.random.default_rng(0)
    model = PrefillCostModel(PRIOR)
    for _ in range(2000):
        decodes = int(rng.integers(1, 200))
        sample = StepWork(0, 0.0, decodes, 1000 * decodes)
        model.observe(sample, true_s(sample) * rng.lognormal(0, 0.02))
    assert model.coefficients[1] == pytest.approx(PRIOR.c1_s_per_token)
    assert model.coefficients[2] == pytest.approx(PRIOR.c2_s_per_token2)


def test_full_steps_keep_the_proportions_of_the_prior():
    # Overload: every step is filled to the budget, so overhead and tokens cannot be told apart.
    rng = np.random.default_rng(0)
    model = PrefillCostModel(CostPrior(TRUTH[0] / 3, TRUTH[1] / 3, TRUTH[2] / 6))
    for _ in range(4000):
        decodes = int(rng.integers(20, 120))
        tokens = 2048 - decodes
        before = int(rng.integers(0, 8192))
        sample = StepWork(tokens, tokens * (before + tokens / 2), decodes, 800 * decodes)
        model.observe(sample, true_s(sample) * rng.lognormal(0, 0.03))
    assert not model.uses_prior
    assert model.cost_s(2048) == pytest.approx(alone_s(2048), rel=0.05)
    assert model.cost_s(64) == pytest.approx(alone_s(64), rel=0.35)


def test_a_lasting_change_is_followed():
    model = taught(3000)
    slower = tuple(3 * c for c in TRUTH)
    for sample, step_s in steps(6000, seed=1, truth=slower):
        model.observe(sample, step_s)
    assert model.cost_s(4096) == pytest.approx(alone_s(4096, slower), rel=0.06)


def test_stalls_teach_little():
    model = PrefillCostModel(PRIOR)
    for i, (sample, step_s) in enumerate(steps(4000)):
        model.observe(sample, 30.0 if i % 100 == 99 else step_s)
    assert model.r2 > 0.8
    for tokens in (256, 1024, 4096):
        assert model.cost_s(tokens) == pytest.approx(alone_s(tokens), rel=0.10)


JUNK = [
    (StepWork(100, 5000.0, 0, 0), float("nan")),
    (StepWork(100, 5000.0, 0, 0), float("inf")),
    (StepWork(100, 5000.0, 0, 0), 0.0),
    (StepWork(100, 5000.0, 0, 0), -1.0),
    (StepWork(100, 5000.0, 0, 0), 60.1),
    (StepWork(0, 0.0, 0, 0), 0.1),
    (StepWork(-100, 5000.0, 0, 0), 0.1),
    (StepWork(100, float("nan"), 0, 0), 0.1),
    (StepWork(100, float("inf"), 0, 0), 0.1),
    (StepWork(100, 5000.0, 0, 10**300), 0.1),
]


@pytest.mark.parametrize(("sample", "step_s"), JUNK)
def test_junk_is_refused(sample, step_s):
    model = PrefillCostModel(PRIOR)
    model.observe(sample, step_s)
    assert (model.observed, model.ignored) == (0, 1)


def test_junk_between_steps_changes_nothing():
    model, clean = PrefillCostModel(PRIOR), taught(2000)
    for i, (sample, step_s) in enumerate(steps(2000)):
        model.observe(sample, step_s)
        model.observe(*JUNK[i % len(JUNK)])
    assert model.coefficients == clean.coefficients and model.r2 == clean.r2


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(
        st.tuples(
            st.integers(-5, 200_000),
            st.floats(-10, 1e12),
            st.integers(-1, 4096),
            st.integers(-1, 10**9),
            st.floats(),
        ),
        max_size=70,
    ),
    repeats=st.integers(1, 8),
)
def test_never_negative_never_decreasing_always_finite(rows, repeats):
    model = PrefillCostModel(PRIOR, min_r2=0.0)
    for tokens, attention, decodes, context, step_s in rows * repeats:
        model.observe(StepWork(tokens, attention, decodes, context), step_s)
    costs = [model.cost_s(b) for b in (0, 1, 10, 100, 1000, 10_000, 1_000_000)]
    assert costs[0] >= 1e-3 and costs == sorted(costs) and np.isfinite(costs).all()
    assert min(model.coefficients) >= 0 and -1 <= model.r2 <= 1


def test_equal_step_times_explain_nothing():
    model = PrefillCostModel(PRIOR)
    for _ in range(500):
        model.observe(StepWork(2048, 2048**2 / 2, 0, 0), 0.25)
    assert model.r2 == 0.0 and model.uses_prior


def test_the_minimum_holds():
    model = PrefillCostModel(CostPrior(0.0, 1e-6, 0.0), minimum_s=0.01)
    assert model.cost_s(1) == 0.01
    assert model.cost_s(100_000) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"c0_s": -1e-9}, r"c0_s: -1e-09 is outside \[0, 60\]"),
        ({"c1_s_per_token": float("nan")}, "c1_s_per_token"),
        ({"c2_s_per_token2": 0.1}, "c2_s_per_token2"),
    ],
)
def test_bad_priors_are_refused(change, message):
    values = {"c0_s": 0.01, "c1_s_per_token": 1e-4, "c2_s_per_token2": 0.0, **change}
    with pytest.raises(ConfigError, match=message):
        CostPrior(**values)


@pytest.mark.parametrize("change", [{"minimum_s": 0.0}, {"forgetting": 1.1}, {"min_r2": 2.0}])
def test_bad_model_settings_are_refused(change):
    with pytest.raises(ConfigError, match=next(iter(change))):
        PrefillCostModel(PRIOR, **change)
