"""Capacity at a service level: what is counted, the search, the intervals, and the command."""

import json
from pathlib import Path

import numpy as np
import pytest

from agents.cli.evaluate import main
from agents.experiments.capacity.attainment import ALL, CLASSES, EACH, LOWEST, attained
from agents.experiments.capacity.estimate import RESAMPLES, capacity_of, capacity_rows
from ewsjf_env.config import ConfigError
from ewsjf_env.measure.requests import Requests
from ewsjf_env.measure.service import ServiceLevel

LEVEL = ServiceLevel(ttft_s=1.0, ttft_cost_factor=5.0, tpot_s=0.2)


def requests(
    first_token_s: float, finish_s: float, generated: int = 11, cost_s: float = 0.1
) -> Requests:
    """One request that arrived at 10 s."""
    return Requests(
        position=np.array([0]),
        arrival_s=np.array([10.0]),
        prompt_tokens=np.array([100]),
        generated_tokens=np.array([generated]),
        first_token_s=np.array([first_token_s]),
        finish_s=np.array([finish_s]),
        cost_s=np.array([cost_s]),
    )


@pytest.mark.parametrize(
    ("first_token_s", "finish_s", "generated", "cost_s", "kept"),
    [
        (11.5, 13.5, 11, 0.1, True),  # at both limits
        (11.6, 13.5, 11, 0.1, False),
        (11.6, 13.5, 11, 0.2, True),  # a longer prompt may wait for longer
        (11.0, 13.1, 11, 0.1, False),  # 0.21 s a token
        (11.0, np.nan, 11, 0.1, False),  # decodes until 20 s: 0.9 s a token so far
        (18.5, np.nan, 11, 2.0, True),  # 0.15 s a token so far
        (np.nan, np.nan, 0, 0.1, False),
        (11.0, 11.0, 1, 0.1, True),  # one token has no further ones
    ],
)
def test_what_keeps_a_level(
    first_token_s: float, finish_s: float, generated: int, cost_s: float, kept: bool
) -> None:
    one = requests(first_token_s, finish_s, generated, cost_s)
    assert LEVEL.kept(one, 20.0).tolist() == [kept]


def test_a_level_is_read_and_told() -> None:
    assert ServiceLevel.parse("ttft=0.25+5C, tpot=0.05") == ServiceLevel(0.25, 5.0, 0.05)
    assert ServiceLevel.parse("ttft=2") == ServiceLevel(2.0, 0.0, 0.2)
    assert ServiceLevel.parse(str(LEVEL)) == LEVEL
    for text in ("", "ttft=-1", "ttft=1+5", "tpot=0", "ttft=1,ttft=2", "tft=1"):
        with pytest.raises(ConfigError, match=r"^--service: "):
            ServiceLevel.parse(text, "--service")


def ladder(policy: str, shares: dict[str, list[float]], rates: list[float]) -> dict[str, object]:
    """Rungs at which so many of each class's thousand requests keep the level, in two draws."""
    rungs = []
    for place, rate in enumerate(rates):
        kept = {name: [round(1000 * values[place])] * 2 for name, values in shares.items()}
        counted = {name: [1000] * 2 for name in shares}
        for part in (kept, counted):
            part["middle"] = [0, 0]
            part[ALL] = [part["short"][0] + part["long"][0]] * 2
        rungs.append({"rate_per_s": rate, "counted": counted, "kept": kept})
    oracle = policy == "oracle"
    return {
        "policy": policy,
        "oracle": oracle,
        "workload": "w",
        "limit_requests_per_s": 5.0,
        "rungs": rungs,
    }


def test_capacity_is_where_attainment_falls_below_the_share() -> None:
    shares = {"short": [1.0, 1.0, 1.0], "long": [1.0, 0.9, 0.7]}
    one = ladder("fcfs", shares, [1.0, 2.0, 3.0])
    assert capacity_of(one, ALL, 0.95).value == pytest.approx(2.0)
    assert capacity_of(one, ALL, 0.9).value == pytest.approx(2.5)
    assert capacity_of(one, EACH, 0.9).value == pytest.approx(2.0)
    assert capacity_of(one, EACH, 0.95).value == pytest.approx(1.5)
    assert np.isnan(capacity_of(one, ALL, 0.5).value)  # beyond the ladder
    assert len(capacity_of(one, ALL, 0.9).resampled) == RESAMPLES
    # A dip that is noise is levelled: attainment falls with the rate.
    bumpy = {"short": [1.0, 0.88, 0.92, 0.5], "long": [1.0, 0.88, 0.92, 0.5]}
    assert capacity_of(ladder("p", bumpy, [1.0, 2.0, 3.0, 4.0]), ALL, 0.89).value > 3.0


