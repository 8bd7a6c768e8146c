"""A whole `vllm serve` on the simulated executor: clients, live control, hostile bodies, faults."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest

from ewsjf_env.engine.simulated.latency import LatencyModel
from ewsjf_env.engine.stand_in.model_folder import words
from ewsjf_env.measure.records import RequestRecord, WindowCounters, aggregate
from ewsjf_env.policy.policy import Policy, default_policy, parse_policy
from tests.serving.clients import mixed_calls, send_all
from tests.serving.server import Answer, Server

pytestmark = pytest.mark.live

POLICY = "/ewsjf/policy"


@pytest.fixture(autouse=True)
def default_in_force(server: Server) -> None:
    """Every test starts under the default policy."""
    assert server.ask("PATCH", POLICY, default_policy().to_dict()).status == 200


def patch(server: Server, change: Any, **headers: str) -> Answer:
    body = change if isinstance(change, (bytes, str)) else json.dumps(change)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return server.ask("PATCH", POLICY, body, named)


def in_force(server: Server) -> tuple[int, dict[str, Any]]:
    answer = server.ask("GET", POLICY).json
    return answer["policy_version"], answer["policy"]


def window(server: Server, since: str = "0") -> dict[str, Any]:
    answer = server.ask("GET", f"/ewsjf/window?since={since}")
    assert answer.status == 200
    (rank,) = answer.json["ranks"]
    return {**rank, "cursor": answer.json["next"]}


def until(condition: Callable[[], bool], text: str, patience_s: float = 30.0) -> None:
    deadline_s = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < deadline_s, text
        time.sleep(0.1)


# -- clients ---------------------------------------------------------------------------------------


def test_text_goes_through_our_tokenizer(server: Server) -> None:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
        done = client.completions.create(
            model=server.model,
            prompt=f"any text, {words(10)}",
            max_tokens=7,
            extra_body={"ignore_eos": True},
        )
        assert done.usage is not None
        assert (done.usage.prompt_tokens, done.usage.completion_tokens) == (12, 7)
        assert len(done.choices[0].text.split()) == 7
        tokens = client.completions.create(model=server.model, prompt=[5, 6, 7], max_tokens=2)
        assert tokens.usage is not None and tokens.usage.prompt_tokens == 3
        chat = client.chat.completions.create(
            model=server.model,
            messages=[{"role": "user", "content": words(5)}],
            max_tokens=3,
            stream=True,
        )
        assert "".join(c.choices[0].delta.content or "" for c in chat).split() != []


def test_streams_bring_every_token_once(server: Server) -> None:
    calls = mixed_calls(12, 40.0)
    outcomes = send_all(server.url, server.model, calls)
    assert [(o.tokens, o.ends) for o in outcomes] == [(c.output_tokens, 1) for c in calls]


# -- live control ----------------------------------------------------------------------------------


def test_a_patch_answers_the_values_in_force(server: Server) -> None:
    version, before = in_force(server)
    answer = patch(server, {"parameters": {"k": 8, "q_max": 4}, "name": "trial"})
    assert answer.status == 200
    expected = before["parameters"] | {"k": 8.0, "q_max": 4}
    assert answer.json["policy"]["parameters"] == expected
    assert (answer.json["policy_version"], answer.json["agree"]) == (version + 1, True)
    assert in_force(server) == (version + 1, answer.json["policy"])
    assert Policy.from_dict(answer.json["policy"]).name == "trial"
    assert "by 127.0.0.1" in server.log.read_text()


def test_a_whole_policy_replaces_order_and_partition(server: Server) -> None:
    policy = parse_policy("ewsjf_paper").to_dict()
    policy["partition"] = {"cuts": [100], "means": [50.0, 400.0], "masses": [0.5, 0.5]}
    assert patch(server, policy).json["policy"] == policy
    (rank,) = server.ask("GET", "/ewsjf/partition").json["ranks"]
    assert rank["partition"] == policy["partition"]
    assert (rank["order"], rank["cuts"]) == ("ewsjf_paper", [100])
    assert rank["policy"] == "ewsjf_paper"


def test_if_match_lets_only_one_of_two_writers_through(server: Server) -> None:
    tag = server.ask("GET", POLICY).headers["etag"]
    assert patch(server, {"parameters": {"k": 2}}, If_Match=tag).status == 200
    late = patch(server, {"parameters": {"k": 3}}, If_Match=tag)
    assert late.status == 412
    assert "is not in force" in late.json["error"]
    assert in_force(server)[1]["parameters"]["k"] == 2.0
    assert patch(server, {"parameters": {"k": 4}}, If_Match="*").status == 200


HOSTILE = {
    "empty": b"",
    "no JSON": b"k=3",
    "half written": b'{"parameters": {"k": 3',
    "not UTF-8": b'{"parameters": {"k": "\xff\xfe"}}',
    "lone surrogate": b'{"order": "hrrn", "name": "\\ud800"}',
    "list": b"[1, 2]",
    "number": b"3",
    "NaN": b'{"parameters": {"k": NaN}}',
    "infinity": b'{"parameters": {"k": -Infinity}}',
    "overflow": b'{"parameters": {"k": 1e999}}',
    "overflow elsewhere": b'{"order": "hrrn", "provenance": {"x": 1e999}}',
    "huge whole number": b'{"parameters": {"k": 1' + b"0" * 400 + b"}}",
    "more digits than Python reads": b'{"parameters": {"k": 1' + b"0" * 5000 + b"}}",
    "deep": b'{"order": "hrrn", "provenance": ' + b'{"a":' * 40 + b"1" + b"}" * 40 + b"}",
    "very deep": b"[" * 30_000 + b"]" * 30_000,
    "huge": b'{"order": "hrrn", "name": "' + b"x" * 70_000 + b'"}',
    "key twice": b'{"parameters": {"k": 3, "k": 4}}',
    "nothing": b"{}",
    "no parameters": b'{"parameters": {}}',
    "unknown key": b'{"parameters": {"k": 3}, "prameters": 1}',
    "unknown parameter": b'{"parameters": {"kk": 3}}',
    "out of range": b'{"parameters": {"k": 1e6}}',
    "one good, one bad": b'{"parameters": {"k": 3, "q_max": 5}}',
    "text for a number": b'{"parameters": {"k": "3"}}',
    "bool for a number": b'{"parameters": {"k": true}}',
    "list for a number": b'{"parameters": {"k": [3]}}',
    "mapping for a number": b'{"parameters": {"k": {"value": 3}}}',
    "parameters no mapping": b'{"parameters": [["k", 3]]}',
    "unknown order": b'{"order": "hrrm"}',
    "order no text": b'{"order": ["hrrn"]}',
    "other schema": b'{"order": "hrrn", "schema_version": 2}',
    "other space": b'{"order": "hrrn", "parameter_space_hash": "0123456789abcdef"}',
    "other kind": b'{"order": "hrrn", "kind": "mlp"}',
    "name that forges the log": b'{"order": "hrrn", "name": "x\\nERROR all is lost"}',
    "long name": b'{"order": "hrrn", "name": "' + b"x" * 300 + b'"}',
    "partition of text": b'{"order": "ewsjf", "partition": "short, long"}',
    "cuts that descend": b'{"order": "ewsjf", "partition": {"cuts": [9, 8], "means": [1, 2, 3],'
    b' "masses": [1, 0, 0]}}',
    "thousands of queues": json.dumps(
        {
            "order": "ewsjf",
            "partition": {
                "cuts": list(range(1, 2001)),
                "means": [1] * 2001,
                "masses": [1] + [0] * 2000,
            },
        }
    ).encode(),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_bad_body_is_refused_and_changes_nothing(server: Server, name: str) -> None:
    before = in_force(server)
    answer = patch(server, HOSTILE[name])
    assert answer.status == (413 if name == "huge" else 422), answer.text
    assert list(answer.json) == ["error"]
    assert 0 < len(answer.json["error"]) <= 500 and "\n" not in answer.json["error"]
    assert in_force(server) == before


def test_a_page_of_another_site_cannot_patch(server: Server) -> None:
    change = {"parameters": {"k": 3}}
    assert patch(server, change, Origin="http://elsewhere.example").status == 403
    assert patch(server, change, Origin=server.url).status == 200


def test_concurrent_writers_lose_nothing(server: Server) -> None:
    version, _ = in_force(server)
    values = [1.0 + index for index in range(24)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda k: patch(server, {"parameters": {"k": k}}), values))
    assert [a.status for a in answers] == [200] * len(values)
    assert [a.json["policy"]["parameters"]["k"] for a in answers] == values
    versions = sorted(a.json["policy_version"] for a in answers)
    assert versions == list(range(version + 1, version + 1 + len(values)))
    last = max(answers, key=lambda a: a.json["policy_version"])
    assert in_force(server) == (versions[-1], last.json["policy"])


def test_swaps_under_load_lose_no_request(server: Server) -> None:
    start = window(server)
    names = ("hrrn", "ewsjf(k=8)", "fcfs", "ewsjf_paper", "ewsjf_authors", "sjf", "boost")
    swaps: list[int] = []

    async def swap() -> None:
        while True:
            policy = parse_policy(names[len(swaps) % len(names)]).to_dict()
            answer = await asyncio.to_thread(patch, server, policy)
            swaps.append(answer.status)

    calls = mixed_calls(60, 60.0)
    outcomes = send_all(server.url, server.model, calls, meanwhile=swap)
    assert [(o.tokens, o.ends) for o in outcomes] == [(c.output_tokens, 1) for c in calls]
    assert len(swaps) >= len(names) and set(swaps) == {200}
    end = window(server, start["cursor"])
    assert len(end["finished"]) == len(calls)
    assert {row[-1] for row in end["finished"]} == {"length"}


def test_clients_that_leave_under_load(server: Server) -> None:
    start = window(server)
    calls = mixed_calls(60, 120.0, cut_every=3)
    outcomes = send_all(server.url, server.model, calls)
    kept = [o for o in outcomes if o.call.cut_after is None]
    assert [(o.tokens, o.ends) for o in kept] == [(o.call.output_tokens, 1) for o in kept]
    until(lambda: window(server)["open"] == [], "requests of clients that left are still open")
    end = window(server, start["cursor"])
    added = {k: end["counters"][k] - start["counters"][k] for k in end["counters"]}
    assert added["arrivals"] == added["finished"] + added["aborted"] == len(calls)
    assert added["aborted"] == len(calls) - len(kept)
    assert len(end["finished"]) == len(calls)
    (rank,) = server.ask("GET", "/ewsjf/partition").json["ranks"]
    assert (rank["depth"], rank["running"], rank["kv_usage"]) == (0, 0, 0.0)


# -- what is measured ------------------------------------------------------------------------------


def test_a_window_gives_the_metrics_of_what_was_served(server: Server) -> None:
    start = window(server)
    calls = mixed_calls(30, 60.0)
    send_all(server.url, server.model, calls)
    end = window(server, start["cursor"])
    assert end["lost"] == 0 and not end["more"]
    records = [RequestRecord(*row[:9]) for row in end["finished"]]
    lengths = [(c.prompt_tokens, c.output_tokens) for c in calls]
    assert sorted((r.prompt_tokens, r.output_tokens) for r in records) == sorted(lengths)
    for record in records:
        assert record.first_token_s is not None and record.finish_s is not None
        assert start["now_s"] <= record.arrival_s <= record.first_token_s <= record.finish_s
        assert record.finish_s <= end["now_s"]
        assert record.generated_tokens == record.output_tokens
    added = {k: end["counters"][k] - start["counters"][k] for k in end["counters"]}
    assert added["output_tokens"] == sum(c.output_tokens for c in calls)
    assert added["admitted_prompt_tokens"] == sum(c.prompt_tokens for c in calls)
    # All prompts are computed here: the prefix cache is off and nothing is preempted.
    assert added["prefill_tokens"] == sum(c.prompt_tokens for c in calls)
    assert added["preemptions"] == 0 and added["kv_usage_s"] > 0 and added["scheduler_s"] > 0
    counters = WindowCounters(int(added["output_tokens"]), int(added["prefill_tokens"]))
    latency = LatencyModel.load("llama2-13b_a100-80g")
    metrics = aggregate(
        records, counters, start["now_s"], end["now_s"], lambda b: latency.prefill_s(b, 2048)
    )
    assert (metrics.arrivals, metrics.finished, metrics.outstanding) == (30, 30, 0)
    assert metrics.ttft_p95_s > 0


@pytest.mark.parametrize("since", ["-1", "1.2", "x", "", "9" * 30, "1e3"])
def test_a_place_that_is_none_is_refused(server: Server, since: str) -> None:
    answer = server.ask("GET", f"/ewsjf/window?since={since}")
    assert answer.status == 422 and "since" in answer.json["error"]


def test_a_place_of_another_server_gives_everything(server: Server) -> None:
    send_all(server.url, server.model, mixed_calls(1, 1.0))
    assert window(server, "123456789")["finished"] == window(server)["finished"] != []


def test_prometheus_shows_the_scheduler(server: Server) -> None:
    send_all(server.url, server.model, mixed_calls(20, 100.0))
    version, _ = in_force(server)

    def shown() -> dict[str, float]:
        lines = server.ask("GET", "/metrics").text.splitlines()
        pairs = [line.rsplit(" ", 1) for line in lines if line.startswith("ewsjf_")]
        return {name: float(value) for name, value in pairs}

    until(
        lambda: (
            shown().get('ewsjf_policy_version{engine="0"}') == version
            and shown()['ewsjf_waiting_requests{engine="0"}'] == 0
        ),
        "the metrics are not refreshed",
    )
    found = shown()
    for name in (
        "ewsjf_recovery_requests",
        "ewsjf_overdue_requests",
        "ewsjf_overdue_served_total",
        "ewsjf_queues",
        "ewsjf_repartitions_total",
        "ewsjf_score_failures_total",
        "ewsjf_prefill_cost_r2",
        "ewsjf_aborted_requests_total",
    ):
        assert f'{name}{{engine="0"}}' in found
    assert found['ewsjf_scheduler_seconds_total{engine="0"}'] > 0
    assert found['ewsjf_steps_total{engine="0"}'] > 0
    for name in ("depth", "head_wait_seconds", "score", "picks_total", "mean_tokens"):
        assert f'ewsjf_queue_{name}{{engine="0",queue="0"}}' in found
    picks = sum(value for name, value in found.items() if "picks_total" in name)
    assert picks >= 20


def test_the_routes_are_documented(server: Server) -> None:
    document = server.ask("GET", "/openapi.json").json
    paths = document["paths"]
    assert {"get", "patch"} <= set(paths[POLICY])
    assert {"/ewsjf/window", "/ewsjf/partition"} <= set(paths)
    change = paths[POLICY]["patch"]
    assert change["requestBody"]["required"] is True
    assert {"200", "401", "403", "412", "413", "422", "503"} <= set(change["responses"])


# -- faults ----------------------------------------------------------------------------------------


def test_an_exception_in_scoring_falls_back_and_is_counted(server: Server) -> None:
    assert patch(server, default_policy().to_dict() | {"name": "faulty"}).status == 200
    calls = mixed_calls(40, 200.0)
    outcomes = send_all(server.url, server.model, calls)
    assert [(o.tokens, o.ends) for o in outcomes] == [(c.output_tokens, 1) for c in calls]
    (rank,) = server.ask("GET", "/ewsjf/partition").json["ranks"]
    assert sum(one["score_failures"] for one in rank["classes"]) > 0
    assert server.alive()


def test_a_clock_that_jumps_hurts_nobody(server: Server) -> None:
    start = window(server)
    assert patch(server, default_policy().to_dict() | {"name": "jumpy"}).status == 200
    calls = mixed_calls(40, 200.0)
    outcomes = send_all(server.url, server.model, calls)
    assert [(o.tokens, o.ends) for o in outcomes] == [(c.output_tokens, 1) for c in calls]
    rows = window(server, start["cursor"])["finished"]
    assert len(rows) == len(calls)
    for record in (RequestRecord(*row[:9]) for row in rows):
        assert record.first_token_s is not None and record.finish_s is not None
        assert record.arrival_s <= record.first_token_s <= record.finish_s
