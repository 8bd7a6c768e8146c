import math

import pytest

from ewsjf_env.config import ConfigError, from_dict
from ewsjf_env.measure.constraints import Constraint, margins
from ewsjf_env.measure.objective import (
    OBJECTIVES,
    ObjectiveSettings,
    Outcome,
    Reward,
    relative_objective,
)
from ewsjf_env.measure.records import WindowMetrics
from ewsjf_env.measure.traffic import QueueStatistics
from tests.measure.window_metrics import PLAIN, metrics

QUEUES = QueueStatistics(queues=8, length_cv=0.3, work_cv=0.7)


def judge(settings: ObjectiveSettings, window: WindowMetrics = PLAIN) -> Reward:
    return settings.reward(Outcome(window, PLAIN, QUEUES))


def test_j_by_hand() -> None:
    window = metrics(
        output_tokens_per_s=600.0, ttft_short_p95_s=0.5, slowdown_long_p95=30.0, overdue_share=0.2
    )
    reward = relative_objective(window, PLAIN)
    assert reward.terms == pytest.approx(
        {
            "throughput": math.log(1.5),
            "ttft_short": 0.5 * math.log(2.0),
            "slowdown_long": -0.5 * math.log(1.5),
            "overdue": -0.1,
            "queues": 0.0,
        }
    )
    assert reward.total == pytest.approx(sum(reward.terms.values()))
    assert judge(ObjectiveSettings(), window) == reward


def test_the_reference_itself_is_worth_nothing() -> None:
    assert relative_objective(PLAIN, PLAIN).total == 0.0
    more_queues = metrics(queues=PLAIN.queues + 8)
    assert relative_objective(more_queues, PLAIN).total == pytest.approx(-0.02 * 8 / 32)


def test_a_class_without_requests_contributes_nothing() -> None:
    window = metrics(ttft_short_p95_s=math.nan, slowdown_long_p95=math.nan, overdue_share=math.nan)
    terms = relative_objective(window, PLAIN).terms
    assert terms["ttft_short"] == terms["slowdown_long"] == terms["overdue"] == 0.0


def test_weights_replace_the_default_by_term() -> None:
    window = metrics(ttft_short_p95_s=math.e, overdue_share=0.2)
    weighted = judge(ObjectiveSettings(weights={"ttft_short": 2.0}), window)
    assert weighted.terms["ttft_short"] == pytest.approx(-2.0)
    assert weighted.terms["overdue"] == pytest.approx(-0.1)


def test_the_papers_reward_by_hand() -> None:
    reward = judge(ObjectiveSettings(kind="paper", ttft_target_s=2.0))
    assert reward.terms == pytest.approx(
        {
            "compactness": -0.3,
            "load_balance": -0.7,
            "proliferation": -0.5 * 8 / 32,
            "latency": -4.0 / 2.0,
        }
    )
    assert reward.total == pytest.approx(-3.125)


def test_goodput_divides_by_arrivals() -> None:
    assert judge(ObjectiveSettings(kind="goodput")).total == pytest.approx(30 / 50)
    empty = metrics(arrivals=0, goodput_requests_per_s=0.0)
    assert judge(ObjectiveSettings(kind="goodput"), empty).total == 0.0


