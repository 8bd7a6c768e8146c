"""What the engines in real time do without a server; with one see tests/serving."""

from __future__ import annotations

from typing import Any

import pytest

from ewsjf_env.config import ConfigError, from_dict
from ewsjf_env.engine.base import EngineError
from ewsjf_env.engine.real.open_loop import prompt_tokens
from ewsjf_env.engine.real.remote import RemoteConfig, RemoteEngine
from ewsjf_env.engine.real.server_log import ServerLog
from ewsjf_env.measure.records import RequestRecord

NAMES = (
    "output_tokens",
    "prefill_tokens",
    "preemptions",
    "kv_usage_s",
    "admitted_prompt_tokens",
    "admitted_cached_tokens",
    "steps",
    "scheduler_s",
)


def rank(number: int = 0, now_s: float = 0.0, count: float = 0.0, **changes: Any) -> dict[str, Any]:
    return {
        "rank": number,
        "instance": f"i{number}",
        "policy_version": 3,
        "now_s": now_s,
        "cuts": [100],
        "finished": [],
        "open": [],
        "more": False,
        "lost": 0,
        "counters": dict.fromkeys(NAMES, count),
    } | changes


def answer(*ranks: dict[str, Any]) -> dict[str, Any]:
    return {"next": ".".join("7" for _ in ranks), "ranks": list(ranks)}


def row(
    name: str, arrival_s: float, first_s: float | None, finish_s: float | None, why: Any
) -> Any:
    return [name, arrival_s, 50, 8, 0, 4, first_s, finish_s, 0, why]


def test_records_of_all_ranks_come_on_one_clock() -> None:
    log = ServerLog(keep_records=True)
    first = rank(0, 1000.5, finished=[row("a", 1000.0, 1000.2, 1000.4, "length")])
    second = rank(1, 70.5, open=[row("b", 70.1, None, None, None)])
    log.take(answer(first, second), 0.4, 0.6)
    assert log.cursor == "7.7"
    assert log.records(0.5) == [
        RequestRecord("a", 0.0, 50, 8, 0, 4, pytest.approx(0.2), pytest.approx(0.4)),
        RequestRecord("b", pytest.approx(0.1), 50, 8, 0, 4),
    ]
    # The past of a request, as it stood then.
    (early,) = log.records(0.05)
    assert (early.first_token_s, early.finish_s) == (None, None)


def test_a_quicker_answer_sets_the_clock_better() -> None:
    log = ServerLog(keep_records=True)
    log.take(answer(rank(now_s=100.9, open=[row("a", 100.0, None, None, None)])), 0.0, 1.0)
    log.take(answer(rank(now_s=102.0, open=[row("a", 100.0, None, None, None)])), 1.99, 2.01)
    log.take(answer(rank(now_s=103.9, open=[row("a", 100.0, None, None, None)])), 3.0, 4.0)
    (record,) = log.records(4.0)
    assert record.arrival_s == pytest.approx(0.0)


def test_requests_that_were_given_up_are_records_with_their_age() -> None:
    """They were dropped: a policy whose victims give up looked better (vLLM #55634)."""
    log = ServerLog(keep_records=True)
    rows = [row(name, 0.0, None, 1.0, name) for name in ("abort", "error", "stop")]
    log.take(answer(rank(finished=rows)), 0.0, 0.0)
    assert [(r.request_id, r.outcome) for r in log.records(5.0)] == [
        ("abort", "aborted"),
        ("error", "aborted"),
        ("stop", "served"),
    ]
    # Before that moment they wait like all others.
    assert {(r.finish_s, r.outcome) for r in log.records(0.5)} == {(None, "served")}


def test_counters_are_added_and_scaled_to_the_window() -> None:
    log = ServerLog(keep_records=False)
    before = log.take(answer(rank(0, count=1.0), rank(1, count=10.0)), 0.0, 0.0)
    after = log.take(answer(rank(0, count=101.0), rank(1, count=110.0)), 5.0, 5.0)
    found = after.since(before, 4.0)
    assert (found.output_tokens, found.prefill_tokens) == (160, 160)
    assert found.kv_usage_mean == 200.0 / (5.0 * 2)
    assert found.prefix_hit_rate == 1.0
    assert found.scheduler_us_per_step == 1e6
    assert found.queues == 2


def test_a_restart_is_noticed() -> None:
    log = ServerLog(keep_records=False)
    log.take(answer(rank()), 0.0, 0.0)
    with pytest.raises(EngineError, match="restarted"):
        log.take(answer(rank(instance="other")), 1.0, 1.0)


def test_prompts_differ_but_for_a_shared_prefix() -> None:
    assert len(prompt_tokens(0, 700, None, 5)) == 700
    assert prompt_tokens(0, 700, None, 5) != prompt_tokens(1, 700, None, 5)
    assert prompt_tokens(0, 700, None, 5) != prompt_tokens(0, 700, None, 6)
    blocks = ((11, 12), (11, 13))
    first, second = (prompt_tokens(index, 900, blocks, 5) for index in (0, 1))
    assert len(first) == len(second) == 900
    assert first[:512] == second[:512]
    assert first[512] != second[512]
    assert min(first) >= 1000 and max(first) < 21_000


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"ur": "x"}, "unknown key 'ur'; nearest valid name: 'url'"),
        ({"url": "127.0.0.1:8000"}, "url: .* is not like http"),
        ({"url": "http://127.0.0.1:99999"}, "url: .* is not like http"),
        ({"url": "http://me:secret@host:1"}, "url: .* is not like http"),
        ({"url": "http://127.0.0.1:8000/v1"}, "has a path"),
        ({"urls": ["http://h:1", "h:2"]}, "urls: 'h:2' is not like http"),
        ({"urls": ["http://h:1", "http://h:1/"]}, "urls: 'http://h:1' occurs twice"),
        ({"url": "http://h:1", "urls": ["http://h:2"]}, "url, urls: both 'http://h:1' and a list"),
        ({"urls": "http://h:1"}, "urls: expected a list"),
        ({"urls": ["http://h:1", "http://h:2"], "ranks": 1}, r"ranks: 1 is outside \[2, inf"),
        ({"mode": "drive"}, "mode: 'drive' is not one of"),
        ({"lease_s": 1.0}, r"lease_s: 1.0 is outside \[5"),
        ({"speed": 0.0}, "speed"),
        ({"timeout_s": 0.0}, "timeout_s"),
    ],
)
def test_bad_settings_are_refused(data: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_dict(RemoteConfig, data, "remote")


def test_making_an_engine_contacts_nobody() -> None:
    engine = RemoteEngine(RemoteConfig(url="http://host.invalid:1"))
    assert engine.prefill_cost_s(100) > 0
    assert engine.now() == 0.0 and engine.cuts() == ()
    engine.close()
