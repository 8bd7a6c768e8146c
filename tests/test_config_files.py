"""Files that commands read: a pipe is refused, not waited for; so is YAML that is a trap."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from ewsjf_env.config import ConfigError, load_yaml, parse_yaml, read_text
from ewsjf_env.engine.simulated.latency import LatencyModel
from ewsjf_env.engine.steps.step_samples import read_steps
from ewsjf_env.env.task import load_tuning
from ewsjf_env.policy.policy import Policy, parse_policy
from ewsjf_env.workload import load_workload, trace_workload

READERS: dict[str, tuple[str, Callable[[str], object]]] = {
    "text": ("a.txt", read_text),
    "settings": ("a.yaml", load_yaml),
    "task": ("a.yaml", load_tuning),
    "task without a suffix": ("task", load_tuning),
    "workload": ("a.yaml", load_workload),
    "workload of a trace": ("a.csv", load_workload),
    "trace": ("a.csv.gz", trace_workload),
    "policy": ("a.json", parse_policy),
    "policy file": ("a", Policy.load),
    "latency": ("a.json", LatencyModel.load),
    "steps": ("a.jsonl", read_steps),
}


@pytest.mark.parametrize("reader", READERS)
def test_a_pipe_is_refused_and_not_waited_for(
    reader: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, read = READERS[reader]
    monkeypatch.chdir(tmp_path)
    os.mkfifo(name)
    with pytest.raises(ConfigError, match=rf"\b{name}: is a named pipe, not a regular file$"):
        read(name)


def test_a_directory_or_device_is_no_file_and_a_link_to_a_file_is_one(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("\ufeffa: 1\n", encoding="utf-8")
    (tmp_path / "link.yaml").symlink_to("a.yaml")
    assert load_yaml(tmp_path / "link.yaml") == {"a": 1}
    with pytest.raises(ConfigError, match=r": is a directory, not a regular file$"):
        read_text(tmp_path)
    with pytest.raises(ConfigError, match=r"^/dev/zero: is a device, not a regular file$"):
        read_text("/dev/zero")
    with pytest.raises(ConfigError, match=r"cannot be read: "):
        read_text("a\0b")


def test_what_is_too_large_or_no_text_is_told(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes(b"a: \xff\n")
    with pytest.raises(ConfigError, match=r"a\.yaml: is not UTF-8 text: byte 3 is 0xff$"):
        load_yaml(path)
    with pytest.raises(ConfigError, match=r"a\.yaml: is larger than 3 bytes$"):
        read_text(path, most_bytes=3)
    for text in ("", "# nothing\n"):
        path.write_text(text)
        with pytest.raises(ConfigError, match=r"a\.yaml: is empty; expected a mapping"):
            load_yaml(path)


LAUGHS = "a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 10)}]\n"
    for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (LAUGHS, "more than 100000 values, anchors unfolded"),
        ("a: &a [*a]\n", "an anchor holds itself (line 1, column 4)"),
        ("a: &a {b: *a}\n", "an anchor holds itself"),
        ("a: " + "[" * 40 + "]" * 40, "nested deeper than 32 levels"),
        ("[" * 5000, "nested deeper than 32 levels"),
        ("{<<: {a: 1}, <<: {a: 2}}", "key '<<' is given twice"),
        ("{1: a, '1': b}", "key '1' is given twice"),
        ("no: 1\n", "key 'no' is read as False; write it in quotes (line 1, column 1)"),
        ("0x1: 1\n", "key '0x1' is read as 1; write it in quotes"),
        ("~: 1\n", "key '~' is read as None; write it in quotes"),
        ("? [a]\n: 1\n", "a key is no string"),
        ("a: !!set {b, c}\n", "the tag '!!set' is not for settings"),
        ("a: !!python/object:os.system {}\n", "is not for settings"),
        ('a: "\\ud800"\n', "a string is not Unicode (line 1, column 4)"),
        ("a: 2020-13-01\n", "month must be in 1..12 (line 1, column 4)"),
        ("a: 1\n---\nb: 2\n", "but found another document"),
    ],
    ids=lambda text: text[:12],
)
def test_yaml_that_is_a_trap_is_refused_with_its_place(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_yaml(text, "f.yaml")
    assert str(caught.value).startswith("f.yaml: not valid YAML: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_number_is_what_it_looks_like() -> None:
    text = "[010, 1:30, 0x10, 0b11, 1_000, -0, +7, 1.5, .5, 1.0e+3, 010.5, .inf, 1e3]"
    read = [*("010", "1:30"), 16, 3, 1000, 0, 7, 1.5, 0.5, 1000.0, 10.5, float("inf"), "1e3"]
    assert parse_yaml(text, "x") == read
    assert parse_yaml("{3: a, 1.5: b, 010: c, 2020-01-01: d}", "x") == {
        **{"3": "a", "1.5": "b"},
        **{"010": "c", "2020-01-01": "d"},
    }
