"""Ranks that come and go under a tuner: real schedulers behind our real routes, on loopback."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI

from ewsjf_env.engine.base import EngineError
from ewsjf_env.engine.real.link import places
from ewsjf_env.engine.real.remote import RemoteConfig, RemoteEngine
from ewsjf_env.engine.real.server_log import ServerLog
from ewsjf_env.engine.simulated.vllm_config import build_scheduler
from ewsjf_env.policy.policy import parse_policy
from ewsjf_env.serving import plugin
from ewsjf_env.serving.http.access import Gate
from ewsjf_env.serving.ranks import Ranks
from tests.engine.test_remote import answer, rank, row
from tests.serving.server import free_port
from tests.serving.vllm_traffic import make_request, make_setup, run_step

WINDOW_S = 0.2


class Core:
    """An engine core, as far as our utilities read one: its scheduler, on the real clock."""

    def __init__(self) -> None:
        self.setup = make_setup(kv_blocks=64, asynchronous=False)
        from ewsjf_env.serving.scheduler import SyncEWSJFScheduler  # vLLM is loaded by now

        self.scheduler = build_scheduler(self.setup, SyncEWSJFScheduler)
        self.sent = 0

    @property
    def k(self) -> float:
        return float(plugin.ewsjf_state(self)["policy"]["parameters"]["k"])

    def serve(self, prompt: int, output: int) -> None:
        """One request, from its arrival to its end."""
        self.sent += 1
        name, now_s = f"r{self.sent}", time.time()
        self.scheduler.add_request(make_request(self.setup, name, prompt, output, now_s))
        in_flight: list[Any] = []
        while self.scheduler.has_requests():
            run_step(self.scheduler, in_flight, 1)


class Cores:
    """What `Ranks` reads of vLLM's client of all engine cores; elastic scaling changes the list."""

    def __init__(self) -> None:
        self.core_engines = [Core()]

    async def _call_utility_async(self, utility: str, *arguments: Any, engine: Core) -> Any:
        return getattr(plugin, utility)(engine, *arguments)


@pytest.fixture
def served() -> Iterator[tuple[Cores, str]]:
    """Ranks that can be changed, and the address of their routes."""
    make_setup(kv_blocks=64, asynchronous=False)
    from ewsjf_env.serving.http.endpoint import Control, EWSJFEndpoints

    cores, app, port = Cores(), FastAPI(), free_port()
    EWSJFEndpoints().attach_router(app)
    ranks = Ranks(SimpleNamespace(engine_core=cores))
    app.state.ewsjf = Control(ranks, Gate([]), allow_patch=True)

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"data": [{"id": "m", "max_model_len": 256}]}

    server = uvicorn.Server(uvicorn.Config(app, "127.0.0.1", port, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    yield cores, f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join()


@pytest.fixture
def engine(served: tuple[Cores, str]) -> Iterator[RemoteEngine]:
    found = RemoteEngine(RemoteConfig(url=served[1], mode="shadow"))
    found.settings = dataclasses.replace(found.settings, max_gap_s=600.0)
    found.install(parse_policy("ewsjf(k=7)"))
    found.reset(None)
    yield found
    found.close()


def test_a_run_goes_on_with_the_ranks_that_are_there(
    served: tuple[Cores, str], engine: RemoteEngine, caplog: pytest.LogCaptureFixture
) -> None:
    """A cursor of other ranks is answered 422, which ended the run."""
    cores = served[0].core_engines
    cores[0].serve(20, 3)
    assert (engine.run_window(WINDOW_S).finished, cores[0].k) == (1, 7.0)
    engine.apply({"k": 9.0})

    cores += [Core(), Core()]  # vLLM starts new ranks under what it was started with
    assert cores[1].k != 9.0
    for core in cores:
        core.serve(20, 3)
    grown = engine.run_window(WINDOW_S)
    assert (grown.finished, grown.exact) == (3, False)
    assert [core.k for core in cores] == [9.0, 9.0, 9.0]
    assert "3 ranks instead of 1: the run goes on" in caplog.text
    for core in cores:
        core.serve(20, 3)
    steady = engine.run_window(WINDOW_S)
    assert (steady.finished, steady.exact) == (3, True)
    assert dict(engine.apply({"k": 11.0}))["k"] == 11.0
    assert [core.k for core in cores] == [11.0, 11.0, 11.0]

    del cores[1:]
    cores[0].serve(20, 3)
    shrunk = engine.run_window(WINDOW_S)
    assert (shrunk.finished, shrunk.exact) == (1, False)
    assert shrunk.output_tokens_per_s >= 0.0  # what a rank has counted does not go with it
    engine.reset(None)
    assert engine.run_window(WINDOW_S).exact


def test_ranks_that_changed_between_two_episodes_are_followed(
    served: tuple[Cores, str], engine: RemoteEngine
) -> None:
    cores = served[0].core_engines
    engine.run_window(WINDOW_S)
    cores += [Core()]
    engine.reset(None)
    assert [core.k for core in cores] == [7.0, 7.0]
    cores[1].serve(20, 3)
    assert engine.run_window(WINDOW_S).finished == 1


def test_a_restart_is_told_from_a_change_of_ranks(
    served: tuple[Cores, str], engine: RemoteEngine
) -> None:
    engine.run_window(WINDOW_S)
    served[0].core_engines[:] = [Core(), Core()]
    with pytest.raises(EngineError, match="a server has restarted"):
        engine.run_window(WINDOW_S)


def test_a_change_by_somebody_else_is_still_seen(
    served: tuple[Cores, str], engine: RemoteEngine
) -> None:
    engine.run_window(WINDOW_S)
    plugin.ewsjf_configure(served[0].core_engines[0], {"parameters": {"k": 3.0}})
    with pytest.raises(EngineError, match="somebody else changed the policy"):
        engine.run_window(WINDOW_S)


@pytest.mark.parametrize(
    ("since", "ranks", "found"),
    [("4", 1, "4"), ("4", 3, "4.0.0"), ("4.5.6", 2, "4.5"), ("0", 2, "0.0"), ("4.5", 2, "4.5")],
)
def test_a_cursor_for_other_ranks(since: str, ranks: int, found: str) -> None:
    assert places(since, ranks) == found


def test_sums_and_records_outlive_a_rank() -> None:
    log = ServerLog(keep_records=True)
    one, two = rank(0, count=10.0), rank(1, count=5.0)
    first = log.take(answer(one), 0.0, 0.0)
    ended = row("b", 0.5, 0.7, 0.9, "stop")
    grown = log.take(answer(one, {**two, "now_s": 1.0, "finished": [ended]}), 1.0, 1.0)
    assert grown.since(first, 1.0).output_tokens == 5  # all that it has counted is new
    assert grown.since(first, 1.0).kv_usage_mean == 5.0 / 1.5
    shrunk = log.take(answer({**one, "counters": dict(one["counters"], steps=11.0)}), 2.0, 2.0)
    assert shrunk.since(grown, 1.0).output_tokens == 0
    assert [record.request_id for record in log.records(3.0)] == ["b"]
    back = log.take(answer(one, rank(1, count=2.0, instance="third")), 3.0, 3.0)
    assert back.since(shrunk, 1.0).output_tokens == 2
