"""Recorded traffic of a few requests, for tests of the twin."""

from __future__ import annotations

from agents.recorded import RecordedTraffic
from agents.twin.traffic import Segment, complete
from ewsjf_env.records import RequestRecord


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
