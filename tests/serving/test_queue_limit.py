"""A real server that rejects what does not fit its queue, and clients that give up."""

from __future__ import annotations

import asyncio
import dataclasses
import os
from collections.abc import Iterator

import numpy as np
import pytest

from ewsjf_env.engine.real.link import Rejected
from ewsjf_env.engine.real.remote import RemoteConfig, RemoteEngine
from ewsjf_env.engine.stand_in.server import simulated_arguments, simulated_launch
from ewsjf_env.engine.stand_in.settings import ExecutorSettings
from ewsjf_env.policy.policy import default_policy, parse_policy
from ewsjf_env.serving.launch import ewsjf_launch
from ewsjf_env.workload.trace import Trace
from tests.serving.server import Server, free_port, running

pytestmark = pytest.mark.live

LIMIT = 20


@pytest.fixture(scope="module")
def limited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder, port = tmp_path_factory.mktemp("limited"), free_port()
    own = ["--host", "127.0.0.1", "--port", str(port), "--max-num-seqs", "4"]
    arguments = simulated_arguments(
        [*own, "--max-num-queued-reqs", str(LIMIT)],
        ExecutorSettings(speed=20.0),
        folder / "llama2-13b",
    )
    launch = ewsjf_launch(arguments, default_policy(), os.environ, allow_patch=True)
    launch = simulated_launch(launch, os.environ)
    log = folder / "server.log"
    with running(launch.command, launch.environment, port, log, "llama2-13b") as started:
        yield started


def burst(count: int, prompt_tokens: int = 400) -> Trace:
    """Requests that come all at once."""
    return Trace(
        name="burst",
        arrival_s=np.linspace(0.0, 0.05, count),
        prompt_tokens=np.full(count, prompt_tokens),
        output_tokens=np.full(count, 40),
    )


def engine_of(server: Server, mode: str) -> RemoteEngine:
    config = RemoteConfig(url=server.url, mode=mode, speed=20.0)  # type: ignore[arg-type]
    engine = RemoteEngine(config)
    engine.settings = dataclasses.replace(engine.settings, max_gap_s=600.0)
    engine.install(parse_policy("ewsjf"))
    return engine


def test_a_rejection_is_counted_and_ends_no_window(limited: Server) -> None:
    """The 503 of `--max-num-queued-reqs` ended the window, and five of them the run."""
    engine = engine_of(limited, "driven")
    try:
        engine.reset(burst(3 * LIMIT))
        found = []
        for _ in range(100):
            found.append(engine.run_window(0.5))
            if found[-1].outstanding == 0:
                break
        rejected = sum(metrics.rejected for metrics in found)
        assert sum(metrics.arrivals for metrics in found) == 3 * LIMIT
        assert sum(metrics.finished for metrics in found) == 3 * LIMIT - rejected
        assert 0 < rejected <= 2 * LIMIT
        records = [record for record in engine.records() if record.outcome == "rejected"]
        assert len(records) == rejected
        assert all(r.first_token_s is None and r.generated_tokens == 0 for r in records)
    finally:
        engine.close()


def test_a_client_that_gives_up_is_an_abort_in_shadow_mode(limited: Server) -> None:
    engine = engine_of(limited, "shadow")
    try:
        engine.reset(None)

        async def give_up() -> None:
            link = RemoteConfig(url=limited.url).link()
            await link.open()
            told = asyncio.Event()
            body = [1000 + i for i in range(300)]
            task = asyncio.create_task(link.generate("x", body, 10_000, lambda _: told.set()))
            await told.wait()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await link.close()

        asyncio.run(give_up())
        aborted = 0
        for _ in range(100):
            aborted += engine.run_window(0.3).aborted
            if aborted:
                break
        assert aborted == 1
        (record,) = engine.records()
        assert record.outcome == "aborted"
        assert record.finish_s is not None
    finally:
        engine.close()


def test_a_rejection_is_told_from_a_server_that_is_gone(limited: Server) -> None:
    async def ask() -> int:
        link = RemoteConfig(url=limited.url).link()
        await link.open()
        work = [link.generate(f"r{i}", [1000] * 500, 60, lambda _: None) for i in range(3 * LIMIT)]
        found = await asyncio.gather(*work, return_exceptions=True)
        await link.close()
        assert all(one is None or isinstance(one, Rejected) for one in found)
        return sum(isinstance(one, Rejected) for one in found)

    assert asyncio.run(ask()) > 0
