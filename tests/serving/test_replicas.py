"""One tuner for both data-parallel ranks of a server, and for two servers of three ranks in all."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agents.cli.train import main as train
from ewsjf_env.config import ConfigError
from ewsjf_env.engine.base import EngineError
from ewsjf_env.engine.real.real_time import RealTimeEngine
from ewsjf_env.engine.real.remote import RemoteConfig, RemoteEngine, check_server
from ewsjf_env.engine.stand_in.server import simulated_arguments, simulated_launch
from ewsjf_env.engine.stand_in.settings import ExecutorSettings
from ewsjf_env.policy.policy import default_policy, parse_policy
from ewsjf_env.serving.launch import ewsjf_launch
from tests.engine.engine_contract import small_trace
from tests.serving.clients import Call, send_all
from tests.serving.relay import Relay
from tests.serving.server import Server, free_port, running

pytestmark = pytest.mark.live

SPEED = 10.0


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with two data-parallel ranks behind one port; PATCH is on."""
    folder = tmp_path_factory.mktemp("pair")
    port = free_port()
    arguments = simulated_arguments(
        ["--host", "127.0.0.1", "--port", str(port), "--max-num-seqs", "8",
         "--data-parallel-size", "2", "--api-server-count", "1"],
        ExecutorSettings(speed=SPEED),
        folder / "llama2-13b",
    )  # fmt: skip
    launch = ewsjf_launch(arguments, default_policy(), os.environ, allow_patch=True)
    launch = simulated_launch(launch, os.environ)
    log = folder / "server.log"
    with running(launch.command, launch.environment, port, log, "llama2-13b") as started:
        yield started


@pytest.fixture(autouse=True)
def default_in_force(server: Server, pair: Server) -> Iterator[None]:
    """Every test starts and ends under the default policy."""
    default = default_policy().to_dict()
    for one in (server, pair):
        assert one.ask("PATCH", "/ewsjf/policy", default).status == 200
    yield
    for one in (server, pair):
        assert one.ask("PATCH", "/ewsjf/policy", default).status == 200


def engine_on(*urls: str, **changes: Any) -> RealTimeEngine:
    where: dict[str, Any] = {"url": urls[0]} if len(urls) == 1 else {"urls": urls}
    config = RemoteConfig(**{"speed": SPEED, "start_timeout_s": 0.0, **where, **changes})
    engine = RemoteEngine(config)
    engine.settings = dataclasses.replace(engine.settings, max_gap_s=60.0)
    engine.install(parse_policy("ewsjf"))
    return engine


def served_k(*servers: Server) -> list[float]:
    """`k` on every rank."""
    answers = [server.ask("GET", "/ewsjf/policy").json for server in servers]
    return [rank["policy"]["parameters"]["k"] for one in answers for rank in one["ranks"]]


def counted(*servers: Server) -> list[int]:
    """Output tokens of every rank since its start."""
    answers = [server.ask("GET", "/ewsjf/window").json for server in servers]
    return [rank["counters"]["output_tokens"] for one in answers for rank in one["ranks"]]


@pytest.mark.parametrize("together", [False, True])
def test_one_tuner_drives_all_ranks(server: Server, pair: Server, together: bool) -> None:
    servers = [server, pair] if together else [pair]
    engine = engine_on(*(one.url for one in servers))
    trace = small_trace(count=24, time_scale=0.1)
    before = counted(*servers)
    engine.reset(trace)
    assert engine.apply({"k": 3.0})["k"] == 3.0
    assert served_k(*servers) == [3.0] * (3 if together else 2)
    tokens = 0.0
    for _ in range(40):
        metrics = engine.run_window(1.0)
        tokens += metrics.output_tokens_per_s * metrics.window_s
        if metrics.outstanding == 0 and engine.now() > trace.arrival_s[-1]:
            break
    records = engine.records()
    engine.close()
    assert [r.generated_tokens for r in records] == trace.output_tokens.tolist()
    added = [after - at_first for after, at_first in zip(counted(*servers), before, strict=True)]
    assert min(added) > 0 and sum(added) == trace.output_tokens.sum()
    assert tokens == pytest.approx(sum(added), rel=0.1)  # windows end beside the readings
    assert served_k(*servers) == [parse_policy("ewsjf").parameters["k"]] * len(added)


def test_shadow_reads_what_was_sent_to_any_of_them(server: Server, pair: Server) -> None:
    engine = engine_on(server.url, pair.url, mode="shadow")
    engine.reset(None)
    calls = [Call(0.05 * i, 50 + 10 * i, 4 + i) for i in range(8)]
    send_all(server.url, server.model, calls[:3])
    send_all(pair.url, pair.model, calls[3:])
    metrics = engine.run_window(max(0.5, engine._seconds() + 0.2))
    assert (metrics.arrivals, metrics.finished, metrics.outstanding) == (8, 8, 0)
    assert sorted((r.prompt_tokens, r.generated_tokens) for r in engine.records()) == [
        (50 + 10 * i, 4 + i) for i in range(8)
    ]
    engine.close()


def test_a_replica_that_goes_away_fails_the_window_and_takes_nobody_along(
    server: Server, pair: Server
) -> None:
    with Relay(int(pair.url.rpartition(":")[2])) as relay:
        engine = engine_on(server.url, relay.url, start_timeout_s=30.0)
        engine.reset(small_trace(time_scale=0.1))
        engine.apply({"k": 3.0})
        engine.run_window(0.2)
        relay.cut()
        with pytest.raises(EngineError, match=f"{relay.url}: does not answer"):
            engine.apply({"k": 5.0})
        assert served_k(server) == [3.0]
        relay.mend()
        engine.reset(small_trace(time_scale=0.1))
        assert engine.apply({"k": 6.0})["k"] == 6.0
        assert served_k(server, pair) == [6.0, 6.0, 6.0]
        assert engine.run_window(0.3).arrivals > 0
        engine.close()


def test_one_server_under_two_names_is_refused(server: Server) -> None:
    port = int(server.url.rpartition(":")[2])
    with Relay(port) as relay, pytest.raises(ConfigError, match="are the same server"):
        check_server(RemoteConfig(urls=(server.url, relay.url)))


def test_train_tunes_all_replicas(
    server: Server, pair: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, task = tmp_path / "run", tmp_path / "task.yaml"
    text = "window_s: 1.0\nsettle_s: 0.2\nwarmup_s: 0.5\nwindows: 3\nrates_per_s: [20.0]\n"
    text += "tuned: [k, mu]\nremote: {speed: 10.0"
    task.write_text(text + "}\n", encoding="utf-8")
    command = ["--engine", "remote", "--url", server.url, "--url", pair.url]
    command += ["--config", str(task), "--agent", "sobol", "--windows", "3", "--out", str(out)]
    assert train(command) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "ranks: 2 on 2 server(s), but 3 answer" in line
    assert not out.exists()
    task.write_text(text + ", ranks: 3}\n", encoding="utf-8")
    assert train(command) == 0
    assert ", 0 failed" in capsys.readouterr().out
    ks = served_k(server, pair)
    assert ks == [ks[0]] * 3
