"""A store of results: its keys, what it keeps, and who else may work on the folder.

Failures, killed workers and interruptions: tests of the runs of policies, which are its first user.
"""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from agents.core.progress import silent
from agents.core.store import Key, Result, Store, digest, key_of
from ewsjf_env.config import ConfigError
from ewsjf_env.engine.base import EngineError
from ewsjf_env.engine.simulated.config import SimulatedConfig

ROOT = Path(__file__).parents[3]
SHARED = """
import sys
from functools import partial
from pathlib import Path
from agents.core.progress import silent
from agents.core.store import Store, key_of
from tests.agents.core.test_store import noted
folder = Path(sys.argv[1])
tasks = {key_of(i, "task"): partial(noted, i, folder / "log") for i in range(12)}
results, failures = Store(folder / "store").get_all(tasks, 1, silent)
assert [r["number"] for r in results.values()] == list(range(12)), results
assert not failures
"""


def number(value: float) -> Result:
    return {"number": value}


def deep(value: float) -> Result:
    return {"a": value, "inner": {"b": 1e-17 + value, "rows": [{"c": (value, None), "d": True}]}}


def noted(value: int, log: Path) -> Result:
    """A result that takes a moment, and says in a file that it was made."""
    import time

    time.sleep(0.05)
    with log.open("a") as file:
        file.write(f"{value}\n")
    return number(value)


def refuses(reason: type[Exception]) -> Result:
    raise reason("no: 7 is outside [0, 1]")


def never() -> Result:
    raise AssertionError("it was there already")


def test_a_key_tells_content_apart_and_nothing_else() -> None:
    assert digest({"a": 1, "b": [2.0, None]}) == digest({"b": (2.0, None), "a": 1})
    assert digest(SimulatedConfig()) == digest(SimulatedConfig())
    assert digest(SimulatedConfig()) != digest(SimulatedConfig(max_num_seqs=64))
    assert key_of([1], "a load of 0.9", "hrrn(exponent=2)") == (
        f"a_load_of_0.9__hrrn_exponent=2__{digest([1])}"
    )


@pytest.mark.parametrize("content", [object(), {1: {2}}, float("nan"), Path("file"), lambda: 1])
def test_what_json_cannot_say_is_no_content(content: Any) -> None:
    """A repr would: with an address, or the order of a set, that no other process finds again."""
    with pytest.raises((TypeError, ValueError)):
        key_of([content])


def test_a_result_is_computed_once(tmp_path: Path) -> None:
    store, key = Store(tmp_path / "new" / "store"), key_of("question")
    assert store.find(key) is None
    assert store.get(key, partial(number, 1.5)) == {"number": 1.5}
    assert Store(store.folder).get(key, never) == {"number": 1.5}
    assert [path.name for path in store.folder.iterdir()] == [f"{key}.json"]


DAMAGE = ["", "{", '{"number": 1', "[1]", "{}", "null", '{"number": 1}', '{"sha256": "0"}']


@pytest.mark.parametrize("content", DAMAGE)
def test_a_damaged_result_is_none(
    tmp_path: Path, content: str, capsys: pytest.CaptureFixture[str]
) -> None:
    store, key = Store(tmp_path), key_of("question")
    store.path(key).write_text(content)
    assert store.get(key, partial(number, 2)) == {"number": 2}
    told = f"{store.path(key)}: damaged, or written by an older version; made again\n"
    assert capsys.readouterr().err == told
    assert Store(tmp_path).get(key, never) == {"number": 2}
    assert capsys.readouterr().err == ""
    written = json.loads(store.path(key).read_text())
    assert {**written, "sha256": ""} == {"number": 2, "sha256": ""}


@pytest.mark.parametrize("workers", [1, 2])
def test_a_result_that_lacks_something_anywhere_is_made_again(
    tmp_path: Path, workers: int, capfd: pytest.CaptureFixture[str]
) -> None:
    store, keys = Store(tmp_path), [key_of(n) for n in range(4)]
    tasks = {key: partial(deep, n) for n, key in enumerate(keys)}
    whole, _ = store.get_all(tasks, 1, silent)
    for key, lost in zip(keys, ("a", "b", "c"), strict=False):
        data = json.loads(store.path(key).read_text())
        for part in (data, data["inner"], data["inner"]["rows"][0]):
            part.pop(lost, None)
        store.path(key).write_text(json.dumps(data))
    again = {**tasks, keys[3]: never}
    assert store.get_all(again, workers, silent) == (whole, {})
    told = f"{store.path(keys[0])} and 2 more: damaged, or written by an older version; made again"
    assert capfd.readouterr().err.splitlines() == [told]
    assert store.get_all(dict.fromkeys(keys, never), workers, silent) == (whole, {})


def test_files_that_people_read_have_no_seal(tmp_path: Path) -> None:
    store, key = Store(tmp_path, sealed=False), key_of("question")
    store.keep(key, number(1.5))
    assert json.loads(store.path(key).read_text()) == {"number": 1.5}
    assert store.find(key) == {"number": 1.5}


def test_nan_is_a_failure_and_not_a_file_that_nobody_can_read(tmp_path: Path) -> None:
    store, key = Store(tmp_path), key_of("question")
    results, failures = store.get_all({key: partial(number, float("nan"))}, 1, silent)
    assert results == {}
    assert "Out of range float" in failures[key]
    assert store.find(key) is None


def test_results_come_in_the_order_that_was_asked_for(tmp_path: Path) -> None:
    tasks = {key_of(i): partial(number, i) for i in (3, 1, 2)}
    Store(tmp_path).keep(key_of(2), number(2))
    found, _ = Store(tmp_path).get_all(tasks, 2, silent)
    assert [r["number"] for r in found.values()] == [3, 1, 2]
    assert Store(tmp_path).every(tasks, 1, silent) == list(found.values())


@pytest.mark.parametrize("error", [ConfigError, EngineError])
def test_where_one_failure_is_too_many_bad_input_stays_bad_input(
    tmp_path: Path, error: type[Exception]
) -> None:
    tasks = {key_of(1): partial(number, 1), key_of(2): partial(refuses, error)}
    with pytest.raises(error, match=r"no: 7 is outside \[0, 1\]") as caught:
        Store(tmp_path).every(tasks, 1, silent)
    if error is ConfigError:
        assert str(caught.value) == "no: 7 is outside [0, 1]"
    else:
        assert f"1 of 2 runs failed; the first: {key_of(2)}" in str(caught.value)
    assert Store(tmp_path).find(key_of(1)) == {"number": 1}  # the others are kept


def test_results_of_other_keys_are_counted(tmp_path: Path) -> None:
    store = Store(tmp_path)
    tasks: dict[Key, Any] = {key_of(i): partial(number, i) for i in range(3)}
    store.get_all({**tasks, key_of("bad"): partial(refuses, EngineError)}, 1, silent)
    assert store.others([*tasks, key_of("bad")]) == 0
    assert store.others(list(tasks)[:1]) == 3


def test_two_processes_on_one_folder_share_the_work(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SHARED, str(tmp_path)]
    processes = [
        subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) for _ in range(2)
    ]
    for process in processes:
        _, error = process.communicate(timeout=120)
        assert process.returncode == 0, error
    made = (tmp_path / "log").read_text().split()
    assert sorted(set(map(int, made))) == list(range(12))
    assert len(list((tmp_path / "store").iterdir())) == 12
