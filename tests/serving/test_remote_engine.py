"""The engine over a running server: the contract, both modes, and everything that breaks."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import pytest
from gymnasium.utils.env_checker import check_env as check_gymnasium
from stable_baselines3.common.env_checker import check_env as check_sb3

from agents.cli.train import main as train
from ewsjf_env.config import ConfigError
from ewsjf_env.engine.base import Engine, EngineError
from ewsjf_env.engine.real.real_time import RealTimeEngine
from ewsjf_env.engine.real.remote import RemoteConfig, RemoteEngine
from ewsjf_env.policy.policy import Policy, default_policy, parse_policy
from ewsjf_env.scheduling.partition.partition import Partition
from tests.engine.engine_contract import EngineContract, small_trace
from tests.serving.clients import Call, send_all
from tests.serving.relay import Relay
from tests.serving.server import Server, free_port

pytestmark = pytest.mark.live

SPEED = 10.0
SCALE = 0.1


def settings(url: str, **changes: Any) -> RemoteConfig:
    quick: dict[str, Any] = {"url": url, "speed": SPEED, "start_timeout_s": 0.0}
    return RemoteConfig(**quick | changes)


def exact(engine: RealTimeEngine) -> RealTimeEngine:
    """However slow this machine is, windows have no gaps."""
    engine.settings = dataclasses.replace(engine.settings, max_gap_s=60.0)
    return engine


def driven(server: Server, **changes: Any) -> RealTimeEngine:
    engine = exact(RemoteEngine(settings(server.url, **changes)))
    engine.install(parse_policy("ewsjf"))
    return engine


def values(server: Server) -> dict[str, Any]:
    served = Policy.from_dict(server.ask("GET", "/ewsjf/policy").json["policy"])
    return dict(served.parameters)


@pytest.fixture(autouse=True)
def default_in_force(server: Server) -> Iterator[None]:
    """Every test starts and ends under the default policy."""
    default = default_policy().to_dict()
    assert server.ask("PATCH", "/ewsjf/policy", default).status == 200
    yield
    assert server.ask("PATCH", "/ewsjf/policy", default).status == 200


class TestRemoteEngine(EngineContract):
    time_scale = SCALE
    repeats = False

    @pytest.fixture(autouse=True)
    def _served(self, server: Server) -> None:
        self.url = server.url

    def make_engine(self) -> Engine:
        return exact(RemoteEngine(settings(self.url)))


def test_requests_are_served_at_exactly_their_lengths(server: Server) -> None:
    engine = driven(server)
    trace = small_trace(count=12, time_scale=SCALE)
    engine.reset(trace)
    for _ in range(40):
        metrics = engine.run_window(0.5)
        if metrics.outstanding == 0 and engine.now() > trace.arrival_s[-1]:
            break
    records = engine.records()
    engine.close()
    assert [r.prompt_tokens for r in records] == trace.prompt_tokens.tolist()
    assert [r.generated_tokens for r in records] == trace.output_tokens.tolist()
    (rank,) = server.ask("GET", "/ewsjf/window").json["ranks"]
    served = [row for row in rank["finished"] if row[9] == "length"][-12:]
    assert sorted((row[2], row[5]) for row in served) == sorted(
        zip(trace.prompt_tokens.tolist(), trace.output_tokens.tolist(), strict=True)
    )


def test_values_on_trial_end_with_the_tuner(server: Server) -> None:
    """A tuner that is killed says nothing more: the server goes back by itself."""
    engine = driven(server, lease_s=5.0)
    engine.reset(small_trace(count=1))
    start = values(server)
    engine.apply({"k": 3.0})
    engine.trust({"k": 4.0})
    engine.apply({"k": 5.0})
    assert values(server)["k"] == 5.0
    deadline_s = time.monotonic() + 60.0
    while values(server)["k"] == 5.0:
        assert time.monotonic() < deadline_s
        time.sleep(0.2)
    assert values(server) == {**start, "k": 4.0}
    with pytest.raises(EngineError, match="changed the policy"):
        engine.run_window(0.2)
    assert engine.apply({"k": 6.0})["k"] == 6.0
    engine.close()
    assert values(server)["k"] == 4.0


def test_a_lease_is_renewed_while_a_window_runs(server: Server) -> None:
    engine = driven(server, lease_s=5.0)
    engine.reset(small_trace(count=1))
    engine.apply({"k": 3.0})
    before = server.ask("GET", "/ewsjf/policy").json["policy_version"]
    engine.run_window(7.0)
    after = server.ask("GET", "/ewsjf/policy").json
    assert after["policy"]["parameters"]["k"] == 3.0
    assert after["policy_version"] == before  # nothing was ordered anew
    engine.close()


def test_shadow_reads_what_others_have_sent(server: Server) -> None:
    engine = driven(server, mode="shadow")
    before_s = time.monotonic()
    engine.reset(None)
    assert engine.records() == []
    calls = [Call(0.05 * i, 50 + 10 * i, 4 + i) for i in range(10)]
    calls.append(Call(0.3, 60, 10_000, cut_after=1))  # its client leaves: an abort
    send_all(server.url, server.model, calls)
    span_s = time.monotonic() - before_s + 0.2  # all of it, however long it took here
    metrics = engine.run_window(span_s)
    records = [record for record in engine.records() if record.outcome == "served"]
    assert (metrics.arrivals, metrics.finished, metrics.outstanding) == (11, 10, 0)
    assert metrics.aborted == len(engine.records()) - len(records) == 1
    assert metrics.exact and metrics.window_s == pytest.approx(span_s)
    assert sorted((r.prompt_tokens, r.generated_tokens) for r in records) == [
        (50 + 10 * i, 4 + i) for i in range(10)
    ]
    assert all(0.0 < r.arrival_s < r.first_token_s <= r.finish_s < engine.now() for r in records)
    engine.reset(None)
    assert engine.records() == []
    assert engine.run_window(0.3).arrivals == 0
    engine.close()


def test_shadow_keeps_the_queues_that_the_server_has_learnt(server: Server) -> None:
    learnt = Partition(cuts=(100, 1000), means=(50.0, 500.0, 5000.0), masses=(0.5, 0.25, 0.25))
    served = dataclasses.replace(default_policy(), partition=learnt).to_dict()
    assert server.ask("PATCH", "/ewsjf/policy", served).status == 200
    engine = driven(server, mode="shadow")
    engine.install(parse_policy("ewsjf").with_parameters({"k": 2.0}))
    engine.reset(None)
    assert engine.cuts() == (100, 1000)
    assert values(server)["k"] == 2.0
    engine.close()


def test_a_server_that_goes_away_ends_the_window_and_comes_back(server: Server) -> None:
    with Relay(int(server.url.rpartition(":")[2])) as relay:
        engine = exact(RemoteEngine(settings(relay.url, start_timeout_s=30.0)))
        engine.install(parse_policy("ewsjf"))
        engine.reset(small_trace(time_scale=SCALE))
        engine.apply({"k": 3.0})
        engine.run_window(0.2)
        relay.cut()
        with pytest.raises(EngineError, match=r"does not answer|broke off"):
            engine.run_window(3.0)
        server.ask("PATCH", "/ewsjf/policy", parse_policy("hrrn").to_dict())
        relay.mend()
        engine.reset(small_trace(time_scale=SCALE))
        in_force = server.ask("GET", "/ewsjf/policy").json["policy"]
        assert in_force["order"] == "ewsjf"
        assert values(server) == {**parse_policy("ewsjf").parameters, "k": 3.0}
        assert engine.run_window(0.3).arrivals > 0
        engine.close()


def test_what_the_server_refuses_is_one_clear_error(server: Server, tmp_path: Path) -> None:
    nowhere = f"http://127.0.0.1:{free_port()}"
    engine = RemoteEngine(settings(nowhere))
    engine.install(parse_policy("ewsjf"))
    with pytest.raises(EngineError, match=f"{nowhere}: does not answer"):
        engine.reset(small_trace())
    engine.close()
    engine = RemoteEngine(settings(server.url, model="gpt"))
    with pytest.raises(ConfigError, match="model: 'gpt' is not served"):
        engine.reset(small_trace())
    engine.close()


def test_train_names_a_wrong_url(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    nowhere = f"http://127.0.0.1:{free_port()}"
    assert train(["--engine", "remote", "--url", nowhere, "--out", str(out)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "does not answer" in line
    assert not out.exists()


def test_train_tunes_a_running_server(server: Server, tmp_path: Path) -> None:
    out = tmp_path / "run"
    task = tmp_path / "task.yaml"
    task.write_text(
        "window_s: 1.0\nsettle_s: 0.2\nwarmup_s: 0.5\nwindows: 3\ntuned: [k, mu]\n"
        "rates_per_s: [10.0]\nremote: {speed: 10.0}\n",
        encoding="utf-8",
    )
    command = ["--engine", "remote", "--url", server.url, "--config", str(task), "--seed", "1"]
    assert train([*command, "--agent", "sobol", "--windows", "2", "--out", str(out)]) == 0
    start = parse_policy("ewsjf").parameters
    left = values(server)
    assert {n: left[n] for n in start if n not in ("k", "mu")} == {
        n: start[n] for n in start if n not in ("k", "mu")
    }
    # A resumed run starts a new episode: nobody can serve this traffic again.
    assert train(["--resume", str(out), "--windows", "3"]) == 0


def test_both_checkers_pass_on_a_running_server(server: Server) -> None:
    config = {
        "engine": "remote",
        "windows": 12,
        "window_s": 0.1,
        "settle_s": 0.0,
        "warmup_s": 0.1,
        "rates_per_s": [20.0],
        "remote": {"url": server.url, "speed": SPEED},
    }
    env = gymnasium.make("ewsjf_env:ewsjf/SchedulerTuningRemote-v0", config=config)
    check_gymnasium(env.unwrapped)
    check_sb3(env)
    env.close()