def test_rows_compare_with_fcfs_and_with_the_best_rival() -> None:
    slow = {"short": [1.0, 0.9, 0.8], "long": [1.0, 0.9, 0.8]}
    fast = {"short": [1.0, 1.0, 0.9], "long": [1.0, 1.0, 0.9]}
    rates = [1.0, 2.0, 4.0]
    arms = {"fcfs": slow, "a": fast, "b": slow, "oracle": fast}
    ladders = [ladder(name, shares, rates) for name, shares in arms.items()]
    rows = {row["policy"]: row for row in capacity_rows(ladders, [0.95], "machine", 2.0)}
    assert rows["fcfs"]["requests_per_s"] == pytest.approx(1.5)
    assert rows["a"]["requests_per_s"] == pytest.approx(3.0)
    assert rows["a"]["ratio_to_fcfs"] == rows["a"]["ratio_to_best_rival"] == pytest.approx(2.0)
    assert rows["b"]["best_rival"] == "a"
    assert rows["a"]["best_rival"] in ("fcfs", "b")  # an oracle is no rival
    assert rows["a"]["price_per_million_good"] == pytest.approx(2e6 / 3600 / 0.95 / 3.0)
    assert rows["a"]["kept_by_class"]["middle"] is None


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--workload", "paper_mix", "--capacity", "0.9,0.99", "--policies", "ewsjf,sjf"]
    words += ["--seeds", "2", "--duration", "60", "--out", str(tmp_path)]
    assert main(words) == 0
    found = json.loads((tmp_path / "evaluation.json").read_text())
    names = [(row["policy"], row["level"]) for row in found["capacity"]]
    assert names == [(p, x) for x in (0.9, 0.99) for p in ("fcfs", "ewsjf", "sjf")]
    by_name = {(row["policy"], row["level"]): row for row in found["capacity"]}
    for name in ("fcfs", "ewsjf", "sjf"):
        strict, loose = by_name[name, 0.99], by_name[name, 0.9]
        assert 0.0 < strict["requests_per_s"] < loose["requests_per_s"]
        assert loose["each_requests_per_s"] <= loose["requests_per_s"]
        assert loose["low"] <= loose["requests_per_s"] <= loose["high"]
    assert by_name["ewsjf", 0.9]["ratio_to_fcfs"] > 1.0
    assert by_name["fcfs", 0.9]["ratio_to_fcfs"] == 1.0
    assert found["meta"]["service"] == "ttft=1+5C,tpot=0.2"
    for one in found["ladders"]:
        for rung in one["rungs"]:
            parts = sum(np.array(rung["kept"][name]) for name in CLASSES)
            assert parts.tolist() == rung["kept"][ALL]
            assert attained(rung, EACH) <= attained(rung, ALL)
            assert rung["rate_per_s"] >= one["limit_requests_per_s"] * 1.03**LOWEST * 0.99
    assert "keep their service level" in capsys.readouterr().out
    assert (tmp_path / "attainment.png").stat().st_size > 10_000
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "ladders").iterdir()}
    assert len(made) >= 3
    assert main(words) == 0  # nothing is played again
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "ladders").iterdir()} == made


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--capacity", "1"], "--capacity: 1.0 is outside (0, 0.9999]"),
        (["--capacity", "x"], "--capacity: 'x' is not a share"),
        (["--capacity", "0.9,0.9"], "--capacity: a value occurs twice"),
        (["--capacity", "0.9", "--load", "1"], "--capacity, --load, --rate: give one of them"),
        (["--capacity", "0.9", "--service", "tpot=1C"], "--service: 'tpot=1C'"),
        (["--capacity", "0.9", "--price", "0"], "--price: 0.0 is outside"),
        (["--capacity", "0.9", "--against", "ewsjf"], "--against: is not of --capacity"),
        (["--service", "tpot=1"], "--service: is of --capacity, which is not given"),
    ],
)
def test_bad_input(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["--workload", "paper_mix", "--out", str(out), *words]) == 2
    assert message in capsys.readouterr().err
    assert not out.exists()
