"""A run's folder keeps every window whole, belongs to one process, and says what is damaged."""

from __future__ import annotations

import functools
import json
import operator
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agents.runs.config import make_run_config
from agents.runs.folder import PACKAGES, RunDir
from ewsjf_env.config import ConfigError
from tests.agents.run_folders import SHORT, make_run

CONFIG = make_run_config("sobol", SHORT, windows=3)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "run", "sobol", 3, **SHORT)


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def test_a_new_folder(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path / "a" / "b", CONFIG)
    run.note_command(["train.py", "--out", "my run"])
    run.note_command(["train.py", "--resume", "x"])
    assert run.windows() == []
    assert run.summary() is None
    run.write_summary({"windows": 0})
    assert run.summary() == {"windows": 0}
    run.close()
    run.close()
    opened = RunDir.open(tmp_path / "a" / "b")
    assert opened.config == CONFIG
    assert (opened.path / "command.txt").read_text() == (
        "train.py --out 'my run'\ntrain.py --resume x\n"
    )
    versions = json.loads((opened.path / "versions.json").read_text())
    assert versions["packages"]["optuna"].startswith("5.")
    assert set(versions["packages"]) == set(PACKAGES)
    assert versions["latency_sha256"] is None  # the fake engine has none
    assert not list(opened.path.glob("*.tmp"))


def test_windows_come_back_as_they_were_written(finished: Path, tmp_path: Path) -> None:
    records = RunDir.open(finished).windows()
    assert [r.window for r in records] == [0, 1, 2]
    run = RunDir.create(tmp_path / "copy", CONFIG)
    for record in records:
        run.append(record)
    run.close()
    copied = tmp_path / "copy" / "windows.jsonl"
    assert copied.read_bytes() == (finished / "windows.jsonl").read_bytes()


def test_what_is_no_number_is_not_written(finished: Path, tmp_path: Path) -> None:
    record = RunDir.open(finished).windows()[0]
    run = RunDir.create(tmp_path / "run", CONFIG)
    with pytest.raises(ValueError, match="JSON compliant"):
        run.append(replace(record, score=replace(record.score, reward=float("nan"))))
    assert run.windows() == []
    run.close()


def test_half_a_line_is_cut(folder: Path) -> None:
    path = folder / "windows.jsonl"
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    kept = b"".join(lines[:2])
    third = RunDir.open(folder).windows()[2]
    for end in [*range(len(kept) + 1, len(whole), 97), len(whole) - 1]:
        path.write_bytes(whole[:end])
        assert len(RunDir.open(folder).windows()) == 2
        assert path.read_bytes() == whole[:end]  # who only reads does not mend
        run = RunDir.open(folder, lock=True)
        assert path.read_bytes() == kept
        run.append(third)
        run.close()
        assert path.read_bytes() == whole


