"""What a tuner takes of an engine core, measured on a whole server."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agents.cli.tuner_cost import main
from ewsjf_env.policy.policy import default_policy
from tests.serving.server import Server, free_port

pytestmark = pytest.mark.live
SHORT = ["--phase-s", "0.5", "--repeats", "2"]


def test_the_cost_of_a_look_and_of_a_change(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "cost.json"
    assert server.ask("PATCH", "/ewsjf/policy", default_policy().to_dict()).status == 200
    before = server.ask("GET", "/ewsjf/policy").json
    assert main(["--url", server.url, "--out", str(out), *SHORT]) == 0
    after = server.ask("GET", "/ewsjf/policy").json
    assert after["policy"]["parameters"] == before["policy"]["parameters"]
    assert after["policy_version"] > before["policy_version"] + 2  # it has really changed it
    # Whatever ends it, the server goes back to what it trusts: nothing is set for good.
    changes = [line for line in server.log.read_text().splitlines() if "'ewsjf-tuner': {" in line]
    sent = [json.loads(line[line.index("{") :]) for line in changes[-6:]]
    assert [change["lease_s"] for change in sent] == [10.0] * 5 + [0.1]
    found = json.loads(out.read_text())
    look, change = found["look_ms"]["value"], found["change_ms"]["value"]
    assert found["engine_cores"] == 1
    expected = (60.0 * look + 5.0 * change) / 60_000.0  # a look a second; 3 changes, 2 renewals
    assert found["share"] == pytest.approx(expected)
    assert "engine core: a look" in capsys.readouterr().out


def test_bad_input_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ["--out", str(tmp_path / "cost.json")]
    for arguments, message in (
        (["--url", f"http://127.0.0.1:{free_port()}"], "--url: no process of this machine"),
        (["--url", "nowhere"], "'nowhere' is not like"),
        (["--url", "http://example.com:8000"], "is not on this machine"),
        (["--url", "http://127.0.0.1:1", "--repeats", "1"], "--repeats: 1 is outside"),
    ):
        assert main([*arguments, *out]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
    assert not (tmp_path / "cost.json").exists()
    assert main(["--url", "http://127.0.0.1:1", "--out", str(tmp_path)]) == 2
    assert "must be a file ending in .json" in capsys.readouterr().err
