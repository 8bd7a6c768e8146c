"""A server and a tuner side by side: small real processes in their places."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from agents.operations.supervise import is_healthy, supervise
from ewsjf_env.config import ConfigError
from tests.serving.server import ROOT, free_port

# Answers /health; ends with the exit code that a file names, or by itself on SIGTERM with 7.
SERVER = """
import http.server, pathlib, signal, sys, threading, time
port, stop = int(sys.argv[1]), pathlib.Path(sys.argv[2])
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
    def log_message(self, *about): pass
signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
server = http.server.HTTPServer(("127.0.0.1", port), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
while not stop.exists(): time.sleep(0.02)
sys.exit(int(stop.read_text()))
"""
# Says that it has started; ends at once with an exit code, or on Ctrl-C with a word of farewell.
TUNER = """
import pathlib, sys, time
told = pathlib.Path(sys.argv[1]); told.write_text("started")
if len(sys.argv) > 2: sys.exit(int(sys.argv[2]))
try:
    while True: time.sleep(0.02)
except KeyboardInterrupt:
    told.write_text("stopped")
"""
SUPERVISE = """
import os, sys
from agents.operations.supervise import supervise
port, stop, told, *code = sys.argv[1:]
server = [sys.executable, "-c", os.environ["SERVER"], port, stop]
tuner = [sys.executable, "-c", os.environ["TUNER"], told, *code]
sys.exit(supervise(server, os.environ, tuner, f"http://127.0.0.1:{port}"))
"""


class Supervised:
    """`supervise` in a process of its own."""

    def __init__(self, folder: Path, *tuner_code: str) -> None:
        self.stop = folder / "stop"
        self.told = folder / "told"
        arguments = [str(free_port()), str(self.stop), str(self.told), *tuner_code]
        self.log = folder / "log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", SUPERVISE, *arguments],
                env={**os.environ, "PYTHONPATH": str(ROOT), "SERVER": SERVER, "TUNER": TUNER},
                stderr=log,
            )

    def wait_for(self, path: Path, text: str) -> None:
        """Until the file says so, while the supervisor runs."""
        deadline_s = time.monotonic() + 60.0
        while not (path.exists() and text in path.read_text()):
            assert time.monotonic() < deadline_s and self.process.poll() is None
            time.sleep(0.02)

    def end(self, code: int) -> None:
        """Let the server end; whole at once, since it reads as soon as the file exists."""
        half = self.stop.with_suffix(".tmp")
        half.write_text(str(code))
        half.replace(self.stop)


def test_a_server_that_ends_stops_the_tuner(tmp_path: Path) -> None:
    both = Supervised(tmp_path)
    both.wait_for(both.told, "started")
    both.end(3)
    assert both.process.wait(60) == 3
    assert both.told.read_text() == "stopped"


def test_a_tuner_that_dies_leaves_the_server_serving(tmp_path: Path) -> None:
    both = Supervised(tmp_path, "5")
    both.wait_for(both.log, "ended with exit code 5; the server goes on")
    both.end(0)
    assert both.process.wait(60) == 0


def test_sigterm_goes_to_the_server(tmp_path: Path) -> None:
    both = Supervised(tmp_path)
    both.wait_for(both.told, "started")
    both.process.terminate()
    assert both.process.wait(60) == 7
    assert both.told.read_text() == "stopped"


def test_a_server_that_does_not_start_is_all_there_is(tmp_path: Path) -> None:
    both = Supervised(tmp_path)
    both.end(4)
    assert both.process.wait(60) == 4


@pytest.mark.parametrize("speaks", [True, False])
def test_whoever_has_the_port_already_is_not_tuned(speaks: bool) -> None:
    """Neither another server, nor something that is none."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        url = f"http://127.0.0.1:{other.getsockname()[1]}"
        if not speaks:
            with pytest.raises(ConfigError, match="--port: something listens at"):
                supervise(["false"], os.environ, ["false"], url)
            return
        greeting = threading.Thread(target=_greet, args=(other,), daemon=True)
        greeting.start()
        assert not is_healthy(url)
        greeting.join()


def test_a_port_that_is_none_is_told() -> None:
    with pytest.raises(ConfigError, match="--port: 'abc' is no port"):
        supervise(["false"], os.environ, ["false"], "http://127.0.0.1:abc")


def _greet(other: socket.socket) -> None:
    connection, _ = other.accept()
    with connection:
        connection.recv(100)
        connection.sendall(b"SSH-2.0-OpenSSH\r\n")
