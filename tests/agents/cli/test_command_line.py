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

from agents.cli._command import (
    Parser,
    folder,
    json_file,
    made_folder,
    number,
    run_command,
    say,
    tool_command,
    whole,
)
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


NO_FILES = [
    ("policy.yaml", "policy.yaml must be a file ending in .json, in a folder that exists"),
    ("none/a.json", "none/a.json must be a file ending in .json, in a folder that exists"),
    ("folder.json", "folder.json must be a file ending in .json, in a folder that exists"),
    ("/proc/a.json", "/proc/a.json cannot be written: No such file or directory"),
    ("a" * 300 + ".json", ".json cannot be written: File name too long"),
    ("a" * 245 + ".json", ".json cannot be written: File name too long"),  # what is written first
]


@pytest.mark.parametrize(("name", "message"), NO_FILES)
def test_what_is_no_file_to_be_written(
    name: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("folder.json").mkdir()
    with pytest.raises(ConfigError) as error:
        json_file("--out", name)
    assert str(error.value).startswith("--out: ")
    assert str(error.value).endswith(message)
    assert [path.name for path in tmp_path.iterdir()] == ["folder.json"]


def test_a_file_that_can_be_written_is_left_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert json_file("--out", tmp_path / "new.json") == tmp_path / "new.json"
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "old.json").write_text("old")
    json_file("--out", tmp_path / "old.json")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]
    monkeypatch.setattr("os.access", lambda *_: False)  # root may write everything
    with pytest.raises(ConfigError, match=r"old\.json cannot be written: Permission denied"):
        json_file("--out", tmp_path / "old.json")


def test_a_folder_to_which_nothing_can_be_written(tmp_path: Path) -> None:
    made_folder("--out", tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []
    for path in (Path("/proc"), Path("/proc/new")):
        with pytest.raises(ConfigError, match=f"--out: {path} cannot be written: No such file"):
            made_folder("--out", path)


@pytest.mark.parametrize(
    ("module", "words"),
    [
        ("check_fidelity", "--workload paper_mix"),
        ("export", "no_run"),
        ("fit_latency", "no_steps.jsonl --like llama3-8b_h100"),
        ("tuner_cost", "--url http://127.0.0.1:1"),
        ("project.benchmark", ""),
        ("project.fit_default_policy", ""),
    ],
)
def test_a_file_that_cannot_be_written_is_told_before_any_work(
    module: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    main = importlib.import_module(f"agents.cli.{module}").main
    assert main([*words.split(), "--out", "/proc/x.json"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: --out: /proc") and error.count("\n") == 1
    assert "cannot be written" in error


@pytest.mark.parametrize(
    ("module", "words"),
    [
        ("compare", "--tasks paper_overload --agents default"),
        ("evaluate", "--workload paper_mix --policies fcfs"),
        ("gpu_run", "--simulate"),
        ("policy_study", "--only paper_mix"),
        ("project.fidelity_grid", "--rows orders"),
        ("project.work_study", "hints"),
        ("schema", ""),
        ("soak", "--policy ewsjf --simulate llama3-8b_h100 --model-folder {} --"),
    ],
)
def test_a_folder_that_cannot_be_written_is_told_before_any_work(
    module: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main = importlib.import_module(f"agents.cli.{module}").main
    assert main(["--out", "/proc", *words.format(tmp_path / "model").split()]) == 2
    error = capsys.readouterr().err
    assert error == "error: --out: /proc cannot be written: No such file or directory\n"


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
