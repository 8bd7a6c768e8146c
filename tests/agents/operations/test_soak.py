"""The soak: a short one on a whole server, what it objects to, and bad input."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from agents.cli import soak as soak_command
from agents.operations import soak
from agents.operations.soak import Watch
from agents.operations.soak_load import Tally
from tests.serving.server import ROOT, free_port

MIB = 1 << 20


@pytest.mark.live
def test_a_short_soak_is_well(tmp_path: Path) -> None:
    arguments = ["--policy", "ewsjf", "--simulate", "llama2-13b_a100-80g", "--speed", "5"]
    arguments += ["--model-folder", str(tmp_path / "llama2-13b"), "--minutes", "0.1"]
    arguments += ["--rate", "12", "--abort-share", "0.3", "--out", str(tmp_path / "out"), "--"]
    arguments += ["--host", "127.0.0.1", "--port", str(free_port()), "--max-num-seqs", "16"]
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "soak.py"), *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), "VLLM_WORKER_MULTIPROC_METHOD": "fork"},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "soak passed" in done.stdout
    assert (tmp_path / "out" / "soak.json").is_file()
    assert "Traceback" not in done.stderr


def result(**changes: object) -> list[str]:
    """Problems of a soak of ten requests, one of them given up, with something changed."""
    tally, watch = Tally(), Watch(pid=0)
    tally.counts.update(sent=10, answered_once=9, hung_up=1)
    watch.counters = {"arrivals": 10}
    watch.seen = {str(index) for index in range(10)}
    watch.rss_bytes = {"server": [100 * MIB] * 8}
    for name, value in changes.items():
        if name in ("sent", "answered_once", "hung_up", "rejected"):
            tally.counts[name] = value  # type: ignore[assignment]
        else:
            setattr(watch, name, value)
    found = soak._result(tally, watch, Path("log"), 1.0)
    assert found["well"] is not bool(found["problems"])
    problems: list[str] = found["problems"]
    return problems


def test_a_soak_objects_to_what_must_not_happen() -> None:
    assert result() == []
    assert result(counters={"arrivals": 9}, seen=set("012345678")) == []  # left on the way
    assert result(answered_once=8) == ["an answer is missing"]
    assert result(sent=12, rejected=2) == []  # its queue is full: an outcome, no fault
    assert result(sent=12, rejected=1)[-1] == "an answer is missing"
    assert result(twice=1) == ["1 requests ended twice"]
    assert result(open=2) == ["2 requests are still open in the server"]
    assert result(lost=3) == ["3 records were lost"]
    assert result(seen=set("01")) == ["arrivals and ends differ"]
    assert "never arrived" in result(counters={"arrivals": 8}, seen=set("01234567"))[0]
    assert result(rss_bytes={"server": [100 * MIB] * 4 + [120 * MIB] * 4}) == []
    (grown,) = result(rss_bytes={"server": [100 * MIB] * 4 + [140 * MIB] * 4})
    assert "memory of server grew" in grown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--minutes", "0"], "--minutes: 0.0 is outside"),
        (["--minutes", "nan"], "--minutes: nan is outside"),
        (["--rate", "-1"], "--rate: -1.0 is outside"),
        (["--abort-share", "2"], "--abort-share: 2.0 is outside [0, 1]"),
        (["--policy", "nope"], "unknown policy 'nope'"),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    simulate = ["--policy", "ewsjf", "--simulate", "llama2-13b_a100-80g", "--out", str(tmp_path)]
    simulate += ["--model-folder", str(tmp_path / "llama2-13b")]
    assert soak_command.main([*simulate, *arguments, "--"]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
