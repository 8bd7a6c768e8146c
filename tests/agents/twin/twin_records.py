"""Tasks and recorded traffic of a few requests, for tests of the twin."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agents.core.requests import RecordedTraffic
from agents.twin.blocks import Segment, complete
from ewsjf_env.measure.records import RequestRecord
from tests.agents.run_folders import TASK

FAKE: Mapping[str, Any] = {
    **TASK,
    "fake": {**TASK["fake"], "noise_sigma": 0.2, "noise_s": 5.0},
    "window_s": 12.0,
    "settle_s": 2.0,
    "warmup_s": 3.0,
    "constraints": [{"metric": "ttft_p95_s", "limit": 1.5}],
}
QUICK: dict[str, Any] = {
    "search": {"candidates": 64, "refinements": 1},
    "twin": {
        "jobs": 0,
        "simulated_s_per_window": 500.0,
        "drawn_blocks": 1,
        "candidates": 6,
        "finalists": 2,
        "rounds": 2,
    },
}
SIMULATED: Mapping[str, Any] = {
    "workload": "mixed",
    "rates_per_s": [8.0],
    "policy": "ewsjf(lambda=0;mu=0;k=1)",
    "reference": "ewsjf(lambda=0;mu=0;k=1)",
    "tuned": ["lambda", "k"],
    "windows": 3,
    "window_s": 8.0,
    "settle_s": 2.0,
    "warmup_s": 4.0,
}


def request(
    arrival_s: float, prompt: int, generated: int, finish_s: float | None = None
) -> RequestRecord:
    return RequestRecord(
        "r", arrival_s, prompt, 999, 0, generated, arrival_s + 0.5 if generated else None, finish_s
    )


def recorded(rows: list[RequestRecord], until_s: float = 10.0, **edges: float) -> RecordedTraffic:
    since_s = edges.get("since_s", 0.0)
    return RecordedTraffic.of(rows, (since_s, since_s + 2.0, until_s, until_s))


def segment(record: RecordedTraffic, number: int = 0, position: int = 0) -> Segment:
    return Segment(number, record, complete(record, (), (0,)), True, position)


ROWS = [request(i / 10, 50 + 30 * (i % 20), 5 + i % 30, 9.9) for i in range(100)]
