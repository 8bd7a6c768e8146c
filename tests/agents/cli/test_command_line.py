"""Bad input is one line, and the exit code tells what happened."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from agents.cli._command import Parser, folder, number, run_command, say, tool_command, whole
from agents.cli._start import start
from agents.core.words import counted
from ewsjf_env.config import ConfigError
from ewsjf_env.engine.base import EngineError


def parser() -> Parser:
    made = Parser("tool.py", "tool.py FILE [options]", "Does it.", "examples: none")
    made.add_argument("file")
    made.add_argument("--seeds", type=whole)
    made.add_argument("--load", type=number)
    return made


def test_arguments() -> None:
    found = parser().arguments(["a.csv", "--seeds", "3", "--load", "0.5"])
    assert (found.file, found.seeds, found.load) == ("a.csv", 3, 0.5)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["a", "--seed", "3"], "unknown option '--seed'; nearest valid name: '--seeds'"),
        (["a", "--sedes=3"], "unknown option '--sedes=3'; nearest valid name: '--seeds'"),
        (["a", "--seeds", "3.5"], "--seeds: '3.5' is not an integer"),
        (["a", "--load", "much"], "--load: 'much' is not a number"),
        (["--zzz"], "unknown option '--zzz'; tool.py --help tells all"),
        (["a", "b"], "unknown argument 'b'; tool.py --help tells all"),
        (["a", "--load"], "--load: expected one argument"),
        ([], "the following arguments are required: file"),
    ],
)
def test_bad_arguments(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        parser().arguments(words)
    assert str(error.value) == message


def raising(error: BaseException) -> Callable[[], int]:
    def command() -> int:
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (ConfigError("rate: 0 is\n  outside (0, inf)"), 2, "error: rate: 0 is outside (0, inf)"),
        (EngineError("died"), 1, "error: died"),
        (OSError(28, "No space left", "a.json"), 1, "error: a.json: No space left"),
        (OSError("short write"), 1, "error: file: short write"),
        (KeyboardInterrupt(), 130, "interrupted: go on with it"),
    ],
)
def test_exit_codes(
    capsys: pytest.CaptureFixture[str], error: BaseException, code: int, line: str
) -> None:
    assert run_command(raising(error), "go on with it") == code
    assert capsys.readouterr().err == line + "\n"


def test_what_a_command_returns_is_kept(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(lambda: 3, "") == 3
    assert run_command(lambda: say(3, "refused:\nno"), "") == 3
    assert capsys.readouterr().err == "refused: no\n"


def test_a_mistake_of_ours_is_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError):
        run_command(lambda: 1 // 0, "")


def test_a_tool_of_this_environment_is_named_as_it_can_be_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    binaries = tmp_path / ".venv" / "bin"
    binaries.mkdir(parents=True)
    (binaries / "tensorboard").touch()
    monkeypatch.setattr(sys, "executable", str(binaries / "python"))
    monkeypatch.chdir(tmp_path)
    found = tool_command("tensorboard", "--logdir", "my runs")
    assert found == ".venv/bin/tensorboard --logdir 'my runs'"
    monkeypatch.chdir("/")
    assert tool_command("tensorboard").endswith("/.venv/bin/tensorboard")
    assert tool_command("other") == "other"  # where it is, nobody knows


@pytest.mark.parametrize("name", ["", "file"])
def test_what_is_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    with pytest.raises(ConfigError, match=r"--out: .* expected a folder"):
        folder("--out", name)
    assert folder("--out", "new") == Path("new")


@pytest.mark.parametrize(("number", "text"), [(0, "0 windows"), (1, "1 window"), (2, "2 windows")])
def test_counted(number: int, text: str) -> None:
    assert counted(number, "window") == text


def interrupted_while_importing(name: str) -> ModuleType:
    raise KeyboardInterrupt


def test_ctrl_c_while_a_command_is_imported(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib, "import_module", interrupted_while_importing)
    with pytest.raises(SystemExit) as end:
        start("agents.cli.train")
    assert end.value.code == 130
    assert capsys.readouterr().err == "interrupted\n"


COMMANDS = [
    *("compare", "evaluate", "export_policy", "fit_default_policy", "fit_latency"),
    *("gpu_run", "serve", "soak", "train"),
]


@pytest.mark.parametrize("name", COMMANDS)
def test_a_script_imports_nothing_before_it_can_be_interrupted(name: str) -> None:
    """What it starts is there, and all it imports itself is the start."""
    text = (Path(__file__).parents[3] / "scripts" / f"{name}.py").read_text(encoding="utf-8")
    tree = ast.parse(text)
    imports = [node for node in ast.walk(tree) if isinstance(node, (ast.Import, ast.ImportFrom))]
    assert [ast.unparse(node) for node in imports] == ["from agents.cli._start import start"]
    (call,) = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    module = ast.literal_eval(call.args[0])
    found = importlib.util.find_spec(module)
    assert found is not None and found.origin is not None
    assert "\ndef main(" in Path(found.origin).read_text(encoding="utf-8")
