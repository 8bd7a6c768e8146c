"""Two data-parallel ranks: a server with a key and without PATCH, and policies that converge."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ewsjf_env.engine.stand_in.model_folder import model_folder
from ewsjf_env.engine.stand_in.plugin import SWITCH
from ewsjf_env.policy.policy import default_policy
from tests.serving.clients import mixed_calls, send_all
from tests.serving.server import ROOT, Server, free_port, running

pytestmark = pytest.mark.live

KEY = {"Authorization": "Bearer sesame"}


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """scripts/serve.py itself, with an API key, two ranks, and PATCH as it is by default."""
    folder = tmp_path_factory.mktemp("guarded")
    policy = folder / "policy.json"
    default_policy().with_parameters({"k": 11.0}, name="exported").save(policy)
    port = free_port()
    command = [sys.executable, str(ROOT / "scripts" / "serve.py"), "--policy", str(policy)]
    command += ["--simulate", "llama2-13b_a100-80g", "--speed", "10"]
    command += ["--model-folder", str(folder / "llama2-13b"), "--"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--data-parallel-size", "2"]
    command += ["--api-server-count", "1"]
    environment = {"VLLM_API_KEY": "sesame"}
    with running(command, environment, port, folder / "server.log", "llama2-13b") as started:
        yield started


def test_every_route_needs_the_key(guarded: Server) -> None:
    for method, path in (
        ("GET", "/ewsjf/policy"),
        ("PATCH", "/ewsjf/policy"),
        ("GET", "/ewsjf/window"),
        ("GET", "/ewsjf/partition"),
    ):
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic sesame"}):
            answer = guarded.ask(method, path, headers=headers)
            assert answer.status == 401, (method, path, headers)
            assert "Bearer" in answer.json["error"]


def test_patch_is_off_unless_switched_on(guarded: Server) -> None:
    before = guarded.ask("GET", "/ewsjf/policy", headers=KEY).json
    assert before["patch"] is False
    answer = guarded.ask("PATCH", "/ewsjf/policy", {"parameters": {"k": 3}}, KEY)
    assert answer.status == 403 and "allow_patch" in answer.json["error"]
    assert guarded.ask("GET", "/ewsjf/policy", headers=KEY).json == before


def test_all_ranks_serve_the_exported_policy_and_answer(guarded: Server) -> None:
    served = guarded.ask("GET", "/ewsjf/policy", headers=KEY).json
    assert served["agree"] and [rank["rank"] for rank in served["ranks"]] == [0, 1]
    assert served["policy"]["name"] == "exported"
    assert served["policy"]["parameters"]["k"] == 11.0
    start = guarded.ask("GET", "/ewsjf/window", headers=KEY).json
    calls = mixed_calls(12, 60.0)
    outcomes = send_all(guarded.url, guarded.model, calls, api_key="sesame")
    assert [(o.tokens, o.ends) for o in outcomes] == [(c.output_tokens, 1) for c in calls]
    end = guarded.ask("GET", f"/ewsjf/window?since={start['next']}", headers=KEY).json
    finished = [len(rank["finished"]) for rank in end["ranks"]]
    assert sum(finished) == len(calls) and min(finished) > 0
    assert end["next"].count(".") == 1
    answer = guarded.ask("GET", "/ewsjf/window?since=1", headers=KEY)
    assert answer.status == 422 and "2 rank(s)" in answer.json["error"]


def test_writers_of_two_front_ends_converge(tmp_path: Path) -> None:
    """In a process of its own: an `AsyncLLM` leaves sockets to the end of its process."""
    folder = model_folder("llama2-13b_a100-80g", tmp_path / "llama2-13b")
    environment = {"VLLM_LOGGING_LEVEL": "ERROR", SWITCH: "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "tests.serving.two_ranks", str(folder)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "converged" in done.stdout
