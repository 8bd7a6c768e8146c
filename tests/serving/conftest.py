"""One whole server for all tests that need one."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

import pytest

from ewsjf_env.engine.stand_in.server import simulated_arguments, simulated_launch
from ewsjf_env.engine.stand_in.settings import ExecutorSettings
from ewsjf_env.policy.policy import default_policy
from ewsjf_env.serving.launch import SCHEDULER_CLASS, ewsjf_launch
from tests.serving.server import Server, free_port, running


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """`vllm serve` on the simulated executor, small enough that requests queue; PATCH is on."""
    folder = tmp_path_factory.mktemp("server")
    port = free_port()
    arguments = simulated_arguments(
        ["--host", "127.0.0.1", "--port", str(port), "--max-num-seqs", "8"],
        ExecutorSettings(speed=10.0),
        folder / "llama2-13b",
    )
    launch = ewsjf_launch(arguments, default_policy(), os.environ, allow_patch=True)
    launch = simulated_launch(launch, os.environ)
    faulty = "tests.serving.faulty_scheduler.FaultyScheduler"
    command = [faulty if part == SCHEDULER_CLASS else part for part in launch.command]
    assert command[0] == sys.executable
    log = folder / "server.log"
    with running(command, launch.environment, port, log, "llama2-13b") as started:
        yield started
        assert started.alive()
        # Before it stops: vLLM's own shut-down may log its closing of sockets as an error.
        text = log.read_text(errors="replace")
    assert "Traceback" not in text, text[max(0, text.index("Traceback") - 2000) :][:8000]
