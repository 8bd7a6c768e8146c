"""The supervision of a server and its tuner: the server never depends on the tuner.

The tuner starts when the server is healthy.  When it ends, for whatever reason, the server goes
on under its last policy.  When the server ends, the tuner is asked to stop, and the server's exit
code is ours.  SIGTERM and SIGINT are passed on to the server.
"""

from __future__ import annotations

import contextlib
import http.client
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from types import FrameType
from urllib.parse import urlsplit

from ewsjf_env.config import ConfigError

POLL_S = 0.5
STOP_S = 20.0  # what a tuner gets to write down its state


def supervise(
    server_command: Sequence[str],
    environment: Mapping[str, str],
    tuner_command: Sequence[str],
    url: str,
) -> int:
    """Run both until the server ends; return its exit code (128 + n after signal n).

    Raises:
        ConfigError: something else answers at the server's address: the tuner would tune that.
    """
    check_free(url)
    # In groups of their own: a Ctrl-C at the terminal reaches them through us, once.
    server = subprocess.Popen(server_command, env=dict(environment), start_new_session=True)

    def forward(number: int, frame: FrameType | None) -> None:
        if server.poll() is None:
            server.send_signal(number)

    before = {number: signal.signal(number, forward) for number in (signal.SIGTERM, signal.SIGINT)}
    tuner: subprocess.Popen[bytes] | None = None
    told = False
    try:
        while server.poll() is None:
            if tuner is None:
                if is_healthy(url):
                    _say(f"the server answers at {url}; the tuner starts")
                    tuner = subprocess.Popen(
                        tuner_command, env=dict(environment), start_new_session=True
                    )
            elif tuner.poll() is not None and not told:
                told = True
                _say(
                    f"the tuner ended with exit code {tuner.returncode}; "
                    "the server goes on under its last policy"
                )
            time.sleep(POLL_S)
    finally:
        if tuner is not None and tuner.poll() is None:
            _stop(tuner)
        if server.poll() is None:  # we fail: nobody else would stop it
            _stop(server)
        for number, handler in before.items():
            signal.signal(number, handler)
    code = server.returncode
    return code if code >= 0 else 128 - code


def is_healthy(url: str) -> bool:
    """Whether GET /health answers 200 within a second."""
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=1.0) as answer:
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError, http.client.HTTPException):
        return False


def check_free(url: str) -> None:
    """ConfigError where a server listens already, ours or any other."""
    parts = urlsplit(url)
    try:
        address = parts.hostname or "", parts.port or 80
    except ValueError:
        raise ConfigError(f"--port: {parts.netloc.rpartition(':')[2]!r} is no port") from None
    with contextlib.suppress(OSError), socket.create_connection(address, timeout=1.0):
        raise ConfigError(f"--port: something listens at {url} already; choose another port")


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGINT)
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _say(text: str) -> None:
    print(f"ewsjf serve: {text}", file=sys.stderr, flush=True)
