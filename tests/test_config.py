import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from ewsjf_env.config import (
    ConfigError,
    check_range,
    from_dict,
    load_yaml,
    nearest,
    refuse_unknown,
    to_dict,
)


@dataclass(frozen=True)
class Inner:
    size_tokens: int = 3

    def __post_init__(self) -> None:
        check_range("size_tokens", self.size_tokens, 1)


@dataclass(frozen=True)
class Outer:
    rate_per_s: float
    name: str = "x"
    kind: Literal["a", "b"] = "a"
    on: bool = False
    limit: int | None = None
    sizes: tuple[int, ...] = ()
    span: tuple[float, float] = (0.0, 1.0)
    shares: Mapping[str, float] = field(default_factory=dict)
    inner: Inner = field(default_factory=Inner)


def test_round_trip():
    outer = Outer(2.0, "y", "b", True, 4, (1, 2), (0.5, 1.5), {"short": 0.8}, Inner(size_tokens=9))
    assert from_dict(Outer, to_dict(outer), "file") == outer
    assert from_dict(Outer, {"rate_per_s": 1}, "file") == Outer(1.0)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({}, "f.yaml: missing key 'rate_per_s'"),
        ({"rate_per_s": 1, "nmae": 1}, "f.yaml: unknown key 'nmae'; nearest valid name: 'name'"),
        ({"rate_per_s": "fast"}, "f.yaml: rate_per_s: expected a number, got 'fast'"),
        ({"rate_per_s": True}, "f.yaml: rate_per_s: expected a number, got True"),
        ({"rate_per_s": 1, "name": 3}, "f.yaml: name: expected a string, got 3"),
        ({"rate_per_s": 1, "on": 1}, "f.yaml: on: expected true or false, got 1"),
        ({"rate_per_s": 1, "limit": 1.5}, "f.yaml: limit: expected an integer, got 1.5"),
        ({"rate_per_s": 1, "sizes": 3}, "f.yaml: sizes: expected a list, got 3"),
        ({"rate_per_s": 1, "sizes": [1, "b"]}, "f.yaml: sizes[1]: expected an integer"),
        ({"rate_per_s": 1, "span": [1.0]}, "f.yaml: span: expected 2 values, got 1"),
        ({"rate_per_s": 1, "shares": [1]}, "f.yaml: shares: expected a mapping, got [1]"),
        ({"rate_per_s": 1, "kind": "c"}, "f.yaml: kind: 'c' is not one of ['a', 'b']"),
        ({"rate_per_s": 1, "inner": {"size_tokens": 0}}, "f.yaml: inner: size_tokens: 0 is out"),
        ({"rate_per_s": 1, "inner": {"sizes": 1}}, "f.yaml: inner: unknown key 'sizes'"),
        ([1], "f.yaml: expected a mapping, got list"),
    ],
)
def test_refusals_name_file_field_and_value(data: object, message: str):
    with pytest.raises(ConfigError) as caught:
        from_dict(Outer, data, "f.yaml")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("value", "bounds", "text"),
    [
        (math.nan, {"low": 0.0}, "x: nan is outside [0, inf)"),
        (math.inf, {}, "x: inf is outside (-inf, inf)"),
        (0.0, {"low": 0.0, "low_open": True}, "x: 0.0 is outside (0, inf)"),
        (1.5, {"low": 0.0, "high": 1.0}, "x: 1.5 is outside [0, 1]"),
        (-1, {"low": 0}, "x: -1 is outside [0, inf)"),
    ],
)
def test_check_range_refuses(value: float, bounds: dict[str, float], text: str):
    with pytest.raises(ConfigError) as caught:
        check_range("x", value, **bounds)
    assert str(caught.value) == text


def test_check_range_accepts_its_closed_limits():
    check_range("x", 0.0, 0.0, 1.0)
    check_range("x", 1.0, 0.0, 1.0)
    check_range("x", -5.0)


def test_nearest():
    assert nearest("fcsf", ["fcfs", "hrrn"]) == "; nearest valid name: 'fcfs'"
    assert nearest("qqq", ["b", "a"]) == "; valid names: a, b"
    assert nearest("qqq", []) == ""


def test_refuse_unknown_passes_known_keys():
    refuse_unknown({"a": 1}, ["a", "b"], "here")


def test_load_yaml(tmp_path: Path):
    good, broken, listed = tmp_path / "a.yaml", tmp_path / "b.yaml", tmp_path / "c.yaml"
    good.write_text("a: 1\n")
    broken.write_text("a: [1\nb: 2\n")
    listed.write_text("- 1\n")
    assert load_yaml(good) == {"a": 1}
    for path, text in (
        (broken, r"not valid YAML: expected ',' or '\]', but got ':' \(line 2, column 2\)"),
        (listed, "expected a mapping at top level, got list"),
        (tmp_path / "none.yaml", "cannot be read"),
    ):
        with pytest.raises(ConfigError, match=text) as caught:
            load_yaml(path)
        assert str(caught.value).startswith(str(path))
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["a: 2020-99-99\n", "a: 1" + "0" * 5000 + "\n", "[" * 3000, "\0"])
def test_yaml_that_cannot_be_a_value_is_not_valid(tmp_path: Path, text: str):
    path = tmp_path / "x.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"x\.yaml: not valid YAML") as caught:
        load_yaml(path)
    assert "\n" not in str(caught.value)
    assert "unicode string" not in str(caught.value)


def test_a_key_may_be_given_once_but_may_override_a_merged_one(tmp_path: Path):
    path = tmp_path / "x.yaml"
    path.write_text("base: &base {a: 1, b: 2}\nother: {<<: *base, b: 3}\n")
    assert load_yaml(path)["other"] == {"a": 1, "b": 3}
    path.write_text("a: 1\nb: 2\na: 1\n")
    with pytest.raises(ConfigError) as caught:
        load_yaml(path)
    assert str(caught.value) == f"{path}: not valid YAML: key 'a' is given twice (line 3, column 1)"
    path.write_text("outer:\n  a: 1\n  b: 2\n  a: 3\n")
    with pytest.raises(ConfigError, match=r"'a' is given twice \(line 4, column 3\)"):
        load_yaml(path)
