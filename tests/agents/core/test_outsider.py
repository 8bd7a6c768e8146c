"""A tuner from outside that goes wrong in the middle of a run: one line, and no window is lost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from agents import tune
from agents.cli import compare, train
from agents.core.agent import Transition
from agents.core.registry import AgentSetting, make_agent
from agents.runs.folder import RunDir
from ewsjf_env.config import ConfigError
from tests.agents.experiments.comparisons import ENV
from tests.agents.run_folders import SHORT
from tests.agents.toys import cube_space

TUNER = """
import sys

class Tuner:
    sees = "context"

    def __init__(self, name, space):
        self.name, self.windows, self.space = name, 0, space

    @property
    def late(self):
        return self.windows >= 2

    def act(self, context=()):
        values = dict(self.space.defaults)
        ACT
        return values

    def observe(self, transition):
        self.windows += 1
        OBSERVE

    def recommend(self, context=None):
        values = dict(self.space.defaults)
        RECOMMEND
        return values

    def diagnostics(self):
        scalars = {"mine/x": 1.0}
        DIAGNOSTICS
        return scalars
"""
METHODS = ("act", "observe", "recommend", "diagnostics")
LATE = "if self.late: "


def tuner(folder: Path, name: str = "mine.py", **changes: str) -> str:
    """A tuner that goes wrong once it has seen two windows; returns its name."""
    text = TUNER
    for method in METHODS:
        text = text.replace(method.upper(), LATE + changes.get(method, "pass"))
    path = folder / name
    path.write_text(text)
    return f"{path}:Tuner"


def line_of(method: str, wrong: bool) -> int:
    """Where a method begins, or where it goes wrong."""
    sought = f"        {method.upper()}" if wrong else f"    def {method}("
    return next(n for n, line in enumerate(TUNER.splitlines(), 1) if line.startswith(sought))


def failed(out: Path, name: str, capsys: pytest.CaptureFixture[str]) -> str:
    """The one line of a run of `train` that fails after two windows, which are kept."""
    task = out.parent / "task.yaml"
    task.write_text(yaml.safe_dump(dict(SHORT)))
    arguments = ["--agent", name, "--config", str(task), "--windows", "4", "--out", str(out)]
    assert train.main(arguments) == 2
    told = capsys.readouterr().err
    assert "Traceback" not in told
    (error,) = [line for line in told.splitlines() if line.startswith("error: ")]
    assert told.splitlines()[-1] == error
    return error.removeprefix("error: ")


RAISES = {
    "raise RuntimeError('no')": "RuntimeError: no",
    "raise RuntimeError('two\\nlines')": "RuntimeError: two lines",
    "raise KeyError": "KeyError",
    "raise OSError(28, 'No space left on device')": "OSError: [Errno 28] No space left on device",
    "sys.exit(0)": "SystemExit: 0",
    "sys.exit('bye')": "SystemExit: bye",
    "self.space.to_unit({'nope': 1})": "ConfigError: parameters: unknown parameter 'nope'",
    "raise type('Odd', (BaseException,), {})()": "Odd",
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("code", list(RAISES))
def test_what_it_raises_is_one_line_with_its_place(tmp_path: Path, method: str, code: str) -> None:
    """The place is the line of the tuner, where our own code raised below it, too."""
    agent = make_agent(tuner(tmp_path, **{method: code}), AgentSetting(cube_space(2)))
    place = f"{tmp_path / 'mine.py'}:{line_of(method, wrong=True)}"
    with pytest.raises(ConfigError) as caught:
        for window in range(3):
            values = agent.act()
            agent.observe(Transition(window, values, 1.0))
            agent.recommend()
            agent.diagnostics()
    assert str(caught.value).startswith(f"agent: {place}: Tuner: {RAISES[code]}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_what_is_not_its_fault_passes_through(
    tmp_path: Path, method: str, error: type[BaseException]
) -> None:
    name = tuner(tmp_path, **{method: f"raise {error.__name__}"})
    agent = make_agent(name, AgentSetting(cube_space(2)))
    with pytest.raises(error):
        for window in range(3):
            agent.observe(Transition(window, agent.act(), 1.0))
            agent.recommend()
            agent.diagnostics()


VALUES = {
    "return None": "expected a dict of values by parameter, got None",
    "return [0.5, 0.5]": "expected a dict of values by parameter, got [0.5, 0.5]",
    "return 'fast'": "expected a dict of values by parameter, got 'fast'",
    "return {}": "parameter 'x0' is missing, expected [0, 1]",
    "del values['x1']": "parameter 'x1' is missing, expected [0, 1]",
    "values['x2'] = 0.5": "unknown parameter 'x2'; nearest valid name: 'x",
    "values[3] = 0.5": "unknown parameter 3; valid names: x0, x1",
    "values['x0'] = None": "parameter 'x0': None is not a number in [0, 1]",
    "values['x0'] = '0.5'": "parameter 'x0': '0.5' is not a number in [0, 1]",
    "values['x0'] = float('nan')": "parameter 'x0': nan is outside [0, 1]",
    "values['x0'] = 1e300": "parameter 'x0': 1e+300 is outside [0, 1]",
}


@pytest.mark.parametrize("method", ["act", "recommend"])
@pytest.mark.parametrize("code", list(VALUES))
def test_bad_values_are_refused_by_name(tmp_path: Path, method: str, code: str) -> None:
    agent = make_agent(tuner(tmp_path, **{method: code}), AgentSetting(cube_space(2)))
    for window in range(2):
        agent.observe(Transition(window, agent.act(), 1.0))
    place = f"{tmp_path / 'mine.py'}:{line_of(method, wrong=False)}"
    with pytest.raises(ConfigError) as caught:
        getattr(agent, method)()
    start = f"agent: {place}: Tuner: {method}: "
    assert str(caught.value).startswith(start)
    assert VALUES[code] in str(caught.value)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("return None", "diagnostics: expected a dict of numbers, got None"),
        ("return {'a': 'b'}", "diagnostics: a: expected a number up to 1e308, got 'b'"),
        ("return {'a': '1'}", "diagnostics: a: expected a number up to 1e308, got '1'"),
        ("return {'a': None}", "diagnostics: a: expected a number up to 1e308, got None"),
        ("return {'a': 10**400}", "diagnostics: a: expected a number up to 1e308, got 1000"),
        ("return {'a': [1.0]}", "diagnostics: a: expected a number up to 1e308, got [1.0]"),
        ("return {'': 1.0}", "diagnostics: tag: '' is not of 1 to 200 printable characters"),
        ("return {'a\\nb': 1.0}", "diagnostics: tag: 'a\\nb' is not of 1 to 200 printable"),
        ("return {'\\ud800': 1.0}", "diagnostics: tag: '\\ud800' is not of 1 to 200 printable"),
        ("return {7: 1.0}", "diagnostics: tag: expected a string, got 7"),
    ],
)
def test_bad_diagnostics_are_refused_by_tag(tmp_path: Path, code: str, message: str) -> None:
    agent = make_agent(tuner(tmp_path, diagnostics=code), AgentSetting(cube_space(2)))
    for window in range(2):
        agent.observe(Transition(window, agent.act(), 1.0))
    with pytest.raises(ConfigError) as caught:
        agent.diagnostics()
    place = f"{tmp_path / 'mine.py'}:{line_of('diagnostics', wrong=False)}"
    assert str(caught.value).startswith(f"agent: {place}: Tuner: {message}")


def test_values_of_other_kinds_are_served_as_plain_ones(tmp_path: Path) -> None:
    code = "import numpy; values['x0'] = numpy.float32(0.25); values['x1'] = 1"
    agent = make_agent(tuner(tmp_path, act=code), AgentSetting(cube_space(2)))
    for window in range(2):
        agent.observe(Transition(window, agent.act(), 1.0))
    values = agent.act()
    assert values == {"x0": 0.25, "x1": 1.0}
    assert [type(value) for value in values.values()] == [float, float]


@pytest.mark.parametrize(
    "changes",
    [
        {"act": "raise RuntimeError('no')"},
        {"observe": "sys.exit(3)"},
        {"recommend": "return {}"},
        {"diagnostics": "return {'a': 10**400}"},
    ],
)
def test_a_run_keeps_its_windows_and_is_resumed(
    tmp_path: Path, changes: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    """A process of its own would resume it; here the mended tuner has to have another file."""
    out = tmp_path / "run"
    name = tuner(tmp_path, **changes)
    assert failed(out, name, capsys).startswith(f"agent: {tmp_path / 'mine.py'}:")
    assert len(RunDir.open(out).windows()) == 2
    config = (out / "config.yaml").read_text()
    mended = tuner(tmp_path, "mended.py")
    (out / "config.yaml").write_text(config.replace(name, mended))
    assert train.main(["--resume", str(out)]) == 0
    assert len(RunDir.open(out).windows()) == 4


def test_ctrl_c_within_a_tuner_is_an_interruption(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "task.yaml").write_text(yaml.safe_dump(dict(SHORT)))
    name = tuner(tmp_path, act="raise KeyboardInterrupt")
    arguments = ["--agent", name, "--config", str(tmp_path / "task.yaml"), "--windows", "4"]
    assert train.main([*arguments, "--out", str(tmp_path / "run")]) == 130
    assert capsys.readouterr().err.splitlines()[-1].startswith("interrupted: continue with: ")
    assert len(RunDir.open(tmp_path / "run").windows()) == 2


def test_a_tuner_that_cannot_be_built_leaves_no_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = tuner(tmp_path)
    path = tmp_path / "mine.py"
    unfit = "        if len(space) != 2 or 'x' not in space.names: raise RuntimeError('unfit')\n"
    text = path.read_text()
    start = text.index("        self.name, ")
    path.write_text(text[:start] + unfit + text[start:])
    assert "mine.py:8: Tuner: RuntimeError: unfit" in failed(tmp_path / "run", name, capsys)
    assert not (tmp_path / "run").exists()


def test_python_is_told_the_same(tmp_path: Path) -> None:
    name = tuner(tmp_path, act="raise RuntimeError('no')")
    message = rf"^agent: .*mine\.py:{line_of('act', wrong=True)}: Tuner: RuntimeError: no$"
    with pytest.raises(ConfigError, match=message):
        tune(dict(SHORT), agent=name, windows=4, out=tmp_path / "run")
    assert len(RunDir.open(tmp_path / "run").windows()) == 2


@pytest.mark.parametrize("jobs", ["1", "2"])
@pytest.mark.parametrize("code", ["raise RuntimeError('no')", "sys.exit(0)"])
def test_a_comparison_is_told_the_same_and_keeps_the_others(
    tmp_path: Path, jobs: str, code: str, capsys: pytest.CaptureFixture[str]
) -> None:
    task: dict[str, Any] = {"env": dict(ENV), "held_out": {"seeds": 1, "windows": 2}}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump({"windows": 4, "tasks": {"fake": task}}))
    agents = f"default,{tuner(tmp_path, act=code)}"
    arguments = ["--config", str(tmp_path / "c.yaml"), "--agents", agents, "--seeds", "1"]
    out = tmp_path / "out"
    assert compare.main([*arguments, "--jobs", jobs, "--out", str(out)]) == 2
    told = capsys.readouterr()
    (error,) = [line for line in told.err.splitlines() if line.startswith("error: ")]
    place = f"{tmp_path / 'mine.py'}:{line_of('act', wrong=True)}"
    said = "RuntimeError: no" if "raise" in code else "SystemExit: 0"
    assert error == f"error: fake/Tuner/seed 0 failed: agent: {place}: Tuner: {said}"
    assert "| default |" in (out / "comparison.md").read_text().replace("`", "")
    assert len(RunDir.open(out / "runs/fake/Tuner/seed_0000").windows()) == 2
