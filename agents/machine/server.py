"""The server of a measurement: how it is started, and what it is asked beside its requests."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from agents.machine.plan import Measurement
from agents.operations.supervise import is_healthy
from ewsjf_env.engine.base import EngineError
from ewsjf_env.engine.simulated.latency import LatencyModel
from ewsjf_env.engine.stand_in.model_folder import model_folder
from ewsjf_env.engine.stand_in.server import simulated_arguments, simulated_launch
from ewsjf_env.engine.steps.step_samples import KEY
from ewsjf_env.policy.policy import parse_policy
from ewsjf_env.serving.launch import SCHEDULER_CLASS, Launch, ewsjf_launch, with_config

STEP_LOG_CLASS = "ewsjf_env.engine.steps.step_log.StepLogScheduler"
START_S, STOP_S = 900.0, 60.0  # compiling and capturing graphs takes minutes
_BLOCKS = re.compile(r'vllm:cache_config_info\{[^}]*num_gpu_blocks="(\d+)"')


def make_launch(result: Measurement) -> Launch:
    """The command of the server: FCFS, open to changes; perhaps with a log of its steps."""
    plan = result.plan
    arguments = [
        *("--host", "127.0.0.1", "--port", str(plan.port), "--block-size", "16"),
        *("--max-num-seqs", str(plan.max_num_seqs), "--max-model-len", str(plan.max_model_len)),
        *("--max-num-batched-tokens", str(plan.max_num_batched_tokens)),
        *("--no-enable-prefix-caching", *plan.vllm_arguments),
    ]
    if plan.simulate is None:
        folder = model_folder(plan.like, real=True)
        arguments = [str(folder), "--served-model-name", folder.name, *arguments]
        arguments += ["--load-format", "dummy", "--dtype", "bfloat16"]
    else:
        arguments = simulated_arguments(arguments, plan.simulate)
    if result.step_log is not None:
        arguments = with_config(arguments, KEY, str((result.folder / result.step_log).absolute()))
    prior = LatencyModel.load(result.latency).cost_prior(plan.max_num_batched_tokens)
    launch = ewsjf_launch(arguments, parse_policy("fcfs"), os.environ, True, prior)
    if plan.simulate is not None:
        launch = simulated_launch(launch, os.environ)
    if result.step_log is None:
        return launch
    command = [STEP_LOG_CLASS if part == SCHEDULER_CLASS else part for part in launch.command]
    return Launch(tuple(command), launch.environment, launch.notes)


@contextlib.contextmanager
def running(launch: Launch, url: str, log: Path) -> Iterator[float]:
    """Start the server, wait until it is healthy (gives the seconds), and stop it in the end.

    Raises:
        EngineError: it ended, or was not healthy in time; the end of its log is told.
    """
    if is_healthy(url):
        raise EngineError(f"another server answers at {url}; choose another --port")
    with log.open("wb") as output:
        process = subprocess.Popen(
            launch.command,
            env={**os.environ, **launch.environment},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    started_s = time.monotonic()
    try:
        while not is_healthy(url):
            code = process.poll()
            if code is not None:
                raise EngineError(f"the server ended with exit code {code}: {_last_error(log)}")
            if time.monotonic() > started_s + START_S:
                raise EngineError(f"the server was not healthy after {START_S:g} s; see {log}")
            time.sleep(0.5)
        yield time.monotonic() - started_s
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def kv_blocks(url: str) -> int | None:
    """Blocks of the server's KV cache, as its metrics say; None where they do not."""
    with urllib.request.urlopen(f"{url}/metrics", timeout=60) as answer:
        found = _BLOCKS.search(answer.read().decode())
    return int(found.group(1)) if found else None


class Counters:
    """The server's counters (`steps`, `scheduler_s` ...) and what it recorded in between.

    Attributes:
        records: of the requests that ended since the reading before, and of those still open.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._place = "0"
        self.records: list[dict[str, Any]] = []

    def read(self) -> dict[str, float]:
        """The sums over all ranks."""
        self.records = []
        while True:
            path = f"/ewsjf/window?since={self._place}&open=true"
            with urllib.request.urlopen(self._url + path, timeout=60) as answer:
                found: dict[str, Any] = json.load(answer)
            self._place = found["next"]
            more = any(rank["more"] for rank in found["ranks"])
            for rank in found["ranks"]:
                rows = rank["finished"] if more else rank["finished"] + rank["open"]
                self.records += [dict(zip(rank["columns"], row, strict=True)) for row in rows]
            if not more:
                break
        names = found["ranks"][0]["counters"]
        return {name: sum(rank["counters"][name] for rank in found["ranks"]) for name in names}


def _last_error(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    errors = [line for line in lines if "Error" in line] or lines
    return f"{' '.join(errors[-1].split())[-300:] if errors else 'no output'} ({log})"
