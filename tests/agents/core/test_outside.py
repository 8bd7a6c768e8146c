"""Tuners from outside the checkout: found by one option, tried at once, refused with a place."""

import importlib.metadata
import shutil
from pathlib import Path

import pytest
import yaml

from agents.cli import compare, train
from agents.core import outside
from agents.core.agent import Transition
from agents.core.registry import (
    AgentSetting,
    agent_config,
    agent_names,
    find_agent,
    label_of,
    make_agent,
)
from agents.runs.folder import RunDir
from ewsjf_env.config import ConfigError
from tests.agents.experiments.comparisons import ENV
from tests.agents.toys import cube_space

EXAMPLE = Path(__file__).parents[3] / "docs/examples/own_tuner.py"
GOOD = """
class Tuner:
    sees = "context"

    def __init__(self, name, space):
        self.name, self.windows, self._space = name, 0, space

    def act(self, context=()):
        return self._space.defaults

    def observe(self, transition):
        self.windows += 1

    def recommend(self, context=None):
        return self._space.defaults

    def diagnostics(self):
        return {}
"""


def written(folder: Path, text: str, name: str = "mine.py") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_the_example_is_built_with_its_settings() -> None:
    name = f"{EXAMPLE}:HillClimber"
    assert label_of(name) == "HillClimber"
    config = agent_config(name, {"step": 0.3})
    agent = make_agent(name, AgentSetting(cube_space(2), seed=4), config)
    assert (agent.name, config.step) == ("HillClimber", 0.3)
    assert agent.act() == {"x0": 0.5, "x1": 0.5}
    agent.observe(Transition(0, agent.act(), 1.0))
    moved = agent.act()
    assert moved != agent.recommend() == {"x0": 0.5, "x1": 0.5}
    agent.observe(Transition(1, moved, 2.0))
    assert agent.recommend() == moved
    with pytest.raises(ConfigError, match="unknown key 'stepp'; nearest valid name: 'step'"):
        agent_config(name, {"stepp": 0.3})
    with pytest.raises(ConfigError, match=r"step: 2\.0 is outside"):
        agent_config(name, {"step": 2.0})


def test_a_module_of_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path, GOOD, "tuner_beside_me.py")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [p for p in __import__("sys").path if p])
    entry = find_agent("tuner_beside_me:Tuner")
    assert (entry.sees, entry.replays, entry.summary) == ("context", False, "a tuner from outside")


def test_an_entry_point_is_an_agent_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    point = importlib.metadata.EntryPoint("hill", f"{EXAMPLE}:HillClimber", outside.GROUP)
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [point, point])
    outside.entry_points.cache_clear()
    try:
        assert agent_names().count("hill") == 1
        assert make_agent("hill", AgentSetting(cube_space(1))).name == "hill"
    finally:
        outside.entry_points.cache_clear()