def test_weighted_adds_named_metrics() -> None:
    settings = ObjectiveSettings(
        kind="weighted", weights={"requests_per_s": 2.0, "ttft_p95_s": -0.5, "tpot_p95_s": -1.0}
    )
    reward = judge(settings, metrics(tpot_p95_s=math.nan))
    assert dict(reward.terms) == {"requests_per_s": 8.0, "ttft_p95_s": -2.0, "tpot_p95_s": 0.0}
    assert reward.total == 6.0


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_terms_add_up_and_better_is_larger(kind: str) -> None:
    weights = {"ttft_p95_s": -1.0} if kind == "weighted" else {}
    settings = ObjectiveSettings(kind=kind, weights=weights)
    better = metrics(
        output_tokens_per_s=500.0,
        goodput_requests_per_s=4.0,
        ttft_p95_s=2.0,
        ttft_short_p95_s=0.5,
        slowdown_long_p95=10.0,
        overdue_share=0.0,
    )
    plain, good = judge(settings), judge(settings, better)
    assert good.total > plain.total
    assert good.total == pytest.approx(sum(good.terms.values()))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"kind": "relativ"}, "unknown objective 'relativ'; nearest valid name: 'relative'"),
        ({"weights": {"ttft_shrt": 1.0}}, "unknown term 'ttft_shrt'.*'ttft_short'"),
        ({"weights": {"overdue": math.nan}}, "weights: overdue: nan is outside"),
        ({"weights": {"overdue": 1e308}}, "weights: overdue: 1e\\+308 is outside"),
        ({"kind": "weighted"}, "'weighted' needs at least one metric"),
        ({"kind": "weighted", "weights": {"ttft_p59_s": 1.0}}, "unknown term.*'ttft_p[0-9]+_s'"),
        ({"kind": "weighted", "weights": {"scheduler_us_per_step": 1.0}}, "unknown term"),
        ({"kind": "paper", "ttft_target_s": 0.0}, "ttft_target_s"),
    ],
)
def test_bad_settings_are_refused(data: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_dict(ObjectiveSettings, data, "objective")


def test_relative_needs_a_reference() -> None:
    with pytest.raises(ConfigError, match="needs the window of a reference"):
        ObjectiveSettings().reward(Outcome(PLAIN, None, QUEUES))
    assert ObjectiveSettings(kind="paper").reward(Outcome(PLAIN, None, QUEUES)).total < 0


def test_margins_are_logarithms_of_the_ratio_to_the_limit() -> None:
    relative = Constraint("ttft_short_p95_s", 1.2)
    assert relative.margin(metrics(ttft_short_p95_s=1.2), PLAIN) == pytest.approx(0.0)
    assert relative.margin(metrics(ttft_short_p95_s=2.4), PLAIN) == pytest.approx(math.log(2.0))
    assert relative.margin(metrics(ttft_short_p95_s=0.0), PLAIN) < -5.0
    absolute = Constraint("wait_max_s", 5.0, relative=False)
    assert absolute.margin(PLAIN, None) == pytest.approx(math.log(2.0))
    assert margins([relative, absolute], PLAIN, PLAIN) == {
        "ttft_short_p95_s_vs_reference": pytest.approx(-math.log(1.2)),
        "wait_max_s": pytest.approx(math.log(2.0)),
    }


def test_a_small_reference_counts_as_the_floor() -> None:
    constraint = Constraint("ttft_short_p95_s", 2.0, floor=0.5)
    reference = metrics(ttft_short_p95_s=0.01)
    assert constraint.margin(metrics(ttft_short_p95_s=0.9), reference) < 0
    assert constraint.margin(metrics(ttft_short_p95_s=1.1), reference) > 0


def test_what_was_not_measured_is_just_feasible() -> None:
    constraint = Constraint("ttft_short_p95_s", 1.2)
    missing = metrics(ttft_short_p95_s=math.nan)
    assert constraint.margin(missing, PLAIN) == constraint.margin(PLAIN, missing) == 0.0


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"metric": "ttft", "limit": 1.0}, "unknown metric 'ttft'; nearest valid name"),
        ({"metric": "wait_max_s", "limit": 0.0}, "limit"),
        ({"metric": "wait_max_s", "limit": 1.0, "floor": 0.0}, "floor"),
    ],
)
def test_bad_constraints_are_refused(data: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_dict(Constraint, data, "constraint")


def test_a_relative_constraint_needs_a_reference() -> None:
    with pytest.raises(ConfigError, match="needs the window of a reference"):
        Constraint("wait_max_s", 1.5).margin(PLAIN, None)