def _without(line: bytes, key: str) -> bytes:
    record = json.loads(line)
    del record[key]
    return json.dumps(record).encode() + b"\n"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda a, b, c: a + b[: len(b) // 2] + b"\n" + c, "line 2: not a window"),
        (lambda a, b, c: a + b"\0" * len(b) + c, "line 2: not a window"),
        (lambda a, b, c: a + b"\n" + c, "line 2: not a window"),
        (lambda a, b, c: a + b"7\n" + c, "line 2: not a window"),
        (lambda a, b, c: a + c, "line 2: window 2, not 1"),
        (lambda a, b, c: a + b + b + c, "line 3: window 1, not 2"),
        (lambda a, b, c: b + c, "line 1: window 1, not 0"),
        (lambda a, b, c: a + _without(b, "score") + c, "line 2: not a window: it lacks 'score'"),
        (
            lambda a, b, c: a + b.replace(b'"window":1,', b'"window":0,"window":1,') + c,
            "line 2: not a window: key 'window' is given twice",
        ),
        (
            lambda a, b, c: a + b.replace(b'"reward":', b'"reward":9.0,"reward":', 1) + c,
            "line 2: not a window: key 'reward' is given twice",
        ),
    ],
)
def test_a_damaged_line_is_told_by_its_number(folder: Path, damage: Any, message: str) -> None:
    path = folder / "windows.jsonl"
    path.write_bytes(damage(*path.read_bytes().splitlines(keepends=True)))
    before = path.read_bytes()
    run = RunDir.open(folder, lock=True)
    with pytest.raises(ConfigError, match=f"windows.jsonl: {message}"):
        run.windows()
    run.close()
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("score", None, "score: expected a mapping, got nothing"),
        ("served: values", None, "expected a mapping, got None"),
        ("served: values", {"lambda": 9, "mu": 0}, "parameter 'lambda': 9 is outside [0, 2]"),
        ("served: values", {"mu": 0.0}, "parameter 'lambda' is missing, expected [0, 2]"),
        ("served: values", {"lamda": 1, "mu": 0}, "unknown parameter 'lamda'; nearest valid name"),
        ("served: failure", 7, "expected a string, got 7"),
        ("plan: proposed", {"lambda": "x", "mu": 0}, "parameter 'lambda': 'x' is not a num"),
        ("plan: episode", 1.0, "expected an integer, got 1.0"),
        ("plan: step", 9, "9 is outside [0, 1]"),
        ("plan: trace", {}, "missing key 'name'"),
        ("score: reward", "x", "expected a number, got 'x'"),
        ("score: reward", float("nan"), "nan is outside (-inf, inf)"),
        ("score: reward_se", -1.0, "-1.0 is outside [0, inf)"),
        ("score: margins", {"a": float("inf")}, "a: inf is outside (-inf, inf)"),
        ("agent: context", [0.5], "expected 0 numbers, got 1"),
        ("agent: before", "x", "expected a list, got 'x'"),
        ("agent: void", "no", "expected true or false, got 'no'"),
        ("agent: shifted", 0, "expected true or false, got 0"),
        ("agent: observation[1]", float("nan"), "nan is outside (-inf, inf)"),
        ("traffic", {}, "missing key 'arrival_rate_per_s'"),
        ("traffic: count_shares", 0.5, "expected a list, got 0.5"),
        ("metrics: queues", "x", "expected a number, got 'x'"),
        ("metrics: queues", [8], "expected a number, got [8]"),
        ("guard", {"report": {}, "before": {"radius": 1}}, "before: missing key 'incumbent'"),
    ],
)
def test_a_wrong_value_is_told_by_line_and_field(
    folder: Path, key: str, value: Any, message: str
) -> None:
    path = folder / "windows.jsonl"
    lines = path.read_text().splitlines()
    record = json.loads(lines[1])
    *parts, last = re.findall(r"\w+", key)
    inner = functools.reduce(operator.getitem, parts, record)
    inner[int(last) if last.isdigit() else last] = value
    lines[1] = json.dumps(record)
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(ConfigError, match=re.escape(message)) as error:
        RunDir.open(folder).windows()
    assert str(error.value).startswith(f"{path}: line 2: {key}: ")
    assert "\n" not in str(error.value)


def test_a_context_has_a_number_a_feature(tmp_path: Path) -> None:
    folder = make_run(tmp_path, "sobol", 1, ("burst_index", "oldest_age_s"), **SHORT)
    path = folder / "windows.jsonl"
    record = json.loads(path.read_text())
    expected = r"agent: context: expected 2 numbers \(burst_index, oldest_age_s\), got 0"
    for context, message in (
        ([], expected),
        ([0.0, 2.0], r"context\[1\]: 2.0 is outside \[-1, 1\]"),
    ):
        record["agent"]["context"] = context
        path.write_text(json.dumps(record) + "\n")
        with pytest.raises(ConfigError, match=message):
            RunDir.open(folder).windows()