def test_names_are_listed_once() -> None:
    with pytest.raises(ConfigError) as caught:
        find_agent("zzzzzz")
    names = str(caught.value).split("valid names: ")[1].split(";")[0].split(", ")
    assert len(set(names)) == len(names) > 10


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("class Tuner:", "class Tuna:", "has no 'Tuner'; nearest valid name: 'Tuna'"),
        ("class Tuner:", "class Tuner(:", "mine.py:2: invalid syntax"),
        ("class Tuner:", "import nowhere_at_all\nclass Tuner:", "mine.py:2: ModuleNotFoundError"),
        ("class Tuner:", "Tuner = 3\nclass Other:", "Tuner is a int, expected a class"),
        ('"context"', '"contxt"', "mine.py:2: sees: 'contxt' is not one of"),
        ("def recommend", "def recomend", "mine.py:2: Tuner has no method 'recommend'; nearest"),
        ("(self, context=())", "(self)", "mine.py:8: Tuner.act: is called with 1 value(s)"),
        ("name, space)", "name, space, rate)", "mine.py:5: Tuner.__init__: 'rate' has no default"),
        ("name, space)", "name, space, config)", "mine.py:5: config: expected an annotation"),
        ("self.windows += 1", "self.window += 1", "mine.py:12: Tuner: AttributeError"),
        ("self.windows += 1", "pass", "windows: is 0 after one window was observed"),
        ("return {}", "return None", "diagnostics: expected a dict of numbers, got None"),
        ("self.windows, self._space = name, 0, space", "self._space = name, space", "windows: exp"),
        (
            "        return self._space.defaults\n\n    def observe",
            "        return {'x': 3.0}\n\n    def observe",
            "mine.py:2: Tuner: act",
        ),
    ],
)
def test_what_is_wrong_is_told_at_once_with_its_place(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    assert old in GOOD
    path = written(tmp_path, GOOD.replace(old, new, 1))
    with pytest.raises(ConfigError) as caught:
        find_agent(f"{path}:Tuner")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_module_that_is_nowhere() -> None:
    with pytest.raises(ConfigError, match="no module 'nowhere_at_all' in"):
        find_agent("nowhere_at_all:Tuner")
    with pytest.raises(ConfigError, match=r"no\.py is not a file"):
        find_agent("no.py:Tuner")
    with pytest.raises(ConfigError, match="expected module:Class"):
        find_agent("nowhere:")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("../x:A", "--agent: '../x:A': '../x' is not the name of a module; give a file as path/to"),
        (".:A", "--agent: '.:A': '.' is not the name of a module"),
        ("a b:A", "--agent: 'a b:A': 'a b' is not the name of a module"),
        ("bare_folder:A", "without an __init__.py: expected bare_folder.MODULE:A, MODULE one of ["),
        ("quits.py:A", "quits.py:1: SystemExit: 3"),
        ("sys:A", "--agent: module 'sys': has no 'A'"),
        ("json:JSONDecodr", "has no 'JSONDecodr'; nearest valid name: 'JSONDecoder'"),
        ("bays", "--agent: unknown 'bays'; nearest valid name: 'bayes'"),
        ("x.py", "a tuner of yours is given as module:Class or file.py:Class"),
    ],
)
def test_a_name_that_is_no_tuners_is_one_line_of_its_option(
    name: str,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "bare_folder").mkdir()
    written(tmp_path / "bare_folder", GOOD)
    written(tmp_path, "raise SystemExit(3)\n", "quits.py")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    assert train.main(["--dry-run", "--agent", name]) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: --agent: ")
    assert message in told
    assert len(told.splitlines()) == 1


def test_a_run_of_an_own_tuner_is_resumed_from_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(EXAMPLE, tmp_path)
    (tmp_path / "task.yaml").write_text("engine: fake\nwindow_s: 5.0\nsettle_s: 1.0\nwindows: 3\n")
    monkeypatch.chdir(tmp_path)
    arguments = ["--agent", "own_tuner.py:HillClimber", "--config", "task.yaml", "--windows", "2"]
    assert train.main([*arguments, "--out", "run"]) == 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert train.main(["--resume", "../run", "--windows", "3"]) == 0
    run = RunDir.open(tmp_path / "run")
    assert len(run.windows()) == 3
    assert run.config.agent == f"{tmp_path / 'own_tuner.py'}:HillClimber"


def test_an_own_tuner_is_compared(tmp_path: Path) -> None:
    task = {"env": dict(ENV), "held_out": {"seeds": 1, "windows": 2}}
    config = {"windows": 2, "tasks": {"fake": task}}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(config))
    agents = f"default,{EXAMPLE}:HillClimber,hrrn"
    arguments = ["--config", str(tmp_path / "c.yaml"), "--agents", agents, "--seeds", "1"]
    assert compare.main([*arguments, "--out", str(tmp_path / "out")]) == 0
    table = (tmp_path / "out/comparison.md").read_text()
    assert "| HillClimber |" in table
    assert "| hrrn |" in table
