"""Declared settings: checked in Python as from a file, light to import, quick to make."""

import copy
import dataclasses
import math
import pickle
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import field
from datetime import date
from typing import Annotated, Any

import pytest

from ewsjf_env.config import (
    Among,
    ConfigError,
    Count,
    Names,
    Positive,
    Range,
    Share,
    from_dict,
    overridden,
    settings,
    to_dict,
)
from ewsjf_env.workload.arrivals import ArrivalLaw

NAMES = ["sobol", "random"]


@settings
class Inner:
    """A part."""

    share: Share = 0.5
    """Share of something."""


@settings
class Plan:
    """The whole."""

    name: Annotated[str, Among("plan", lambda: NAMES)]
    """Which plan."""
    windows: Count = 3
    """How many."""
    rates_per_s: tuple[Positive, ...] = ()
    """Rates."""
    limit: Annotated[int, Range(2, 9)] | None = None
    """Limit."""
    weights: Mapping[str, Positive] = field(default_factory=dict)
    """Weights."""
    value: float | str = "auto"
    """A number or auto."""
    inner: Inner = field(default_factory=Inner)
    """Part."""
    parts: tuple[Inner, ...] = ()
    """Parts."""
    tags: Names = ()
    """Names."""

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < self.windows:
            raise ConfigError(f"limit: {self.limit} is below windows ({self.windows})")


@settings
class Longer(Plan):
    """One that inherits."""

    more: Share = 0.1
    """More."""


BAD: list[tuple[dict[str, Any], str]] = [
    ({"windows": 0}, "windows: 0 is outside [1, inf)"),
    ({"windows": True}, "windows: expected an integer, got True"),
    ({"windows": 2.0}, "windows: expected an integer, got 2.0"),
    ({"windows": "3"}, "windows: expected an integer, got '3'"),
    ({"rates_per_s": [1, -2]}, "rates_per_s[1]: -2 is outside (0, inf)"),
    ({"rates_per_s": [math.nan]}, "rates_per_s[0]: nan is outside (0, inf)"),
    ({"rates_per_s": 3}, "rates_per_s: expected a list, got 3"),
    ({"limit": 10}, "limit: 10 is outside [2, 9]"),
    ({"limit": 2}, "limit: 2 is below windows (3)"),
    ({"weights": {"a": 0}}, "weights: a: 0 is outside (0, inf)"),
    ({"value": math.inf}, "value: inf is outside (-inf, inf)"),
    ({"inner": {"share": 2}}, "inner: share: 2 is outside [0, 1]"),
    ({"inner": {"shar": 1}}, "inner: unknown key 'shar'; nearest valid name: 'share'"),
    ({"inner": 3}, "inner: expected a mapping, got int"),
    ({"tags": ["a", "b", "a"]}, "tags: 'a' occurs twice"),
    ({"value": [1] * 1000}, f"value: expected a string, got [{'1, ' * 20}...]"),
    ({"windows": date(2026, 1, 2)}, "windows: expected an integer, got the date 2026-01-02"),
    ({"name": "sobl"}, "name: unknown plan 'sobl'; nearest valid name: 'sobol'"),
    ({"nam": 3}, "unknown key 'nam'; nearest valid name: 'name'"),
]


@pytest.mark.parametrize(("changes", "message"), BAD, ids=[message for _, message in BAD])
def test_python_and_files_get_the_same_line(changes: dict[str, Any], message: str) -> None:
    given = {"name": "sobol", **changes}
    with pytest.raises(ConfigError) as caught:
        Plan(**given)
    assert str(caught.value) == message
    with pytest.raises(ConfigError) as caught:
        from_dict(Plan, given, "f.yaml")
    assert str(caught.value) == f"f.yaml: {message}"


def test_a_value_is_what_was_given() -> None:
    made = Plan("sobol", 4, rates_per_s=(1, 2.5), value=3)
    assert made.rates_per_s == (1.0, 2.5)
    assert isinstance(made.rates_per_s[0], float)
    assert made.value == 3.0
    assert made == from_dict(Plan, to_dict(made), "x")
    assert hash(made.inner) == hash(Inner())