def test_what_a_later_version_has_added_is_left_alone(folder: Path) -> None:
    path = folder / "windows.jsonl"
    before = RunDir.open(folder).windows()
    records = [{**json.loads(line), "new": {}} for line in path.read_text().splitlines()]
    for record in records:
        record["plan"]["newer"] = record["metrics"]["newest"] = 1.0
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    assert RunDir.open(folder).windows() == before


def test_one_process_at_a_time(folder: Path) -> None:
    first = RunDir.open(folder, lock=True)
    with pytest.raises(ConfigError, match="another process is working on this run"):
        RunDir.open(folder, lock=True)
    assert len(RunDir.open(folder).windows()) == 3  # reading is free
    first.close()
    RunDir.open(folder, lock=True).close()


def test_a_run_is_not_written_over(folder: Path) -> None:
    before = (folder / "config.yaml").read_bytes()
    for _ in range(2):  # the refusal gives the lock back
        with pytest.raises(ConfigError, match="holds a run already; --resume continues it"):
            RunDir.create(folder, CONFIG)
    RunDir.open(folder, lock=True).close()
    assert (folder / "config.yaml").read_bytes() == before


def test_a_start_that_was_killed_before_its_configuration(tmp_path: Path) -> None:
    (tmp_path / ".lock").touch()
    (tmp_path / "versions.json").write_text("{")
    RunDir.create(tmp_path, CONFIG).close()
    assert RunDir.open(tmp_path).config == CONFIG


@pytest.mark.parametrize("left", ["windows.jsonl", "summary.json", "timing.jsonl"])
def test_what_is_left_of_a_run_is_not_adopted(folder: Path, left: str) -> None:
    for path in list(folder.iterdir()):
        if path.name != left:
            path.unlink()
    before = (folder / left).read_bytes()
    message = f"holds {left} of a run whose config.yaml is missing; put that file back and --resume"
    with pytest.raises(ConfigError, match=message):
        RunDir.create(folder, CONFIG)
    assert [path.name for path in folder.iterdir()] == [left]
    assert (folder / left).read_bytes() == before


def test_a_start_that_fails_leaves_nothing(tmp_path: Path) -> None:
    task = {**SHORT, "engine": "compiled", "simulated": {"latency": "nope"}}
    del task["fake"]
    config = make_run_config("sobol", task, windows=3)
    with pytest.raises(ConfigError, match=r"^simulated\.latency: unknown preset 'nope'"):
        RunDir.create(tmp_path / "a" / "b", config)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"^simulated\.latency: unknown preset 'nope'"):
        RunDir.create(tmp_path, config)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_who_is_refused_withdraws_nothing_of_another_process(folder: Path) -> None:
    first = RunDir.open(folder, lock=True)
    (folder / "config.yaml").rename(folder / "hidden")
    (folder / "windows.jsonl").rename(folder / "away")
    for name in ("summary.json", "command.txt", "timing.jsonl", "progress.csv"):
        (folder / name).unlink(missing_ok=True)
    for path in folder.glob("events*"):
        path.unlink()
    before = sorted(path.name for path in folder.iterdir())
    with pytest.raises(ConfigError, match="another process is working on this run"):
        RunDir.create(folder, CONFIG)
    assert sorted(path.name for path in folder.iterdir()) == before
    first.close()
    first.withdraw()  # it was opened, not created
    assert sorted(path.name for path in folder.iterdir()) == before


def test_folders_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path, reason in [("file", "File exists"), ("file/run", "Not a directory")]:
        with pytest.raises(ConfigError, match=f"{path}: cannot be written: {reason}"):
            RunDir.create(tmp_path / path, CONFIG)
    with pytest.raises(ConfigError, match="/proc/run: cannot be written"):
        RunDir.create(Path("/proc/run"), CONFIG)
    with pytest.raises(ConfigError, match=r"holds no run \(config.yaml is missing\)"):
        RunDir.open(tmp_path)
