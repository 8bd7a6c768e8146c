"""Starts a whole `vllm serve` on the simulated executor, on loopback, and talks to it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
START_S = 600.0  # tens of seconds, but machines can be very busy
STOP_S = 60.0


@dataclass(frozen=True)
class Answer:
    """An HTTP answer; `json` is None where the body is none."""

    status: int
    headers: Mapping[str, str]
    text: str

    @property
    def json(self) -> Any:
        return json.loads(self.text)


@dataclass(frozen=True)
class Server:
    """A running server."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path
    model: str

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | str | Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Send one request; errors of HTTP are answers."""
        if isinstance(body, Mapping):
            body = json.dumps(body)
        data = body.encode() if isinstance(body, str) else body
        request = urllib.request.Request(
            f"{self.url}{path}", data, dict(headers or {}), method=method
        )
        if data is not None:
            request.add_header("Content-Type", "application/json")
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return Answer(answer.status, dict(answer.headers), answer.read().decode())
        except urllib.error.HTTPError as error:
            return Answer(error.code, dict(error.headers), error.read().decode())

    def alive(self) -> bool:
        """Whether the process runs and says that it is healthy."""
        return self.process.poll() is None and self.ask("GET", "/health").status == 200


def free_port() -> int:
    """A port of loopback that nobody uses now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@contextlib.contextmanager
def running(
    command: Sequence[str], environment: Mapping[str, str], port: int, log: Path, model: str
) -> Iterator[Server]:
    """Start a server, wait until it is healthy, and stop it in the end as an operator would.

    Args:
        command: whole command line; it must listen on `port` of 127.0.0.1.
        environment: what is set on top of this process's.
        port: see there.
        log: file for standard output and error.
        model: the served model's name.
    """
    changes = {
        # Forking spares the engine process a second import of all of vLLM.
        "VLLM_WORKER_MULTIPROC_METHOD": "fork",
        "PYTHONPATH": str(ROOT),
        **environment,
    }
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            env={**os.environ, **changes},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    server = Server(f"http://127.0.0.1:{port}", process, log, model)
    try:
        _wait(server)
        yield server
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise AssertionError(f"the server did not stop: {_tail(log)}") from None


def _wait(server: Server) -> None:
    deadline_s = time.monotonic() + START_S
    while time.monotonic() < deadline_s:
        if server.process.poll() is not None:
            break
        with contextlib.suppress(OSError):
            if server.ask("GET", "/health").status == 200:
                return
        time.sleep(0.2)
    raise AssertionError(f"the server did not start: {_tail(server.log)}")


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-40:])
