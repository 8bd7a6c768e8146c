"""A record comes back as it was written, and a metric stands wherever windows are shown."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest

from agents.core.window import WindowRecord, tag_names
from agents.experiments.policies.report import COLUMNS
from agents.experiments.tuners.tuning_runs import metric_means
from agents.runs.tensorboard.tags import columns
from ewsjf_env.env.task import load_tuning
from ewsjf_env.measure.objective import METRIC_NAMES
from ewsjf_env.measure.records import WindowMetrics
from tests.agents.windows import TASK, facts, records
from tests.measure.window_metrics import metrics

SPACE = load_tuning(TASK).space()
FIELDS = {field.name: field.metadata for field in dataclasses.fields(WindowMetrics)}


def read(line: str, number: int) -> WindowRecord:
    return WindowRecord.from_json(line.encode(), number, SPACE, (), "here")


@pytest.mark.parametrize("agent", ["random", "bayes"])
def test_a_line_holds_the_whole_record(agent: str) -> None:
    for number, record in enumerate(records(agent, 6)):
        line = json.dumps(record.to_json(), allow_nan=False)
        again = read(line, number)
        assert json.dumps(again.to_json()) == line
        assert again.scalars(SPACE) == record.scalars(SPACE)
        assert again.transition() == record.transition()


def test_an_agent_is_shown_what_it_proposed() -> None:
    record = records("bayes", 6)[3]
    transition = record.transition()
    assert transition.proposed == record.plan.proposed
    assert transition.role == record.plan.role == "candidate"
    assert transition.values == record.served.values


def test_a_metric_stands_in_every_record_and_table() -> None:
    record = records("random", 1)[0]
    assert record.metrics is not None
    assert record.to_json()["metrics"].keys() == FIELDS.keys()
    tags = {how["tag"] for how in FIELDS.values() if how.get("tag")}
    assert tags <= set(tag_names({})) <= set(columns(facts("random", 1)))
    titles = {name for name, how in FIELDS.items() if how.get("column")}
    assert {column.metric for column in COLUMNS} == titles
    assert metric_means([record.metrics]).keys() == set(METRIC_NAMES)
    assert set(METRIC_NAMES) == FIELDS.keys() - {"exact", "scheduler_us_per_step"}


def test_every_metric_of_an_engine_says_how_it_is_measured() -> None:
    assert {name for name, how in FIELDS.items() if "measure" not in how} == {"exact"}


def test_means_leave_out_what_was_not_measured() -> None:
    windows = [metrics(wait_max_s=2.0), metrics(wait_max_s=math.nan), metrics(wait_max_s=4.0)]
    assert metric_means(windows)["wait_max_s"] == 3.0
    assert metric_means([metrics(ttft_long_p95_s=math.nan)])["ttft_long_p95_s"] is None


def test_metrics_that_a_line_lacks_are_not_known() -> None:
    """A metric that a later version adds does not make older runs useless."""
    data = records("random", 1)[0].to_json()
    del data["metrics"]["ttft_long_p99_s"]
    found = read(json.dumps(data), 0)
    assert found.metrics is not None
    assert math.isnan(found.metrics.ttft_long_p99_s)