def test_they_are_frozen_dataclasses() -> None:
    made = Longer("random", limit=5, more=1)
    assert dataclasses.replace(made, windows=4).limit == 5
    with pytest.raises(ConfigError, match="limit: 5 is below windows"):
        dataclasses.replace(made, windows=6)
    with pytest.raises(ConfigError, match="more: 2 is outside"):
        dataclasses.replace(made, more=2)
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.windows = 4  # type: ignore[misc]
    assert pickle.loads(pickle.dumps(made)) == made == copy.deepcopy(made)
    with pytest.raises(TypeError):
        Plan("sobol", name="sobol")
    with pytest.raises(ConfigError, match="missing key 'name'"):
        Plan()  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("inner.share=2", "--set inner.share: 2 is outside [0, 1]"),
        ("inner.shar=2", "--set inner.shar: unknown key 'shar'; nearest valid path: 'inner.share'"),
        ("iner.share=2", "--set iner.share: unknown key 'iner'; nearest valid path: 'inner.share'"),
        ("inner=2", "--set inner: expected a mapping, got int"),
        ("inner={share: 3}", "--set inner: share: 3 is outside [0, 1]"),
        ("rates_per_s=[1, 0]", "--set rates_per_s[1]: 0 is outside (0, inf)"),
        ("rates_per_s.5=1", "--set rates_per_s.5: the list has 1 values, from 0 on"),
        ("rates_per_s.0=-1", "--set rates_per_s.0: -1 is outside (0, inf)"),
        (
            "parts.1.share=3",
            "--set parts.1.share: the list parts is not in the file; give all its values: "
            "--set parts=[{share: 3}]",
        ),
        ("parts.²=1", "--set parts.²: unknown key '²'; nearest valid path: 'parts'"),
        ("value.0=3", "--set value.0: unknown key '0'"),
        ("weights..a=1", "--set: 'weights..a=1' is not like a.b=3"),
        ("limit=2", "--set limit: 2 is below windows (3)"),
        ("tags=[a, b, a]", "--set tags: 'a' occurs twice"),
        ("windows=[", "--set windows: not valid YAML"),
        ("windows", "--set: 'windows' is not like a.b=3"),
        ("=3", "--set: '=3' is not like a.b=3"),
        ("windows=many", "--set windows: expected an integer, got 'many'"),
        ("qqqqqq=1", "--set qqqqqq: unknown key 'qqqqqq'; valid names: inner, limit, name,"),
    ],
)
def test_what_is_set_is_refused_by_its_path(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        from_dict(Plan, {"name": "sobol", "rates_per_s": [3.0]}, "f.yaml", [text])
    assert str(caught.value).startswith(message)


def test_set_values_replace_those_of_the_file() -> None:
    data = {"name": "sobol", "rates_per_s": [3.0, 4.0], "inner": {"share": 0.1}}
    sets = ["inner.share=0.2", "rates_per_s.1=5", "weights.a=2", "windows=4", "windows=5"]
    made = from_dict(Plan, data, "f.yaml", sets)
    assert made == Plan("sobol", 5, (3.0, 5.0), None, {"a": 2.0}, "auto", Inner(0.2))
    assert data["inner"] == {"share": 0.1}
    assert from_dict(Plan, data, "f.yaml", ["limit=null"]).limit is None
    assert overridden({}, ["inner.share=1"], Plan) == {"inner": {"share": 1}}


def test_what_a_path_goes_through_in_the_file_is_not_overwritten() -> None:
    with pytest.raises(ConfigError, match=r"^--set inner\.share: inner is 3, expected a mapping$"):
        from_dict(Plan, {"name": "sobol", "inner": 3}, "f.yaml", ["inner.share=0.2"])


def test_a_choice_that_is_like_none_lists_the_names_once() -> None:
    with pytest.raises(ConfigError, match=r"^kind: 'zzz' is not one of \['poisson', 'gamma'\]$"):
        ArrivalLaw("zzz")  # type: ignore[arg-type]


def test_a_bad_value_of_the_file_is_not_blamed_on_what_is_set() -> None:
    with pytest.raises(ConfigError, match=r"^f\.yaml: windows: 0 is outside"):
        from_dict(Plan, {"name": "sobol", "windows": 0}, "f.yaml", ["inner.share=0.2"])


def test_importing_settings_loads_no_pydantic() -> None:
    code = "import sys, ewsjf_env.policy; print('pydantic' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
